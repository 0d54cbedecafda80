"""Checks of a family of one's own: does it keep the contract that drivers, wrappers and learners rely on?"""

import argparse

import numpy as np

from metagym.checks import check_family
from metagym.envs import Bandit
from metagym.errors import ContractError

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=2_000, help="episodes that the random return is estimated from")
episodes = parser.parse_args().steps


class Leaky(Bandit):
    """A bandit whose rewards depend on how many rows are played at once."""

    def step(self, state, action, params, noise):
        """One pull, and a mistake."""
        step = super().step(state, action, params, noise)
        return step._replace(reward=step.reward - np.mean(step.reward))


print(check_family(Bandit(num_arms=3), num_episodes=episodes))
try:
    check_family(Leaky(num_arms=3), num_episodes=episodes)
except ContractError as broken:
    print(broken)
