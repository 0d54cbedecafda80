"""What evaluation asks of a learner. Protocols: nothing inherits from them."""

from typing import Any, Protocol, runtime_checkable

from metagym.types import Array

__all__ = ["GradientLearner", "MemoryLearner", "Policy"]


@runtime_checkable
class Policy(Protocol):
    """What acts: Stable-Baselines3's ``predict``."""

    def predict(
        self,
        observation: Any,
        state: tuple[Array, ...] | None = None,
        episode_start: Array | None = None,
        deterministic: bool = False,
    ) -> tuple[Array, tuple[Array, ...] | None]:
        """Actions for one observation, or for N of them.

        Args:
            observation: one observation, or N, (N, ...); a dict of those for Dict spaces.
            state: what the last call returned; None at the start, or without memory.
            episode_start: True where the memory must be forgotten first, (N,).
            deterministic: the mode of the action distribution instead of a sample.

        Returns:
            Actions, shaped as the observations were, and the new state.
        """
        ...


@runtime_checkable
class MemoryLearner(Policy, Protocol):
    """Adapts inside its memory: it is given a trial's observations and changes nothing else."""

    def make_env(self, task: Any = None) -> Any:
        """An env it can act in: trials, with the observations that it was trained on.

        Args:
            task: the task to play; None draws one at each trial.
        """
        ...


@runtime_checkable
class GradientLearner(Policy, Protocol):
    """Adapts by learning: returns another policy for a task, and stays as it is."""

    def adapt(self, task: Any, total_timesteps: int) -> Policy:
        """What has learnt the task, from environment steps of its own.

        Args:
            task: the task.
            total_timesteps: budget of environment steps.
        """
        ...
