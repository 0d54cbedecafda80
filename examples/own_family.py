"""A family of one's own in its shortest form, and an agent that learns it: guess a hidden number from hints."""

import argparse
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from typing_extensions import override

from metagym import Family, Params, Step, TaskVectorEnv
from metagym.algos import RL2
from metagym.evaluation import evaluate


@dataclass(frozen=True)
class NumberParams(Params):
    """Columns of N tasks."""

    number: np.ndarray  # (N,)


class Hint(NamedTuple):
    """What was said last."""

    said: np.ndarray  # 0 nothing, 1 higher, 2 lower, 3 right, (N,)


class GuessNumber(Family[Hint, NumberParams]):
    """Sixteen numbers, six guesses."""

    name, params_type, structural = "GuessNumber", NumberParams, ("number",)
    observation_space, action_space, episode_length = spaces.Discrete(4), spaces.Discrete(16), 6
    task_space = spaces.Dict(number=spaces.Box(0, 15, (), np.int64))
    num_structure_draws = 1

    @override
    def draw_structure(self, noise, region):
        return {"number": (noise[:, 0] * 16).astype(np.int64)}

    @override
    def enumerate_structures(self):
        # So few tasks are listed, and the split is exact.
        return {"number": np.arange(16)}, np.full(16, 1 / 16)

    @override
    def initial(self, params, noise):
        return Hint(np.zeros(len(noise), np.int64))

    @override
    def step(self, state, action, params, noise):
        said = np.where(action == params.number, 3, np.where(action < params.number, 1, 2))
        return Step(Hint(said), (said == 3).astype(np.float64), said == 3)

    @override
    def observe(self, state, params):
        return state.said.copy()

    @override
    def describe(self, state, params):
        return ["guess!", "higher", "lower", "right"][state.said[0]] + "\n"

    @override
    def draw(self, state, params):
        return np.full((64, 64, 3), 80 * state.said[0], np.uint8)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=300_000, help="environment steps of meta-training")
steps = parser.parse_args().steps
th.set_num_threads(1)  # networks this small are slower on several

family = GuessNumber()
envs = TaskVectorEnv(family, 64, autoreset_mode=AutoresetMode.SAME_STEP)
agent = RL2("MlpPolicy", envs, episodes_per_trial=2, seed=0).learn(steps)
print("train numbers:", evaluate(agent, family, split="train", n_tasks=100, episodes=2))
print("test numbers: ", evaluate(agent, family, split="test", n_tasks=100, episodes=2))
