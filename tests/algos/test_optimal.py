"""The solved policy: by hand, against a second solver, and against what the families say is the optimum."""

import gymnasium as gym
import numpy as np
import pytest

from metagym.algos import Optimal
from metagym.algos.base import GradientLearner, Policy
from metagym.algos.optimal import greedy_actions
from metagym.distributions import TaskDistribution
from metagym.envs.frozen_lake import FrozenLake
from metagym.errors import ConfigError
from metagym.evaluation import evaluate
from metagym.registry import BUILTIN, family_type, make_family
from metagym.tabular import TabularFamily

LAKE = "MetaFrozenLake-v0"
TABULAR = [env_id for env_id in BUILTIN if issubclass(family_type(env_id)[0], TabularFamily)]
RANDOM = {"MetaFrozenLake-v0", "MetaTwoStep-v0"}
RANDOM_STARTS = {"MetaTaxi-v0", "MetaKeyToDoor-v0"}


@pytest.mark.parametrize("env_id", TABULAR)
def test_it_earns_what_the_family_says_is_the_optimum(env_id):
    chance = env_id in RANDOM | RANDOM_STARTS
    num_tasks, episodes = (20, 8) if chance else (8, 2)
    curve = evaluate(Optimal(env=env_id), env_id, split="train", n_tasks=num_tasks, episodes=episodes, seed=5)
    assert (curve.name, curve.settings["kind"]) == ("Optimal", "revealed")
    if not chance:
        np.testing.assert_allclose(curve.scores[0], np.repeat(curve.optimal[:, None], episodes, axis=1), atol=1e-6)
        return
    spread = np.sqrt((curve.scores[0].var(axis=1, ddof=1) / episodes).sum()) / num_tasks
    assert curve.scores.mean() == pytest.approx(curve.optimal.mean(), abs=3.5 * max(spread, 1e-9))


def test_a_slippery_lake_by_exhaustive_search_over_plans():
    family = FrozenLake(size=4)
    params = family.params_of(TaskDistribution(family).sample(np.random.default_rng(3), 2))
    dense = family.dense(params)
    actions = greedy_actions(family, params)
    for task in range(2):

        def value(state, left, task=task):
            """By recursion forwards, with at most three steps to go."""
            if left == 0:
                return 0.0
            return max(worth(state, action, left) for action in range(4))

        def worth(state, action, left, task=task):
            total = 0.0
            for outcome in range(dense.probability.shape[3]):
                at = (task, state, action, outcome)
                after = 0.0 if dense.terminated[at] else value(int(dense.successor[at]), left - 1)
                total += dense.probability[at] * (dense.reward[at] + after)
            return total

        for left in (1, 2, 3):
            for state in range(16):
                best = value(state, left)
                assert worth(state, int(actions[task, left - 1, state]), left) == pytest.approx(best, abs=1e-12)


def test_the_clock_counts_where_time_runs_out():
    family = make_family("MetaCliffWalking-v0")
    params = family.params_of(TaskDistribution(family).sample(np.random.default_rng(0), 3))
    actions = greedy_actions(family, params)
    assert actions.shape == (3, family.episode_length, len(family.successors))
    assert (actions[:, 0] != actions[:, -1]).any()


def test_rows_are_independent_of_each_other_and_of_their_number():
    agent = Optimal(env=LAKE)
    rows = gym.make_vec(LAKE, num_envs=5)
    shown = np.stack([agent.make_env(task).reset(seed=0)[0] for task in rows.unwrapped.sample_tasks(5)])
    together, state = agent.predict(shown)
    alone = [agent.predict(one) for one in shown]
    assert together.tolist() == [int(action) for action, _ in alone]
    assert alone[0][0].shape == ()
    assert [part[:1].tolist() for part in state] == [part.tolist() for part in alone[0][1]]
    again, _ = agent.predict(shown, state, np.ones(5, np.bool_))
    assert again.tolist() == together.tolist()


def test_states_that_look_alike_are_told_apart_by_how_they_were_reached():
    env_id = "MetaKeyToDoor-v0"
    agent = Optimal(env=env_id)
    family = agent.family
    assert len(np.unique(np.asarray(family.observations), axis=0)) < len(family.successors)
    curve = evaluate(agent, env_id, n_tasks=20, episodes=3)
    np.testing.assert_allclose(curve.scores[0], np.repeat(curve.optimal[:, None], 3, axis=1))


def test_it_has_the_interface_of_the_learners():
    agent = Optimal("MlpPolicy", gym.make_vec(LAKE, num_envs=2), seed=3)
    agent.set_random_seed(1)
    assert agent.learn(1000, progress_bar=True) is agent
    assert agent.num_timesteps == 0
    assert isinstance(agent, Policy)
    assert not isinstance(agent, GradientLearner)
    assert agent.observation_space.contains(agent.make_env(split="ood").reset()[0])


def test_keywords_reach_the_family():
    agent = Optimal(env=LAKE, env_kwargs={"size": 5})
    assert agent.family.size == 5
    curve = evaluate(agent, LAKE, env_kwargs={"size": 5}, n_tasks=3, episodes=1)
    assert curve.scores.shape == (1, 3, 1)


@pytest.mark.parametrize("env", ["MetaPointGoal-v0", "MetaBandit-v0", "CartPole-v1", None])
def test_families_without_tables_are_refused(env):
    with pytest.raises(ConfigError, match=r"dynamics are tables.*MetaFrozenLake-v0.*; got"):
        Optimal(env=env)


def test_observations_of_other_envs_are_refused():
    agent = Optimal(env=LAKE)
    shown = agent.make_env().reset()[0]
    shown[:16] = 0.0
    agent.predict(shown)  # one-hot vectors have a largest entry in any case
    boxed = Optimal(env="MetaGridNavi-v0")
    shown = boxed.make_env().reset()[0]
    shown[:2] = -7.5
    with pytest.raises(ConfigError, match="no state of GridNavi looks like"):
        boxed.predict(shown)
