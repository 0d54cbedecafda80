"""What a privileged critic is told of the tasks that the rows of a vector env play."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvWrapper

from metagym.engine import TaskVectorEnv
from metagym.errors import ConfigError
from metagym.types import Array, Int
from metagym.wrappers.flat import FlatDict

__all__ = ["TaskReader", "env_layers"]


class TaskReader:
    """Reads the tasks being played as vectors that a network can take.

    A task is laid out as ``gymnasium.spaces.flatten(task_space, task)`` does it, and each number with finite bounds is
    moved to [-1, 1]: its lower bound to -1, its upper bound to 1.

    Args:
        env: metagym's vector env in an adapter, or an SB3 vector env whose rows have ``get_task()`` and ``task_space``.

    Attributes:
        env: the same.
        size: P, numbers of a task.

    Raises:
        ConfigError: if its rows cannot tell their tasks.
    """

    def __init__(self, env: VecEnv) -> None:
        self.env = env
        self._native = next((layer for layer in env_layers(env) if isinstance(layer, TaskVectorEnv)), None)
        space = _task_space(env) if self._native is None else self._native.single_task_space
        self._flat = FlatDict(space)
        self.size = self._flat.width
        low, high = self._flat.low.astype(np.float64), self._flat.high.astype(np.float64)
        bounded = np.isfinite(low) & np.isfinite(high)
        with np.errstate(invalid="ignore"):
            middle, half = (high + low) / 2.0, (high - low) / 2.0
        self._middle = np.where(bounded, middle, 0.0)
        self._half = np.where(bounded & (half > 0.0), half, 1.0)

    def read(self, rows: Int) -> NDArray[np.float32]:
        """The tasks being played in `rows`, (M, P)."""
        flat = self._flat(self._columns(rows))
        standard: NDArray[np.float32] = ((flat - self._middle) / self._half).astype(np.float32)
        return standard

    def _columns(self, rows: Int) -> dict[str, Array]:
        if self._native is not None:
            return self._native.task_columns(rows)
        tasks: list[Mapping[str, Any]] = self.env.env_method("get_task", indices=rows.tolist())
        return {name: np.stack([np.asarray(task[name]) for task in tasks]) for name in tasks[0]}


def _task_space(env: VecEnv) -> spaces.Dict:
    try:
        space = env.get_attr("task_space", indices=[0])[0]
    except (AttributeError, NotImplementedError, ConfigError):
        space = None
    if not isinstance(space, spaces.Dict):
        raise ConfigError(
            f"a privileged critic needs to be told tasks, and this {type(env).__name__} cannot tell them: its rows "
            "need get_task() and task_space. Give an id or an env of metagym's, or leave privileged_critic out."
        )
    return space


def env_layers(env: Any) -> Iterator[Any]:
    """An env and what it wraps, from the outside in: SB3's wrappers, the adapter, Gymnasium's wrappers."""
    while env is not None:
        yield env
        env = env.venv if isinstance(env, VecEnvWrapper) else vars(env).get("env")
