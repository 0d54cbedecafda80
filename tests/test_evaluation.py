import random

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from metagym.algos.references import Random
from metagym.distributions import TaskDistribution
from metagym.engine import TaskEnv, TaskVectorEnv
from metagym.envs.frozen_lake import FrozenLake
from metagym.errors import ConfigError, TaskError
from metagym.evaluation import evaluate
from metagym.tasks import Task, TaskSet
from metagym.wrappers import RL2Context, Trial

LAKE = FrozenLake(size=4)
CONTEXT = RL2Context(Trial(TaskEnv(LAKE), episodes_per_trial=1)).observation_space


class Walker:
    """Sees the cell, goes down or right by its parity; a seeded part of its actions is random if it samples."""

    observation_space, action_space = LAKE.observation_space, LAKE.action_space

    def __init__(self, shift=0):
        self.shift = shift
        self.starts = []

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        steps = np.zeros(np.shape(observation), np.int64) if state is None else state[0]
        steps = np.where(episode_start, 0, steps)
        self.starts.append(episode_start)
        actions = 1 + (observation + steps + self.shift) % 2
        if not deterministic:
            actions = np.where(th.rand(np.shape(observation)).numpy() < 0.2, 3, actions)
        return actions, (steps + 1,)


class Rememberer:
    """A learner with memory: counts its steps since the trial began, and the rewards of the context."""

    observation_space, action_space = CONTEXT, LAKE.action_space

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        count = np.zeros(len(observation)) if state is None else state[0]
        count = np.where(episode_start, 0.0, count) + 1.0 + 5.0 * observation[:, -2]
        cells = observation[:, :16].argmax(axis=1)
        return (1 + (cells + (count // 3).astype(np.int64)) % 2).astype(np.int64), (count,)


class Adapter(Walker):
    """Adapts by gradient: what it becomes depends on the budget; it keeps account of what was asked for."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def adapt(self, task, *, total_timesteps):
        self.calls.append((task, total_timesteps, th.rand(1).item()))
        return Walker(shift=total_timesteps // LAKE.episode_length)


def drawn(seed, n, split="test"):
    return TaskDistribution(LAKE).part(split).sample(np.random.default_rng(seed), n)


def play_by_hand(policy, task, seed, episodes):
    """Episodes of one task in the scalar env, one step at a time."""
    env = TaskEnv(LAKE, split=None)
    env.set_task(task)
    returns = []
    observation, _ = env.reset(seed=seed)
    for _ in range(episodes):
        total, over, state = 0.0, False, None
        starts = np.array([True])
        while not over:
            action, state = policy.predict(np.array([observation]), state, starts, True)
            observation, reward, terminated, truncated, _ = env.step(action[0])
            total, over, starts = total + reward, terminated or truncated, np.array([False])
        returns.append(total)
        observation, _ = env.reset()
    return returns


def seeds_of(seed, n, *stream):
    return np.random.default_rng([seed, *stream]).integers(2**31, size=n).tolist()


def test_scores_are_those_of_a_scalar_loop_driven_by_hand():
    curve = evaluate(Walker(), LAKE, n_tasks=12, episodes=3, seed=5, deterministic=True)
    expected = [
        play_by_hand(Walker(), task, seed, 3) for task, seed in zip(drawn(5, 12), seeds_of(5, 12, 1, 0), strict=True)
    ]
    assert curve.scores.shape == (1, 12, 3)
    assert curve.scores[0].tolist() == expected
    assert 0.0 < curve.scores.mean() < 1.0


def test_scores_with_memory_are_those_of_scalar_trials_driven_by_hand():
    curve = evaluate(Rememberer(), LAKE, n_tasks=12, episodes=4, seed=6)
    for row, (task, seed) in enumerate(zip(drawn(6, 12), seeds_of(6, 12, 1, 0), strict=True)):
        env = RL2Context(Trial(TaskEnv(LAKE, split=None), episodes_per_trial=4))
        env.unwrapped.set_task(task)
        observation, _ = env.reset(seed=seed)
        returns, over, state, starts = [], False, None, np.array([True])
        while not over:
            action, state = Rememberer().predict(observation[None], state, starts)
            observation, _, over, _, info = env.step(action[0])
            starts = np.array([False])
            if info["episode_end"]:
                returns.append(info["last_episode_return"])
        assert curve.scores[0, row].tolist() == returns
    assert curve.settings["kind"] == "memory"
    assert 0.0 < curve.scores.mean() < 1.0


def test_first_episode_of_a_trial_without_use_of_memory_is_the_first_bare_episode():
    class Memoryless(Rememberer):
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return 1 + observation[:, :16].argmax(axis=1) % 2, None

    class Bare(Walker):
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return 1 + observation % 2, None

    trial = evaluate(Memoryless(), LAKE, n_tasks=10, episodes=3)
    bare = evaluate(Bare(), LAKE, n_tasks=10, episodes=3)
    assert np.array_equal(trial.scores, bare.scores)


def test_episode_start_marks_the_first_step_of_every_episode():
    walker = Walker()
    evaluate(walker, LAKE, n_tasks=1, episodes=3, deterministic=True)
    starts = np.concatenate(walker.starts)
    assert starts.sum() == 3
    assert starts[0]


def test_gradient_learner_is_adapted_with_the_budget_of_each_entry():
    learner = Adapter()
    curve = evaluate(learner, LAKE, n_tasks=3, episodes=4, seed=2, eval_episodes=5, deterministic=True)
    tasks = drawn(2, 3)
    length = LAKE.episode_length
    asked = [(task, steps) for task, steps, _ in learner.calls]
    assert asked == [(task, budget * length) for task in tasks for budget in (1, 2, 3)]
    assert len({noise for _, _, noise in learner.calls}) == 9
    for row, task in enumerate(tasks):
        for budget in (1, 2, 3):
            seeds = seeds_of(2, 5, 1, 0, row, budget)
            returns = [play_by_hand(Walker(budget), task, seed, 1)[0] for seed in seeds]
            assert curve.scores[0, row, budget] == np.mean(returns)
    before = [
        np.mean(play_by_hand(Walker(), task, seed, 5)) for task, seed in zip(tasks, seeds_of(2, 3, 1, 0), strict=True)
    ]
    assert curve.scores[0, :, 0].tolist() == before
    assert (curve.settings["kind"], curve.settings["eval_episodes"]) == ("gradient", 5)


def test_evaluation_is_a_function_of_its_arguments():
    first = evaluate(Walker(), LAKE, n_tasks=8, episodes=3, seed=1)
    th.rand(5)
    assert np.array_equal(first.scores, evaluate(Walker(), LAKE, n_tasks=8, episodes=3, seed=1).scores)
    other = evaluate(Walker(), LAKE, n_tasks=8, episodes=3, seed=2)
    assert not np.array_equal(first.task_ids, other.task_ids)


def test_global_generators_are_left_as_they_were():
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    th.manual_seed(1)
    expected = (random.getstate(), np.random.get_state()[1].tolist(), th.get_rng_state().tolist())  # noqa: NPY002

    class Noisy(Adapter):
        def adapt(self, task, *, total_timesteps):
            random.seed(5)
            np.random.seed(5)  # noqa: NPY002
            th.manual_seed(5)
            return super().adapt(task, total_timesteps=total_timesteps)

    evaluate(Noisy(), LAKE, n_tasks=2, episodes=2, eval_episodes=2)
    assert expected == (random.getstate(), np.random.get_state()[1].tolist(), th.get_rng_state().tolist())  # noqa: NPY002


def test_global_generators_are_put_back_when_a_learner_fails():
    class Broken(Walker):
        def predict(self, *_):
            th.rand(3)
            raise RuntimeError("broken")

    before = th.get_rng_state()
    with pytest.raises(RuntimeError, match="broken"):
        evaluate(Broken(), LAKE, n_tasks=2, episodes=2)
    assert th.equal(before, th.get_rng_state())


def test_every_learner_meets_the_same_tasks_and_none_depends_on_its_companions():
    pair = evaluate([Walker(0), Walker(1)], LAKE, n_tasks=9, episodes=2)
    other = evaluate([Walker(1), Walker(1)], LAKE, n_tasks=9, episodes=2)
    alone = evaluate(Walker(0), LAKE, n_tasks=9, episodes=2)
    memory = evaluate(Rememberer(), LAKE, n_tasks=9, episodes=2)
    assert pair.scores.shape == (2, 9, 2)
    assert np.array_equal(pair.scores[:1], alone.scores)
    assert np.array_equal(pair.scores[1], other.scores[1])
    for curve in (pair, other, alone, memory):
        assert curve.task_ids.tolist() == [task.id for task in drawn(0, 9)]


def test_luck_differs_between_runs():
    for kind in (Walker, Rememberer):
        scores = evaluate([kind(), kind()], LAKE, n_tasks=40, episodes=2, deterministic=True).scores
        assert not np.array_equal(scores[0], scores[1])


def test_tasks_come_from_the_asked_split():
    for split in ("train", "test", "ood"):
        curve = evaluate(Walker(), LAKE, split=split, n_tasks=4, episodes=1)
        assert curve.task_ids.tolist() == [task.id for task in drawn(0, 4, split)]
        assert curve.split == split


def test_given_tasks_are_played_instead_of_drawn_ones(tmp_path):
    tasks = drawn(77, 3)
    curve = evaluate(Walker(), LAKE, tasks=TaskSet(tasks), episodes=2)
    assert (curve.split, curve.num_tasks) == ("given", 3)
    assert curve.task_ids.tolist() == [task.id for task in tasks]
    assert type(curve).load(curve.save(tmp_path / "curve")).split == "given"


def test_limits_are_those_of_the_family():
    curve = evaluate(Random.of_spaces(LAKE.observation_space, LAKE.action_space), LAKE, n_tasks=5, episodes=2)
    params = LAKE.params_of(drawn(0, 5))
    assert np.array_equal(curve.optimal, LAKE.optimal_return(params))
    assert np.array_equal(curve.random, LAKE.random_return(params))
    assert curve.settings["random"] == "exact"


def test_random_learner_earns_what_the_family_computes_for_random_actions():
    learner = Random.of_spaces(LAKE.observation_space, LAKE.action_space)
    curve = evaluate(learner, LAKE, n_tasks=100, episodes=60, seed=3)
    spread = curve.scores[0].std(axis=1).mean() / np.sqrt(100 * 60)
    assert curve.scores.mean() == pytest.approx(curve.random.mean(), abs=4 * spread)
    assert curve.name == "Random"


def test_where_the_family_knows_no_random_return_it_is_simulated(monkeypatch):
    exact = evaluate(Walker(), LAKE, n_tasks=60, episodes=1).random
    monkeypatch.setattr(type(LAKE), "random_return", lambda self, params: None)
    curve = evaluate(Walker(), LAKE, n_tasks=60, episodes=1)
    assert curve.settings["random"] == "simulated"
    assert curve.random.mean() == pytest.approx(exact.mean(), abs=0.02)
    assert np.array_equal(curve.random, evaluate(Walker(), LAKE, n_tasks=60, episodes=1).random)


def test_family_may_be_given_by_id():
    by_id = evaluate(Walker(), "MetaFrozenLake-v0", n_tasks=4, episodes=2, env_kwargs={"size": 4}, name="walk")
    assert by_id.env_id == "MetaFrozenLake-v0"
    assert by_id.name == "walk"
    assert by_id.settings["env_kwargs"] == {"size": 4}
    assert np.array_equal(by_id.scores, evaluate(Walker(), LAKE, n_tasks=4, episodes=2).scores)


def test_plain_sb3_model_is_evaluated_episode_by_episode():
    from stable_baselines3 import PPO

    th.set_num_threads(1)
    model = PPO("MlpPolicy", gym.make("MetaFrozenLake-v0", size=4), n_steps=8, batch_size=8, seed=0)
    curve = evaluate(model, LAKE, n_tasks=5, episodes=2)
    assert curve.scores.shape == (1, 5, 2)
    assert (curve.name, curve.settings["kind"]) == ("PPO", "fixed")
    assert np.array_equal(curve.scores, evaluate(model, LAKE, n_tasks=5, episodes=2).scores)


def test_progress_goes_to_the_end_of_the_bar(capsys):
    evaluate([Adapter(), Adapter()], LAKE, n_tasks=2, episodes=3, eval_episodes=1, progress_bar=True)
    assert "8/8" in capsys.readouterr().err


def wide_walker():
    walker = Walker()
    walker.observation_space = spaces.Discrete(64)
    return walker


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evaluate(Walker(), "MetaNothing-v0"), "'MetaNothing-v0' is no id of a family"),
        (lambda: evaluate(Walker(), "CartPole-v1"), "'CartPole-v1'"),
        (lambda: evaluate(Walker(), TaskVectorEnv(LAKE)), "got TaskVectorEnv"),
        (lambda: evaluate(Walker(), LAKE, env_kwargs={"size": 4}), "built already"),
        (lambda: evaluate(Walker(), LAKE, n_tasks=0), "n_tasks must be an integer of at least 1, got 0"),
        (lambda: evaluate(Walker(), LAKE, episodes=-1), "episodes must be an integer of at least 1, got -1"),
        (lambda: evaluate(Walker(), LAKE, eval_episodes=True), "eval_episodes .* got True"),
        (lambda: evaluate(Walker(), LAKE, seed=-1), "seed must be an integer of at least 0, got -1"),
        (lambda: evaluate(Walker(), LAKE, tasks=[]), "tasks must hold at least one task"),
        (lambda: evaluate(Walker(), LAKE, split="dev"), "'dev'"),
        (lambda: evaluate([], LAKE), "got none"),
        (lambda: evaluate([Walker(), Rememberer()], LAKE), r"\['fixed', 'memory'\]"),
        (lambda: evaluate(object(), LAKE), r"object has none"),
        (lambda: evaluate(wide_walker(), LAKE), r"Discrete\(64\).*Discrete\(16\)"),
    ],
)
def test_bad_arguments_are_refused_by_name(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


def test_tasks_of_another_family_are_refused():
    with pytest.raises(TaskError, match="'Other'"):
        evaluate(Walker(), LAKE, tasks=[Task("Other", {"map": np.zeros(3)})])
