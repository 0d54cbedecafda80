import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from metagym.algos.references import Random
from metagym.errors import ConfigError

BOX = spaces.Box(np.array([-1.0, 2.0], np.float32), np.array([1.0, 5.0], np.float32))
VIEW = spaces.Box(-1.0, 1.0, (3,), np.float32)


def test_random_takes_every_discrete_action_equally_often():
    th.manual_seed(0)
    learner = Random.of_spaces(VIEW, spaces.Discrete(4, start=2))
    actions, _ = learner.predict(np.zeros((4000, 3), np.float32))
    assert actions.shape == (4000,)
    values, counts = np.unique(actions, return_counts=True)
    assert values.tolist() == [2, 3, 4, 5]
    assert counts.min() > 1000 - 5 * np.sqrt(750)


def test_random_fills_a_box_evenly():
    th.manual_seed(0)
    actions, _ = Random.of_spaces(VIEW, BOX).predict(np.zeros((2000, 3), np.float32))
    assert actions.dtype == np.float32
    assert all(BOX.contains(action) for action in actions)
    assert actions.mean(axis=0) == pytest.approx([0.0, 3.5], abs=0.1)
    assert actions.min(axis=0) == pytest.approx([-1.0, 2.0], abs=0.05)


def test_one_observation_gives_one_action_in_the_space():
    for space in (spaces.Discrete(3), BOX):
        action, _ = Random.of_spaces(spaces.Discrete(5), space).predict(np.int64(2))
        assert space.contains(action if action.shape else np.int64(action))


def test_random_is_reproducible_from_its_seed():
    learner = Random(env="CartPole-v1", seed=7)
    first, _ = learner.predict(np.zeros((50, 4), np.float32))
    again, _ = Random(env="CartPole-v1", seed=7).predict(np.zeros((50, 4), np.float32))
    other, _ = Random(env="CartPole-v1", seed=8).predict(np.zeros((50, 4), np.float32))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_random_takes_the_spaces_of_one_row_of_a_vector_env():
    venv = gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync")
    learner = Random("MlpPolicy", venv)
    assert learner.observation_space == venv.single_observation_space
    assert learner.action_space == spaces.Discrete(2)
    venv.close()


def test_random_learns_nothing_and_passes_its_state_on():
    learner = Random(env="CartPole-v1")
    assert learner.learn(1000, progress_bar=False) is learner
    assert learner.adapt(object(), total_timesteps=10) is learner
    assert learner.num_timesteps == 0
    assert learner.predict(np.zeros(4, np.float32), state="memory")[1] == "memory"


def test_binary_actions_are_fair_coins():
    actions, _ = Random.of_spaces(VIEW, spaces.MultiBinary(3)).predict(np.zeros((4000, *VIEW.shape), VIEW.dtype))
    assert actions.shape == (4000, 3)
    assert actions.dtype == np.int8
    # Standard deviation of the mean: 0.0079.
    assert np.abs(actions.mean(axis=0) - 0.5).max() < 0.032


@pytest.mark.parametrize("space", [spaces.Box(-np.inf, np.inf, (2,)), spaces.Text(3)])
def test_spaces_without_a_uniform_distribution_are_refused(space):
    with pytest.raises(ConfigError, match="MultiBinary or bounded Box"):
        Random.of_spaces(VIEW, space)


def test_random_without_an_env_is_refused():
    with pytest.raises(ConfigError, match="got None"):
        Random("MlpPolicy")
