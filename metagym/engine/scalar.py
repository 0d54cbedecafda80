"""The scalar driver: one row of a family as a `gymnasium.Env`."""

from collections.abc import Mapping
from math import isfinite
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import error, spaces
from numpy.typing import ArrayLike
from typing_extensions import override

from metagym.distributions import TaskDistribution, check_count, restore_tasks
from metagym.engine.autoreset import check_seed
from metagym.engine.row import BatchRow, Row, TableRow, walks_tables
from metagym.errors import ConfigError
from metagym.family import Family
from metagym.noise import seed_keys
from metagym.tasks import Task

__all__ = ["RENDER_MODES", "TaskEnv", "check_render_mode"]

RENDER_MODES = ["ansi", "rgb_array"]
_OPTIONS = frozenset({"task", "repeat_task"})


def check_render_mode(mode: str | None) -> str | None:
    """Refuse an unknown render mode.

    Raises:
        ConfigError: if the mode is not None, "ansi" or "rgb_array".
    """
    if mode is not None and mode not in RENDER_MODES:
        raise ConfigError(f"render_mode={mode!r} is unknown; accepted are None and {RENDER_MODES}")
    return mode


class TaskEnv(gym.Env[Any, Any]):
    """One row of a family: every reset starts a trial, of another task unless one is set.

    Which task a trial has: ``reset(options={"task": t})`` before `set_task` before a draw from the split. Three
    streams hang on the seed: dynamics, the tasks that resets draw, and `sample_task`.

    Args:
        family: the physics.
        split: what resets draw tasks from: "train", "test", "ood", or None for all.
        render_mode: None, "ansi" or "rgb_array" ("human" comes from Gymnasium's wrapper through `gymnasium.make`).
        reveal_task: put copies of the task's fields into the info under "task".
        distribution: draw from this one instead of the split.

    Raises:
        ConfigError: if an argument is out of range.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": RENDER_MODES, "render_fps": 4}  # type: ignore[misc]

    def __init__(
        self,
        family: Family[Any, Any],
        *,
        split: str | None = "train",
        render_mode: str | None = None,
        reveal_task: bool = False,
        distribution: TaskDistribution | None = None,
    ) -> None:
        self.metadata = dict(type(self).metadata)  # type: ignore[misc]  # vectorisers write into it
        self.family = family
        self.render_mode = check_render_mode(render_mode)
        self.reveal_task = reveal_task
        self.observation_space, self.action_space = family.observation_space, family.action_space
        self.task_space = family.task_space
        self.task_distribution = distribution or TaskDistribution(family).part(split)
        row_type: type[Row] = TableRow if walks_tables(family) else BatchRow
        self._row = row_type(family, self.task_distribution)
        self._row.seed(seed_keys([int(np.random.SeedSequence().generate_state(1, np.uint64)[0])], 3)[0])
        self._pin: Task | None = None
        self._num_actions = int(family.action_space.n) if isinstance(family.action_space, spaces.Discrete) else 0
        self._box_shape = family.action_space.shape
        self._length, self._elapsed = family.episode_length, 0
        self._is_reset = False

    # --- Gymnasium's interface ---------------------------------------------------------------------------------

    @override
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start a new trial.

        Args:
            seed: restart all three streams; None goes on with them.
            options: ``task`` (for this trial only) or ``repeat_task`` (the task just played once more).

        Returns:
            First observation and info.

        Raises:
            ConfigError: if an option is unknown or the seed negative.
            TaskError: if the task does not belong here.
        """
        check_seed(seed)
        options = options or {}
        if unknown := set(options) - _OPTIONS:
            raise ConfigError(f"reset option {sorted(unknown)} is unknown; accepted are {sorted(_OPTIONS)}")
        task, repeat = options.get("task"), bool(options.get("repeat_task", False))
        if repeat and (task is not None or not self._is_reset):
            raise ConfigError("repeat_task needs a task played before, and no other task beside it")
        chosen = self._pin if task is None else self.task_distribution.coerce(task)
        if seed is not None:
            super().reset(seed=int(seed))
            self._row.seed(seed_keys([seed], 3)[0])
        if not repeat:
            self._row.next_task() if chosen is None else self._row.set_task(chosen)
        observation = self._row.begin()
        self._elapsed, self._is_reset = 0, True
        return observation, self._info(True, False)

    @override
    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step of the episode.

        Args:
            action: an integer for `Discrete`; finite numbers of the space's shape for `Box`, clipped by the family.

        Returns:
            Observation, reward, terminated, truncated and info.

        Raises:
            ConfigError: if the action is not accepted.
            ResetNeeded: before the first reset.
        """
        if not self._is_reset:
            raise error.ResetNeeded("call reset() before step()")
        if self._num_actions:
            try:
                action = action.__index__()
            except (AttributeError, TypeError):
                raise ConfigError(f"action must be an integer, got {action!r}") from None
            if not 0 <= action < self._num_actions:
                raise ConfigError(f"action must be in 0..{self._num_actions - 1}, got {action}")
        else:
            action = self._check_box(action)
        observation, reward, terminated, success = self._row.step(action)
        self._elapsed += 1
        truncated = not terminated and self._elapsed >= self._length
        return observation, reward, terminated, truncated, self._info(False, success)

    def _check_box(self, action: Any) -> Any:
        try:
            array = np.asarray(action)
        except ValueError as ragged:
            raise ConfigError(f"action must be {self.action_space}, got {action!r}") from ragged
        if array.shape != self._box_shape or array.dtype.kind not in "fiu":
            raise ConfigError(f"action must be {self.action_space}, got {action!r}")
        # One number is looked at as such, at a third of the price.
        if not (isfinite(array.item()) if array.size == 1 else np.isfinite(array).all()):
            raise ConfigError(f"action must be finite, got {action!r}")
        return array

    def _info(self, starts: bool, success: bool) -> dict[str, Any]:
        info: dict[str, Any] = {"task_id": self._row.task_id, "trial_start": starts}
        if self.family.has_success:
            info["is_success"] = success
        if self.reveal_task:
            columns = self._row.params.columns()
            info["task"] = {name: np.array(column[0]) for name, column in columns.items()}
        return info

    # --- tasks -------------------------------------------------------------------------------------------------

    def sample_task(self) -> Task:
        """A task from a stream of its own: no trajectory changes."""
        return self.sample_tasks(1)[0]

    def sample_tasks(self, n: int) -> list[Task]:
        """A list of n tasks from the same stream.

        Raises:
            ConfigError: if n is no integer of at least 1.
        """
        return restore_tasks(self.family, self._row.sample(check_count(n)))

    def set_task(self, task: Task | Mapping[str, ArrayLike] | None) -> None:
        """Pin the task of all later trials, from the next reset on; None unpins.

        Raises:
            TypeError: if `task` is no mapping.
            TaskError: naming the field, the value and what is accepted.
        """
        self._pin = None if task is None else self.task_distribution.coerce(task)

    def get_task(self) -> Task:
        """The task being played.

        Raises:
            ResetNeeded: before the first reset.
        """
        if not self._is_reset:
            raise error.ResetNeeded("there is no task before the first reset()")
        return restore_tasks(self.family, self._row.params)[0]

    @property
    def task(self) -> Task | None:
        """The task being played, None before the first reset; setting it is `set_task`."""
        return self.get_task() if self._is_reset else None

    @task.setter
    def task(self, task: Task | Mapping[str, ArrayLike] | None) -> None:
        self.set_task(task)

    # --- pictures ----------------------------------------------------------------------------------------------

    @override
    def render(self) -> Any:
        """A picture, uint8 (H, W, 3), or a text, as `render_mode` says."""
        if self.render_mode is None:
            gym.logger.warn("render() was called without a render mode; pass render_mode='rgb_array' or 'ansi'.")
            return None
        if not self._is_reset:
            raise error.ResetNeeded("call reset() before render()")
        draw = self.family.draw if self.render_mode == "rgb_array" else self.family.describe
        return draw(self._row.state, self._row.params)
