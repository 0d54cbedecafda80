"""A family of one's own in its shortest form, and an agent that learns it: guess a hidden number from hints."""

import argparse
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

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

    def draw_structure(self, noise, region):
        """Uniform numbers."""
        return {"number": (noise[:, 0] * 16).astype(np.int64)}

    def enumerate_structures(self):
        """All sixteen, so that the split is exact."""
        return {"number": np.arange(16)}, np.full(16, 1 / 16)

    def initial(self, params, noise):
        """Nothing said."""
        return Hint(np.zeros(len(noise), np.int64))

    def step(self, state, action, params, noise):
        """A guess."""
        said = np.where(action == params.number, 3, np.where(action < params.number, 1, 2))
        return Step(Hint(said), (said == 3).astype(np.float64), said == 3)

    def observe(self, state, params):
        """The hint."""
        return state.said.copy()

    def describe(self, state, params):
        """As text."""
        return ["guess!", "higher", "lower", "right"][state.said[0]] + "\n"

    def draw(self, state, params):
        """As a picture: brighter is nearer the end."""
        return np.full((64, 64, 3), 80 * state.said[0], np.uint8)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=300_000, help="environment steps of meta-training")
steps = parser.parse_args().steps

family = GuessNumber()
envs = TaskVectorEnv(family, 64, autoreset_mode=AutoresetMode.SAME_STEP)
agent = RL2("MlpPolicy", envs, episodes_per_trial=2, seed=0).learn(steps)
print("train numbers:", evaluate(agent, family, split="train", n_tasks=100, episodes=2))
print("test numbers: ", evaluate(agent, family, split="test", n_tasks=100, episodes=2))
