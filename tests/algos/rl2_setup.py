"""What the tests of RL² share: small learners, and comparisons of them."""

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium.vector import AutoresetMode

from metagym.algos.rl2 import RL2

LAKE = "MetaFrozenLake-v0"
BANDIT = "MetaBandit-v0"
SMALL = {"n_envs": 3, "n_steps": 8, "batch_size": 12, "n_epochs": 2, "policy_kwargs": {"rnn_hidden_size": 4}}


def lake(**kwargs):
    settings = {"episodes_per_trial": 2, "seed": 0, "env_kwargs": {"size": 4}, **SMALL}
    return RL2("MlpPolicy", LAKE, **settings | kwargs)


def vector_lake(n_envs=3, mode=AutoresetMode.SAME_STEP):
    return gym.make_vec(LAKE, num_envs=n_envs, autoreset_mode=mode, size=4)


def parameters(agent):
    return {name: p.detach().clone() for name, p in agent.policy.named_parameters()}


def assert_same_parameters(agent, expected):
    for name, parameter in agent.policy.named_parameters():
        assert th.equal(parameter, expected[name]), name


def observations(agent, n=5):
    return np.random.default_rng(0).random((n, *agent.observation_space.shape), np.float32)


def assert_predicts_alike(one, other):
    seen = observations(one)
    state = other_state = None
    for _ in range(3):
        actions, state = one.predict(seen, state, deterministic=True)
        other_actions, other_state = other.predict(seen, other_state, deterministic=True)
        np.testing.assert_array_equal(actions, other_actions)
        np.testing.assert_array_equal(state[0], other_state[0])
