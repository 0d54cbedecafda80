"""Learners: each an algorithm of Stable-Baselines3 to its user, on tasks instead of one environment."""

from metagym.algos.base import GradientLearner, MemoryLearner, Policy
from metagym.algos.references import Random
from metagym.algos.reptile import Reptile
from metagym.algos.rl2 import RL2

__all__ = ["RL2", "GradientLearner", "MemoryLearner", "Policy", "Random", "Reptile"]
