import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from metagym.algos.references import Random
from metagym.algos.reptile import Reptile
from metagym.distributions import TaskDistribution
from metagym.errors import ConfigError
from metagym.evaluation import evaluate
from metagym.protocol import Protocol
from metagym.registry import make_family
from metagym.wrappers import VectorEnvAdapter
from tests.test_evaluation import LAKE, Adapter, Rememberer, Walker, drawn


class Stepper(Adapter):
    """Adapts by gradient steps, and is told how many."""

    def adapt(self, task, *, n_steps):
        self.calls.append((task, n_steps, th.rand(1).item()))
        return Walker(shift=n_steps)


def test_entries_of_budgets_are_those_of_all_episodes():
    for make, kind in ((Adapter, "gradient"), (Rememberer, "memory"), (Walker, "fixed")):
        settings = {"n_tasks": 4, "eval_episodes": 3, "seed": 2}
        whole = evaluate(make(), LAKE, episodes=6, **settings)
        chosen = evaluate(make(), LAKE, budgets=(0, 1, 5), **settings)
        assert chosen.settings["kind"] == kind
        assert np.array_equal(chosen.scores, whole.scores[:, :, [0, 1, 5]])
        assert chosen.experience.tolist() == [0, 1, 5]
        assert whole.experience.tolist() == list(range(6))
        assert "budgets" not in whole.settings


def test_a_gradient_learner_is_adapted_once_for_each_budget_but_none():
    learner = Adapter()
    evaluate(learner, LAKE, n_tasks=2, budgets=(0, 2, 9), eval_episodes=1)
    assert [steps // LAKE.episode_length for _, steps, _ in learner.calls] == [2, 9, 2, 9]
    learner = Adapter()
    evaluate(learner, LAKE, n_tasks=2, budgets=(3,), eval_episodes=1)
    assert [steps // LAKE.episode_length for _, steps, _ in learner.calls] == [3, 3]


def test_a_learner_of_gradient_steps_gets_its_budget_in_those():
    learner = Stepper()
    curve = evaluate(learner, LAKE, n_tasks=2, episodes=4, eval_episodes=3, deterministic=True)
    assert [steps for _, steps, _ in learner.calls] == [1, 2, 3, 1, 2, 3]
    assert (curve.unit, curve.experience.tolist()) == ("gradient steps", [0, 1, 2, 3])
    same = evaluate(Adapter(), LAKE, n_tasks=2, episodes=4, eval_episodes=3, deterministic=True)
    assert same.unit == "episodes"
    assert np.array_equal(curve.scores, same.scores)


def test_learners_of_two_units_are_no_runs_of_one_method():
    with pytest.raises(ConfigError, match="'episodes', 'gradient steps'"):
        evaluate([Adapter(), Stepper()], LAKE, n_tasks=1, episodes=2)


@pytest.mark.parametrize("budgets", [(), (1, 1), (2, 1), (-1, 2), (0, 1.5), (True,)])
def test_budgets_that_make_no_sense_are_refused(budgets):
    with pytest.raises(ConfigError, match="budgets must be"):
        evaluate(Adapter(), LAKE, n_tasks=1, budgets=budgets)


def bandit_random(**kwargs):
    family = make_family("MetaBandit-v0", num_arms=2)
    learner = Random.of_spaces(family.observation_space, family.action_space)
    return family, evaluate(learner, family, n_tasks=3, **kwargs)


@pytest.mark.parametrize("split", ["test", "train", None])
def test_the_bayes_optimum_of_the_training_distribution_is_carried(split, tmp_path):
    family, curve = bandit_random(episodes=4, split=split)
    assert np.array_equal(curve.bayes, family.bayes_return(4))
    assert np.array_equal(type(curve).load(curve.save(tmp_path / "curve")).bayes, curve.bayes)
    scale = curve.optimal.mean() - curve.random.mean()
    assert curve.normalized().bayes == pytest.approx((curve.bayes - curve.random.mean()) / scale)
    assert "bayes=" in repr(curve)
    assert curve.summary()["bayes"] == curve.bayes.tolist()


def test_the_bayes_optimum_of_budgets_is_that_of_the_longest_trial():
    family, curve = bandit_random(budgets=(0, 2, 5))
    assert np.array_equal(curve.bayes, family.bayes_return(6)[[0, 2, 5]])


def test_there_is_no_bayes_optimum_of_other_tasks_nor_where_the_family_knows_none():
    family, curve = bandit_random(episodes=2, split="ood")
    assert curve.bayes is None
    learner = Random.of_spaces(family.observation_space, family.action_space)
    tasks = TaskDistribution(family).sample(np.random.default_rng(0), 2)
    assert evaluate(learner, family, tasks=tasks, episodes=2).bayes is None
    assert evaluate(Walker(), LAKE, n_tasks=2, episodes=2).bayes is None


def test_limits_of_an_earlier_result_are_taken_over(monkeypatch):
    family, first = bandit_random(episodes=3)
    for name in ("optimal_return", "random_return", "bayes_return"):
        monkeypatch.setattr(type(family), name, lambda *args: pytest.fail("computed again"))
    learner = Random.of_spaces(family.observation_space, family.action_space)
    again = evaluate(learner, family, n_tasks=3, episodes=3, limits=first)
    assert np.array_equal(again.scores, first.scores)
    for name in ("optimal", "random", "bayes"):
        assert np.array_equal(getattr(again, name), getattr(first, name))
    assert again.settings == first.settings
    for wrong in ({"episodes": 2}, {"episodes": 3, "seed": 1}):
        with pytest.raises(ConfigError, match="same tasks and entries"):
            evaluate(learner, family, n_tasks=3, limits=first, **wrong)


def test_an_env_that_was_used_before_is_as_good_as_new():
    protocol = Protocol(TaskDistribution(LAKE), drawn(0, 4), [0], "episodes", 1, 0, True)
    one = protocol._play(Walker(), drawn(1, 4), 3, 7)
    protocol._play(Walker(), drawn(2, 4), 2, 8)
    assert np.array_equal(protocol._play(Walker(), drawn(1, 4), 3, 7), one)
    assert len(protocol._bare_envs) == 1


@pytest.mark.parametrize("make", [Walker, Rememberer])
def test_progress_of_playing_counts_tasks(make, capsys):
    evaluate([make(), make()], LAKE, n_tasks=7, episodes=2, progress_bar=True)
    assert "14/14" in capsys.readouterr().err


# --- normalised observations -----------------------------------------------------------------------------------------


def normalised_points():
    envs = gym.make_vec("MetaPointGoal-v0", num_envs=4, autoreset_mode=AutoresetMode.SAME_STEP)
    return VecNormalize(VecMonitor(VectorEnvAdapter(envs)))


def first_observations(monkeypatch, learner, **kwargs):
    seen, predict = [], PPO.predict
    monkeypatch.setattr(
        PPO, "predict", lambda self, observation, *rest: seen.append(observation) or predict(self, observation, *rest)
    )
    evaluate(learner, "MetaPointGoal-v0", deterministic=True, **kwargs)
    return seen[0]


def test_a_learner_sees_observations_normalised_as_in_training(monkeypatch):
    env = normalised_points()
    model = PPO("MlpPolicy", env, n_steps=100, batch_size=400, n_epochs=1, seed=0).learn(400)
    before = env.obs_rms.mean.copy()
    seen = first_observations(monkeypatch, model, n_tasks=3, episodes=1)

    assert np.allclose(seen, env.normalize_obs(np.zeros((3, 2), np.float32)))
    assert not np.allclose(seen, 0.0)
    assert np.array_equal(env.obs_rms.mean, before)


def test_so_does_what_reptile_adapted(monkeypatch):
    env = normalised_points()
    agent = Reptile("MlpPolicy", env, inner_timesteps=400, meta_batch_size=1, seed=0).learn(400)
    seen = first_observations(monkeypatch, agent, n_tasks=1, budgets=(2,), eval_episodes=3)

    assert np.allclose(seen, env.normalize_obs(np.zeros((3, 2), np.float32)))
    assert not np.allclose(seen, 0.0)
