"""Tiny envs and Reptiles, and how two states are compared."""

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from metagym.algos.reptile import Reptile
from metagym.learner_state import LearnerState

POINT, LAKE = "MetaPointGoal-v0", "MetaFrozenLake-v0"
NETS = {"net_arch": [8]}
TINY = {"inner_timesteps": 32, "meta_batch_size": 2, "n_envs": 4, "policy_kwargs": NETS, "device": "cpu"}


CONTINUOUS = [PPO, A2C, TRPO, RecurrentPPO, ARS, SAC, TD3, DDPG, TQC, CrossQ]
DISCRETE = [DQN, QRDQN]


class Line(gym.Env):
    """Five steps on a line towards a hidden goal; its tasks are floats."""

    def __init__(self, discrete=False):
        self.observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = spaces.Discrete(2) if discrete else spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.task = None
        self.played = []

    def sample_task(self):
        return float(self.np_random.uniform(-1, 1))

    def set_task(self, task):
        self.task = task

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.goal = self.sample_task() if self.task is None else self.task
        self.played.append(self.goal)
        self.position, self.steps = 0.0, 0
        return np.array([self.position], np.float32), {}

    def step(self, action):
        self.steps += 1
        self.position += 2.0 * action - 1.0 if np.ndim(action) == 0 else float(action[0])
        return np.array([self.position], np.float32), -abs(self.position - self.goal), False, self.steps == 5, {}


class Plain(gym.Env):
    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, True, False, {}


def line_env(n_envs=4, seed=0, **kwargs):
    return make_vec_env(lambda: Line(**kwargs), n_envs, seed=seed)


def tiny(env=POINT, **kwargs):
    kwargs = {**TINY, **kwargs}
    if not isinstance(env, str):
        kwargs.pop("n_envs")
    if kwargs.get("learner_class", PPO) in (PPO, RecurrentPPO):
        kwargs["learner_kwargs"] = {"n_epochs": 1, **kwargs.get("learner_kwargs", {})}
    policy = "MlpLstmPolicy" if kwargs.get("learner_class") is RecurrentPPO else "MlpPolicy"
    return Reptile(policy, env, **kwargs)


def state(agent):
    return LearnerState.capture(agent.learner)


def same(left, right):
    assert left.tensors.keys() == right.tensors.keys()
    return all(th.equal(value, right.tensors[name]) for name, value in left.tensors.items())


def same_moments(left, right):
    pairs = [(left.optimizers[name]["state"], right.optimizers[name]["state"]) for name in left.optimizers]
    return all(
        a.keys() == b.keys() and all(th.equal(a[i][key], b[i][key]) for i in a for key in a[i]) for a, b in pairs
    )


def number_of_moments(learner_state):
    return sum(len(optimizer["state"]) for optimizer in learner_state.optimizers.values())


class Recorder(BaseCallback):
    def __init__(self, key=None):
        super().__init__()
        self.key, self.values, self.states, self.steps = key, [], [], []

    def _on_step(self):
        self.values.append(self.logger.name_to_value.get(self.key))
        self.states.append(LearnerState.capture(self.model.learner))
        self.steps.append(self.num_timesteps)
        return True
