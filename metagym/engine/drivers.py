"""Envs of a family, whoever steps it: metagym's own drivers, or those that a foreign family brings along."""

from collections.abc import Sequence
from typing import Any, Protocol

from gymnasium import spaces

from metagym.distributions import TaskDistribution
from metagym.engine.scalar import TaskEnv
from metagym.engine.vector import TaskVectorEnv
from metagym.family import Family, TaskFamily
from metagym.tasks import Task
from metagym.types import Float

__all__ = ["PlayableFamily", "distribution_of", "env_of", "is_playable", "vector_env_of"]


class PlayableFamily(Protocol):
    """What learners and evaluation read of a family: `Family` has it, and families whose dynamics are foreign.

    Foreign ones also have ``make(**kwargs)`` and ``make_vec(num_envs, **kwargs)``, with the keywords of `TaskEnv` and
    `TaskVectorEnv`, and ``distribution(split)``.
    """

    name: str
    task_space: spaces.Dict
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    episode_length: int
    has_success: bool

    def params_of(self, tasks: Sequence[Task]) -> Any:
        """N tasks as columns."""

    def optimal_return(self, params: Any) -> Float | None:
        """Expected return of an agent that knows the task, (N,); None if unknown."""

    def random_return(self, params: Any) -> Float | None:
        """Expected return of random actions, (N,); None if not computable."""


def is_playable(family: Any) -> bool:
    """Whether envs can be made of an object: a `Family`, or tasks that bring their own drivers along."""
    return isinstance(family, Family) or (isinstance(family, TaskFamily) and hasattr(family, "make_vec"))


def env_of(family: Any, **kwargs: Any) -> TaskEnv:
    """A scalar env of a family, with the keywords of `TaskEnv`."""
    if isinstance(family, Family):
        return TaskEnv(family, **kwargs)
    env: TaskEnv = family.make(**kwargs)
    return env


def vector_env_of(family: Any, num_envs: int, **kwargs: Any) -> TaskVectorEnv:
    """A vector env of a family, with the keywords of `TaskVectorEnv`."""
    if isinstance(family, Family):
        return TaskVectorEnv(family, num_envs, **kwargs)
    env: TaskVectorEnv = family.make_vec(num_envs, **kwargs)
    return env


def distribution_of(family: Any, split: str | None = None) -> TaskDistribution:
    """The distribution of a family's tasks, or its part: "train", "test" or "ood"."""
    if isinstance(family, Family):
        return TaskDistribution(family).part(split)
    distribution: TaskDistribution = family.distribution(split)
    return distribution
