"""The oracle control sees the task in training, in evaluation and in envs of its own."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from sb3_contrib import QRDQN, TRPO
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.evaluation import evaluate_policy

from metagym.algos import GradientLearner, JointTraining, RevealedTask
from metagym.errors import ConfigError
from metagym.evaluation import evaluate
from metagym.wrappers import RevealTask, VectorEnvAdapter
from tests.algos.multi_task_setup import LAKE, POINT, tiny
from tests.algos.reptile_setup import line_env


def told(learner_class=PPO, **kwargs):
    return tiny(learner_class, kind=RevealedTask, **kwargs)


@pytest.mark.parametrize("learner_class", [PPO, A2C, DQN, SAC, QRDQN, TRPO])
def test_every_learner_trains_and_is_evaluated_with_the_task_in_view(learner_class):
    env_id = POINT if learner_class is SAC else LAKE
    agent = told(learner_class, env=env_id).learn(100)
    expected = RevealTask(gym.make(env_id)).observation_space
    assert agent.observation_space == expected
    assert agent.make_env().reset()[0].shape == expected.shape
    curve = evaluate(agent, env_id, n_tasks=3, episodes=2, seed=1)
    assert (curve.name, curve.settings["kind"], curve.scores.shape) == ("RevealedTask", "revealed", (1, 3, 2))
    assert np.array_equal(curve.scores, evaluate(agent, env_id, n_tasks=3, episodes=2, seed=1).scores)
    assert not isinstance(agent, GradientLearner)


def test_what_it_sees_in_training_is_the_task_that_each_row_plays():
    agent = told(env=LAKE, n_envs=6)
    seen = agent.env.reset()
    native = agent.env.unwrapped.env
    for row, task in enumerate(native.get_tasks()):
        flat = spaces.flatten(native.single_task_space, dict(task)).astype(np.float32)
        assert seen[row, 16:].tolist() == flat.tolist()
        assert seen[row, :16].sum() == 1.0


class Oracle:
    """Walks to the goal, which it reads off the task, without a look at anything else."""

    observation_space = RevealTask(gym.make(POINT)).observation_space
    action_space = gym.make(POINT).action_space

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        names = list(gym.make(POINT).unwrapped.task_space)
        assert names == ["goal"]
        step = observation[:, 2:4] - observation[:, :2]
        return np.clip(step, self.action_space.low, self.action_space.high).astype(np.float32), state


def test_evaluation_shows_the_tasks_that_are_played():
    curve = evaluate(Oracle(), POINT, n_tasks=20, episodes=1)
    assert curve.settings["kind"] == "revealed"
    np.testing.assert_allclose(curve.scores[0, :, 0], curve.optimal, atol=0.05)


def test_a_plain_learner_of_sb3_that_saw_the_task_is_evaluated_so_too():
    rows = RevealTask(gym.make_vec(LAKE, num_envs=4, autoreset_mode=AutoresetMode.SAME_STEP))
    model = PPO(
        "MlpPolicy", VectorEnvAdapter(rows), n_steps=8, batch_size=8, policy_kwargs={"net_arch": [8]}, device="cpu"
    )
    curve = evaluate(model, LAKE, n_tasks=3, episodes=2)
    assert (curve.name, curve.settings["kind"]) == ("PPO", "revealed")


def test_runs_that_see_different_things_are_no_runs_of_one_method():
    with pytest.raises(ConfigError, match=r"\['fixed', 'revealed'\]"):
        evaluate([told(env=LAKE), PPO("MlpPolicy", gym.make(LAKE), device="cpu")], LAKE)


def test_a_view_that_is_none_of_these_is_refused_with_those_that_are():
    with pytest.raises(ConfigError, match=r"(?s)RevealedTask sees .* offers .* with RevealTask"):
        evaluate(told(env=POINT), LAKE)


def test_an_env_of_its_own_plays_the_task_given():
    agent = told(env=LAKE)
    task = agent.make_env(split="test").sample_task()
    env = agent.make_env(task)
    observation, _ = env.reset(seed=0)
    assert env.get_task() == task
    assert agent.observation_space.contains(observation)
    evaluate_policy(agent, env, 2, warn=False)


@pytest.mark.parametrize(
    "env",
    [
        lambda: gym.make(LAKE),
        lambda: gym.make_vec(LAKE, num_envs=4, autoreset_mode=AutoresetMode.SAME_STEP),
        lambda: gym.wrappers.TimeLimit(gym.make(POINT), 7),
    ],
    ids=["scalar", "vector", "wrapped"],
)
def test_envs_of_tasks_are_extended_wherever_they_come_from(env):
    given = env()
    agent = told(env=given).learn(64)
    expected = RevealTask(gym.make(given.unwrapped.spec.id)).observation_space
    assert agent.observation_space == expected


@pytest.mark.parametrize("env", [line_env, lambda: JointTraining("MlpPolicy", LAKE).env])
def test_an_env_that_cannot_be_extended_is_refused(env):
    with pytest.raises(ConfigError, match="RevealedTask needs an id"):
        told(env=env())


@pytest.mark.slow
def test_who_is_told_the_goal_does_better_than_who_is_not():
    kwargs = {"learner_kwargs": {"n_steps": 100, "batch_size": 400, "n_epochs": 4, "learning_rate": 1e-3}, "n_envs": 16}
    scores = [
        evaluate(kind("MlpPolicy", POINT, seed=0, device="cpu", **kwargs).learn(200_000), POINT, n_tasks=20, episodes=1)
        for kind in (RevealedTask, JointTraining)
    ]
    assert scores[0].scores.mean() > scores[1].scores[..., 0].mean() + 5.0
