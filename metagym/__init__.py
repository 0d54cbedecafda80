"""Meta-reinforcement learning for Gymnasium and Stable-Baselines3.

Importing metagym registers its environments: ``gymnasium.make("MetaFrozenLake-v0")``. Learners are in `metagym.algos`,
wrappers in `metagym.wrappers`, evaluation in `metagym.evaluation`; those import torch, this module does not.
"""

from metagym.distributions import TaskDistribution
from metagym.engine import TaskEnv, TaskVectorEnv
from metagym.errors import CheckpointError, ConfigError, MetagymError, TaskError
from metagym.family import Family, Params, Step, TaskFamily
from metagym.foreign.parameterized import parameterize
from metagym.registry import make_family, register, register_builtin
from metagym.tabular import TabularFamily
from metagym.tasks import Task, TaskSet
from metagym.vector_tasks import set_tasks

__all__ = [
    "CheckpointError",
    "ConfigError",
    "Family",
    "MetagymError",
    "Params",
    "Step",
    "TabularFamily",
    "Task",
    "TaskDistribution",
    "TaskEnv",
    "TaskError",
    "TaskFamily",
    "TaskSet",
    "TaskVectorEnv",
    "make_family",
    "parameterize",
    "register",
    "set_tasks",
]

__version__ = "0.1.0"

register_builtin()
