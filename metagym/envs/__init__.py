"""The families that ship with metagym."""

from metagym.envs.bandit import Bandit
from metagym.envs.frozen_lake import FrozenLake
from metagym.envs.point_goal import PointGoal

__all__ = ["Bandit", "FrozenLake", "PointGoal"]
