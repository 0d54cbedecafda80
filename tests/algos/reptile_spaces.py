"""Tiny envs of tasks with every kind of space that learners take, and which learner takes which."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3

from metagym.algos.reptile import Reptile

OBSERVATIONS = {
    "box": spaces.Box(-5.0, 5.0, (2,), np.float32),
    "image": spaces.Box(0, 255, (36, 36, 1), np.uint8),
    "dict": spaces.Dict({"place": spaces.Box(-5.0, 5.0, (2,), np.float32), "step": spaces.Discrete(5)}),
    "discrete": spaces.Discrete(5),
    "multi_discrete": spaces.MultiDiscrete([5, 3]),
    "multi_binary": spaces.MultiBinary(3),
}
ACTIONS = {
    "box": spaces.Box(-1.0, 1.0, (2,), np.float32),
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
    "multi_binary": spaces.MultiBinary(2),
}
LEARNERS = [PPO, A2C, TRPO, RecurrentPPO, MaskablePPO, ARS, DQN, QRDQN, SAC, TD3, DDPG, TQC, CrossQ]
ANY = set(ACTIONS)
TAKES = {
    PPO: ANY, A2C: ANY, TRPO: ANY, RecurrentPPO: ANY - {"multi_binary"}, MaskablePPO: ANY - {"box"},
    ARS: {"box", "discrete"}, DQN: {"discrete"}, QRDQN: {"discrete"}, SAC: {"box"}, TD3: {"box"}, DDPG: {"box"},
    TQC: {"box"}, CrossQ: {"box"},
}  # fmt: skip
VECTORS_ONLY = {ARS, CrossQ}  # they have no CnnPolicy and no MultiInputPolicy
LENGTH = 4


class Steps(gym.Env):
    """Four steps; the task is a number that the sum of the actions should be."""

    def __init__(self, observation="box", action="box"):
        self.kind, self.action = observation, action
        self.observation_space, self.action_space = OBSERVATIONS[observation], ACTIONS[action]
        self.task = None

    def sample_task(self):
        return float(self.np_random.uniform(-1, 1))

    def set_task(self, task):
        self.task = task

    def action_masks(self):
        """The first action of each choice is allowed at even steps only."""
        choices = {"discrete": [3], "multi_discrete": [3, 2], "multi_binary": [2, 2]}[self.action]
        masks = [np.arange(size) >= self.steps % 2 for size in choices]
        return np.concatenate(masks)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.goal = self.sample_task() if self.task is None else self.task
        self.steps, self.total = 0, 0.0
        return self._observe(), {}

    def step(self, action):
        if isinstance(self.action_space, spaces.Discrete):
            assert self.steps % 2 == 0 or action > 0 or not getattr(self, "strict", False)
        self.steps += 1
        self.total += float(np.mean(action))
        return self._observe(), -abs(self.total - self.goal), False, self.steps == LENGTH, {}

    def _observe(self):
        place = np.clip(np.array([self.total, self.steps], np.float32), -5, 5)
        if self.kind == "image":
            return np.full((36, 36, 1), 50 * self.steps, np.uint8)
        return {
            "box": place, "dict": {"place": place, "step": self.steps}, "discrete": self.steps,
            "multi_discrete": np.array([self.steps, self.steps % 3]),
            "multi_binary": np.array([self.steps >> bit & 1 for bit in range(3)], np.int8),
        }[self.kind]  # fmt: skip


class Reach(gym.Env):
    """A goal env in which the goal is the task: move to it in four steps, sparse reward."""

    def __init__(self, discrete=False):
        box = spaces.Box(-5.0, 5.0, (1,), np.float32)
        self.observation_space = spaces.Dict(
            {"observation": box, "achieved_goal": box, "desired_goal": box},
        )
        self.action_space = spaces.Discrete(2) if discrete else spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.task = None

    def sample_task(self):
        return float(self.np_random.uniform(-2, 2))

    def set_task(self, task):
        self.task = task

    def compute_reward(self, achieved_goal, desired_goal, info):
        return -(np.abs(achieved_goal - desired_goal).sum(axis=-1) > 0.5).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.goal = self.sample_task() if self.task is None else self.task
        self.place, self.steps = 0.0, 0
        return self._observe(), {}

    def step(self, action):
        self.steps += 1
        self.place += 2.0 * int(action) - 1.0 if np.ndim(action) == 0 else float(action[0])
        seen = self._observe()
        reward = float(self.compute_reward(seen["achieved_goal"], seen["desired_goal"], {}))
        return seen, reward, False, self.steps == LENGTH, {}

    def _observe(self):
        place, goal = np.array([self.place], np.float32), np.array([self.goal], np.float32)
        return {"observation": place, "achieved_goal": place.copy(), "desired_goal": goal}


def policy_of(learner_class, observation):
    name = {"image": "Cnn", "dict": "MultiInput"}.get(observation, "Mlp")
    return f"{name}LstmPolicy" if learner_class is RecurrentPPO else f"{name}Policy"


def agent_of(learner_class, env, observation="box", **kwargs):
    """A Reptile with the smallest budgets that a learner trains with."""
    inner = {"n_epochs": 1} if learner_class in (PPO, RecurrentPPO, MaskablePPO) else {}
    inner |= {"n_delta": 1} if learner_class is ARS else {}
    inner |= {"batch_size": 4} if learner_class in (DQN, QRDQN, SAC, TD3, DDPG, TQC, CrossQ) else {}
    nets = {"net_arch": [4]}
    nets |= {"lstm_hidden_size": 4} if learner_class is RecurrentPPO else {}
    nets |= {"features_extractor_kwargs": {"features_dim": 4}} if observation == "image" else {}
    kwargs = {
        "inner_timesteps": 16, "meta_batch_size": 2, "device": "cpu", "seed": 0, "learner_kwargs": inner,
        "policy_kwargs": nets, "learner_class": learner_class, **kwargs,
    }  # fmt: skip
    return Reptile(policy_of(learner_class, observation), env, **kwargs)
