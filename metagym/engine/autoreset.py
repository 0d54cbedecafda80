"""Autoreset, once, for every vector env of metagym: the engine's and the wrappers'."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import error, spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from typing_extensions import override

from metagym.errors import ConfigError
from metagym.tasks import Task
from metagym.types import Array, Bool, Float, Int

__all__ = ["RowStep", "RowsVectorEnv", "check_seed"]

RowStep = tuple[Float, Bool, Bool, dict[str, Any]]
_NONE: Int = np.empty(0, np.int64)
_INT64, _UINT64 = np.dtype(np.int64), np.dtype(np.uint64)
_OPTIONS = frozenset({"reset_mask", "task", "tasks", "repeat_task"})


class RowsVectorEnv(VectorEnv[Any, Any, Any]):
    """A vector env over rows that know no autoreset.

    Subclasses implement `step_rows`, `reset_rows` and `observe_rows`; wrappers call those of the env inside them, and
    only the outermost env resets by itself. Infos of these three are plain arrays; masks are added here.

    Args:
        num_envs: N.
        observation_space: of one row.
        action_space: of one row, `Discrete` or `Box`.
        autoreset_mode: any of Gymnasium's three.

    Raises:
        ConfigError: if `num_envs` < 1 or the mode is unknown.
    """

    def __init__(
        self,
        num_envs: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        autoreset_mode: AutoresetMode,
    ) -> None:
        if isinstance(num_envs, bool) or not isinstance(num_envs, int | np.integer) or num_envs < 1:
            raise ConfigError(f"num_envs must be an integer of at least 1, got {num_envs!r}")
        self.num_envs = int(num_envs)
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.observation_space = batch_space(observation_space, self.num_envs)
        self.action_space = batch_space(action_space, self.num_envs)
        try:
            self.autoreset_mode = AutoresetMode(autoreset_mode)
        except ValueError as unknown:
            accepted = [mode.name for mode in AutoresetMode]
            raise ConfigError(f"autoreset_mode={autoreset_mode!r} is unknown; accepted are {accepted}") from unknown
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self._actions_shape = self.action_space.shape
        self._num_actions = int(action_space.n) if isinstance(action_space, spaces.Discrete) else 0
        self._finished: Int | None = None
        self._all_rows = np.ones(self.num_envs, np.bool_)

    # --- what subclasses provide -------------------------------------------------------------------------------

    @abstractmethod
    def step_rows(self, actions: Array, active: Bool | None) -> RowStep:
        """Step all rows.

        Args:
            actions: validated actions, (N, ...).
            active: rows that really step, (N,), None for all; the others are reset before they are looked at.

        Returns:
            Rewards, terminations, truncations, each (N,), and infos as arrays (N, ...); all freshly allocated.
        """

    @abstractmethod
    def reset_rows(
        self, rows: Int, *, tasks: list[Task | None] | None = None, repeat_task: bool = False
    ) -> dict[str, Any]:
        """Start episodes in `rows` (sorted).

        Args:
            rows: indices, (M,).
            tasks: tasks for these trials only, one a row; None leaves a row to its pin or its stream.
            repeat_task: play the task just played once more.

        Returns:
            Infos as arrays (M, ...).
        """

    @abstractmethod
    def observe_rows(self, rows: Int | None) -> Array:
        """Current observations of all rows or of some, freshly allocated."""

    @abstractmethod
    def seed_rows(self, rows: Int, seeds: list[int]) -> None:
        """Restart the streams of `rows`."""

    @abstractmethod
    def coerce(self, task: Any) -> Task:
        """The task validated, with the dtypes of the task space."""

    # --- Gymnasium's interface ---------------------------------------------------------------------------------

    @override
    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Start new trials in all rows, or in those of ``options["reset_mask"]``.

        Args:
            seed: row i is seeded with ``seed + i``, or with ``seed[i]``; None goes on with the streams.
            options: ``reset_mask`` (bool, (N,)), ``task`` (for all rows) or ``tasks`` (N of them, None to leave a row
                alone), for these trials only, ``repeat_task`` (the task just played once more). Not changed.

        Returns:
            Observations (N, ...) and infos: arrays (N, ...), each with a ``_key`` mask.

        Raises:
            ConfigError: if an option is unknown or of the wrong shape, or a seed is negative.
            TaskError: if a task does not belong here.
        """
        options = dict(options or {})
        if unknown := set(options) - _OPTIONS:
            raise ConfigError(f"reset option {sorted(unknown)} is unknown; accepted are {sorted(_OPTIONS)}")
        rows = self._rows_to_reset(options.get("reset_mask"))
        tasks = self._tasks_of_reset(options, rows)
        repeat_task = bool(options.get("repeat_task", False))
        if repeat_task and (tasks is not None or self._finished is None):
            raise ConfigError("repeat_task needs a task played before, and no other task beside it")
        seeds = self._seeds(seed)
        seeded = [(row, value) for row in rows if (value := seeds[row]) is not None]
        if seeded:
            self.seed_rows(np.array([row for row, _ in seeded]), [value for _, value in seeded])
        info = self.reset_rows(rows, tasks=tasks, repeat_task=repeat_task)
        if len(rows) == self.num_envs:
            self._finished = _NONE
            return self.observe_rows(None), self._with_masks(info)
        assert self._finished is not None
        self._finished = np.setdiff1d(self._finished, rows)
        return self.observe_rows(None), self._scatter(info, rows)

    @override
    def step(self, actions: Any) -> tuple[Any, Float, Bool, Bool, dict[str, Any]]:
        """Step all rows, and reset finished ones as the autoreset mode says.

        Args:
            actions: (N,) integers for `Discrete`, (N, A) finite numbers for `Box`.

        Returns:
            Observations, rewards float64 (N,), terminations and truncations bool (N,), and infos. Nothing returned is
            used again.

        Raises:
            ConfigError: if an action is not in the space (`Box` actions may be out of bounds, but finite).
            ResetNeeded: before the first reset; in DISABLED mode also while a finished row waits for its reset.
        """
        finished = self._finished
        if finished is None:
            raise error.ResetNeeded("call reset() before step()")
        actions = self._check_actions(actions)
        active = None
        if finished.size:
            if self.autoreset_mode is AutoresetMode.DISABLED:
                raise error.ResetNeeded(
                    f"rows {finished.tolist()} are finished; reset them with options={{'reset_mask': ...}}"
                )
            active = self._all_rows.copy()
            active[finished] = False
        reward, terminated, truncated, info = self.step_rows(actions, active)
        if active is not None:
            reward[finished] = 0.0
            terminated &= active
            truncated &= active
            _merge(info, self.reset_rows(finished), finished)
        self._finished = (terminated | truncated).nonzero()[0]
        if self.autoreset_mode is AutoresetMode.SAME_STEP and self._finished.size:
            return self._reset_same_step(reward, terminated, truncated, info)
        return self.observe_rows(None), reward, terminated, truncated, self._with_masks(info)

    def _reset_same_step(
        self, reward: Float, terminated: Bool, truncated: Bool, info: dict[str, Any]
    ) -> tuple[Any, Float, Bool, Bool, dict[str, Any]]:
        rows, self._finished = self._finished, _NONE
        assert rows is not None
        mask = np.zeros(self.num_envs, np.bool_)
        mask[rows] = True
        final_obs = np.empty(self.num_envs, dtype=object)  # all None
        for row, observation in zip(rows.tolist(), self.observe_rows(rows), strict=True):
            final_obs[row] = observation
        final_info = self._scatter(_take(info, rows), rows)
        _merge(info, self.reset_rows(rows), rows)
        infos = self._with_masks(info)
        infos |= {
            "final_obs": final_obs,
            "_final_obs": mask,
            "final_info": final_info,
            "_final_info": mask.copy(),
        }
        return self.observe_rows(None), reward, terminated, truncated, infos

    # --- arguments ---------------------------------------------------------------------------------------------

    def _rows_to_reset(self, mask: Any) -> Int:
        if mask is None:
            return np.arange(self.num_envs)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
            raise ConfigError(f"reset_mask must be a boolean array of shape ({self.num_envs},), got {mask!r}")
        if self._finished is None and not mask.all():
            raise error.ResetNeeded("the first reset must be of all rows")
        if not mask.any():
            raise ConfigError("reset_mask selects no row")
        return np.flatnonzero(mask)

    def _tasks_of_reset(self, options: dict[str, Any], rows: Int) -> list[Task | None] | None:
        if options.get("task") is not None and options.get("tasks") is not None:
            raise ConfigError("pass either task or tasks to reset, not both")
        if options.get("task") is not None:
            return [self.coerce(options["task"])] * len(rows)
        tasks = options.get("tasks")
        if tasks is None:
            return None
        if not isinstance(tasks, Sequence) or len(tasks) != self.num_envs:
            given = len(tasks) if isinstance(tasks, Sequence) else repr(tasks)
            raise ConfigError(f"tasks must hold one task (or None) for each of {self.num_envs} rows, got {given}")
        return [None if tasks[row] is None else self.coerce(tasks[row]) for row in rows]

    def _seeds(self, seed: Any) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, Sequence | np.ndarray) and not isinstance(seed, str):
            seeds = list(seed)
        else:
            check_seed(seed)
            seeds = [seed + row for row in range(self.num_envs)]
        if len(seeds) != self.num_envs:
            raise ConfigError(f"a list of seeds must have one for each of {self.num_envs} rows, got {len(seeds)}")
        for value in seeds:
            check_seed(value)
        return [None if value is None else int(value) for value in seeds]

    def _check_actions(self, actions: Any) -> Array:
        shape = self._actions_shape
        try:
            array: Array = np.asarray(actions)
        except ValueError as ragged:
            raise ConfigError(f"actions must be numbers of shape {shape}, got {actions!r}") from ragged
        if array.shape != shape:
            raise ConfigError(f"actions have shape {array.shape}; accepted is {shape}")
        return _check_integers(array, self._num_actions) if self._num_actions else _check_finite(array)

    # --- infos -------------------------------------------------------------------------------------------------

    def _with_masks(self, info: dict[str, Any]) -> dict[str, Any]:
        infos = dict(info)
        for key, value in info.items():
            if isinstance(value, dict):
                infos[key] = self._with_masks(value)
            infos["_" + key] = self._all_rows.copy()
        return infos

    def _scatter(self, info: dict[str, Any], rows: Int) -> dict[str, Any]:
        infos: dict[str, Any] = {}
        for key, value in info.items():
            if isinstance(value, dict):
                infos[key] = self._scatter(value, rows)
            else:
                infos[key] = np.zeros((self.num_envs, *value.shape[1:]), value.dtype)
                infos[key][rows] = value
            infos[f"_{key}"] = np.zeros(self.num_envs, np.bool_)
            infos[f"_{key}"][rows] = True
        return infos


def check_seed(seed: Any) -> None:
    """Refuse what is no seed.

    Raises:
        ConfigError: if `seed` is neither None nor a non-negative integer.
    """
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0):
        raise ConfigError(f"a seed must be a non-negative integer or None, got {seed!r}")


def _check_integers(actions: Array, num_actions: int) -> Array:
    if actions.dtype != _INT64:
        if actions.dtype.kind not in "iu":
            raise ConfigError(f"actions must be integers, got dtype {actions.dtype}")
        actions = actions.astype(np.int64)
    # Seen as unsigned, negative actions are huge: one reduction checks both ends.
    if int(np.maximum.reduce(actions.view(_UINT64))) >= num_actions:
        raise ConfigError(f"actions must be in 0..{num_actions - 1}, got {actions.tolist()}")
    return actions


def _check_finite(actions: Array) -> Array:
    if actions.dtype.kind not in "fiu":
        raise ConfigError(f"actions must be numbers, got dtype {actions.dtype}")
    if not np.isfinite(actions).all():
        raise ConfigError("actions must be finite, got NaN or infinity")
    return actions


def _merge(info: dict[str, Any], fresh: dict[str, Any], rows: Int) -> None:
    for key, value in fresh.items():
        if isinstance(value, dict):
            _merge(info[key], value, rows)
        else:
            info[key][rows] = value


def _take(info: dict[str, Any], rows: Int) -> dict[str, Any]:
    return {key: _take(value, rows) if isinstance(value, dict) else value[rows] for key, value in info.items()}
