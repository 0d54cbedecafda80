"""metagym's learners in RL Zoo, Stable-Baselines3's training framework: registration, envs, recipes."""

from metagym.zoo.envs import native_tasks, native_trials
from metagym.zoo.registration import main, recipes, register

__all__ = ["main", "native_tasks", "native_trials", "recipes", "register"]
