"""Envs with every kind of space, four steps long, as families and as rows of SB3's."""

from copy import deepcopy
from functools import cache

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from sb3_contrib.common.wrappers import ActionMasker
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecMonitor

import metagym
from metagym.wrappers import RL2Context, Trial, VectorEnvAdapter
from metagym.wrappers.base import RowsWrapper
from tests.matrix.support import ACTIONS, OBSERVATIONS

LENGTH, ROWS, EPISODES = 4, 2, 2


class Sums(gym.Env):
    """Four steps; the mean actions should add up to the goal, which is the task."""

    def __init__(self, observation="box", action="box", goal=0.0):
        self.kind, self.goal = observation, goal
        # Copies, since spaces hold random states.
        self.observation_space, self.action_space = deepcopy(OBSERVATIONS[observation]), deepcopy(ACTIONS[action])
        self.steps, self.total = 0, 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.total = 0, float(self.np_random.uniform(-0.1, 0.1))
        return self._observe(), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.steps += 1
        self.total += float(np.mean(action))
        return self._observe(), -abs(self.total - self.goal), False, self.steps == LENGTH, {}

    def _observe(self):
        place = np.clip(np.array([self.total, self.steps], np.float32), -5, 5)
        if self.kind.startswith("image"):
            shade = int(np.clip(50 * self.steps + 10 * self.total, 0, 255))
            return np.full(self.observation_space.shape, shade, np.uint8)
        return {
            "box": place, "discrete": self.steps, "multi_discrete": np.array([self.steps, self.steps % 3]),
            "multi_binary": np.array([self.steps >> bit & 1 for bit in range(3)], np.int8),
        }[self.kind]  # fmt: skip


@cache
def family(observation, action):
    """The family of an id: `MetaSums-<observation>-<action>-v0`; of a Dict, that of a Box, for wrappers to split."""
    return metagym.parameterize(
        Sums,
        attributes={"goal": (-1.0, 1.0)},
        env_kwargs={"observation": "box" if observation == "dict" else observation, "action": action},
        episode_length=LENGTH,
        id=f"MetaSums-{observation}-{action}-v0",
        check=False,
    )


def env_id(observation, action):
    family(observation, action)
    return f"MetaSums-{observation}-{action}-v0"


class SplitRows(RowsWrapper):
    """A Box of two numbers as a Dict, for all rows at once; to be wrapped once more."""

    def __init__(self, env):
        super().__init__(env, OBSERVATIONS["dict"])

    def observe_rows(self, rows):
        place = self.env.observe_rows(rows)
        return {"place": place, "step": place[:, 1].astype(np.int64)}


class OuterSplitRows(SplitRows):
    """The same as the outermost wrapper, whose last observations are dicts of one row, as Gymnasium wants them."""

    def observe_rows(self, rows):
        parts = super().observe_rows(rows)
        if rows is None:
            return parts
        each = np.empty(len(rows), object)
        each[:] = [{name: part[place] for name, part in parts.items()} for place in range(len(rows))]
        return each


class Split(gym.ObservationWrapper):
    """The same for one env."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = OBSERVATIONS["dict"]

    def observation(self, observation):
        return {"place": observation, "step": int(observation[1])}


def scalar_of(observation, action, **kwargs):
    env = family(observation, action).make(**kwargs)
    return Split(env) if observation == "dict" else env


def masks_of(env):
    """The first action of each choice is forbidden; with two binary ones, "on" is."""
    space = env.action_space
    if isinstance(space, spaces.MultiBinary):
        return np.array([True, False] * space.n)
    sizes = [space.n] if isinstance(space, spaces.Discrete) else space.nvec
    return np.concatenate([np.arange(size) > 0 for size in sizes])


def masked_rows(observation, action):
    """Rows for MaskablePPO, which asks each of them for its masks."""
    return make_vec_env(lambda: ActionMasker(scalar_of(observation, action), masks_of), ROWS, seed=0)


def dict_rows(action):
    """Rows that see a Dict, as metagym's own vector env."""
    return VecMonitor(VectorEnvAdapter(OuterSplitRows(_same_step("dict", action))))


def dict_trials(action):
    return VecMonitor(VectorEnvAdapter(RL2Context(Trial(SplitRows(_same_step("dict", action)), episodes_per_trial=2))))


def _same_step(observation, action):
    return family(observation, action).make_vec(ROWS, autoreset_mode=AutoresetMode.SAME_STEP)
