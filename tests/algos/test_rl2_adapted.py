"""RL² on a new task: the memory learns, the learner stays as it is."""

import gymnasium as gym
import numpy as np
import pytest

from metagym.errors import ConfigError, TaskError
from metagym.learner_state import get_rng_state
from tests.algos.rl2_setup import assert_same_parameters, lake, parameters


def test_adapt_remembers_and_leaves_the_learner_alone():
    agent = lake().learn(48)
    task = agent.make_env(split="test").unwrapped.sample_task()
    before, rng, obs = parameters(agent), get_rng_state(), agent._last_obs.copy()
    mode, steps = agent.policy.training, agent.num_timesteps
    env_state = agent.env.venv.env.get_state()
    adapted = agent.adapt(task, episodes=3, seed=1)
    assert adapted.returns.shape == (3,)
    assert adapted.task == task
    assert_same_parameters(agent, before)
    assert agent.num_timesteps == steps
    assert agent.policy.training == mode
    np.testing.assert_array_equal(agent._last_obs, obs)
    for name, array in get_rng_state().items():
        np.testing.assert_array_equal(array, rng[name])
    for name, array in agent.env.venv.env.get_state().items():
        np.testing.assert_array_equal(array, env_state[name])
    again = agent.adapt(task, episodes=3, seed=1)
    np.testing.assert_array_equal(adapted.returns, again.returns)
    np.testing.assert_array_equal(adapted.state[0], again.state[0])


def test_an_adapted_policy_plays_on_with_its_memory():
    agent = lake()
    adapted = agent.adapt(agent.make_env(), seed=0)
    assert adapted.returns.shape == (2,)
    expected, expected_state = agent.policy.predict(adapted.observation, adapted.state, deterministic=True)
    action, state = adapted.predict(adapted.observation, deterministic=True)
    assert action == expected
    np.testing.assert_array_equal(state[0], expected_state[0])
    agent.learn(24)
    observation, *_ = adapted.env.step(action)
    adapted.predict(observation)
    assert agent.adapt(adapted.task, episodes=1).returns.shape == (1,)


def test_adapt_refuses_what_is_no_task():
    agent = lake()
    task = agent.make_env().unwrapped.sample_task()
    with pytest.raises(ConfigError, match="episodes must be an integer of at least 1, not 0"):
        agent.adapt(task, episodes=0)
    with pytest.raises(ConfigError, match="scalar metagym env, not CartPoleEnv"):
        agent.adapt(gym.make("CartPole-v1"))
    with pytest.raises(TaskError):
        agent.adapt({"nothing": 1})
