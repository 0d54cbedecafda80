"""The oracle control: the task is part of the observation."""

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from metagym.engine import RowsVectorEnv
from metagym.tasks import Task
from metagym.types import Array, Int
from metagym.wrappers.base import RowsWrapper, TaskWrapper
from metagym.wrappers.flat import Flat, FlatDict, flat_box

__all__ = ["RevealTask", "TaskMemory", "VectorRevealTask"]

_ROW = np.zeros(1, np.int64)


class TaskMemory:
    """The flattened tasks of N rows.

    Args:
        num_rows: N.
        observation_space: of one row.
        task_space: of one row.

    Attributes:
        space: of one row's extended observation, flat.
        features: (N, P) float32.
    """

    def __init__(self, num_rows: int, observation_space: Any, task_space: Any) -> None:
        self._observation, self._task = Flat(observation_space), FlatDict(task_space)
        observed = (self._observation.low, self._observation.high)
        self.space = flat_box(observed, (self._task.low, self._task.high))
        self.features: NDArray[np.float32] = np.zeros((num_rows, self._task.width), np.float32)

    def store(self, columns: dict[str, Array], rows: Int) -> None:
        """Remember the tasks of `rows`, given as columns (M, ...)."""
        self.features[rows] = self._task(columns)

    def extend(self, observation: Array, rows: Int | None) -> NDArray[np.float32]:
        """Extended observations (M, D + P) of all rows or of some, from their observations (M, ...)."""
        features = self.features if rows is None else self.features[rows]
        width = self._observation.width
        extended = np.zeros((len(features), width + features.shape[1]), np.float32)
        self._observation.write(observation, extended[:, :width])
        extended[:, width:] = features
        return extended


class VectorRevealTask(RowsWrapper):
    """`RevealTask` over metagym's vector env; call it by that name."""

    def __init__(self, env: RowsVectorEnv) -> None:
        super().__init__(env)
        memory = TaskMemory(self.num_envs, env.single_observation_space, self.single_task_space)
        super().__init__(env, memory.space)
        self._memory = memory

    @override
    def reset_rows(
        self, rows: Int, *, tasks: list[Task | None] | None = None, repeat_task: bool = False
    ) -> dict[str, Any]:
        info = super().reset_rows(rows, tasks=tasks, repeat_task=repeat_task)
        if not repeat_task:
            self._memory.store(self.unwrapped.task_columns(rows), rows)
        return info

    @override
    def observe_rows(self, rows: Int | None) -> Array:
        return self._memory.extend(self.env.observe_rows(rows), rows)

    @override
    def own_state(self) -> dict[str, Array]:
        return {"reveal_task/features": self._memory.features}


class RevealTask(TaskWrapper):
    """Appends the task to the observation: the control that knows what others have to find out.

    The observation is one flat float32 `Box`: ``[observation | task]``, the task as
    ``gymnasium.spaces.flatten(task_space, task)`` lays it out: fields one after another in the order of the space,
    numbers and codes of `Box` fields as numbers (not one-hot). A `Discrete` observation is one-hot. May lie inside or
    outside `Trial` and `RL2Context`.

    Args:
        env: an env with tasks, or metagym's vector env; the result is of the same kind.

    Raises:
        ConfigError: if the env has no tasks, or a space cannot be flattened.
    """

    rows_type = VectorRevealTask

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._memory = TaskMemory(1, env.observation_space, self.task_space)
        self.observation_space = self._memory.space

    @override
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        if not (options or {}).get("repeat_task"):
            self._memory.store({name: value[None] for name, value in self.get_task().items()}, _ROW)
        return self._extend(observation), info

    @override
    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._extend(observation), reward, terminated, truncated, info

    def _extend(self, observation: Any) -> NDArray[np.float32]:
        extended: NDArray[np.float32] = self._memory.extend(np.asarray(observation)[None], None)[0]
        return extended
