"""The vector driver: N rows of a family as a `gymnasium.vector.VectorEnv`."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium import error
from gymnasium.vector import AutoresetMode
from numpy.typing import ArrayLike
from typing_extensions import override

from metagym.distributions import TaskDistribution, check_count, restore_tasks
from metagym.engine.autoreset import RowStep, RowsVectorEnv
from metagym.engine.rows import Rows
from metagym.engine.scalar import RENDER_MODES, check_render_mode
from metagym.errors import ConfigError
from metagym.family import Family
from metagym.tasks import Task
from metagym.types import Array, Bool, Int

__all__ = ["TaskVectorEnv"]


class TaskVectorEnv(RowsVectorEnv):
    """N rows of one family, each with its own task and its own random streams.

    Row i seeded with ``seeds[i]`` goes through the same trajectory, to the last bit, as `TaskEnv` seeded so.

    Args:
        family: the physics.
        num_envs: N.
        split: what resets draw tasks from: "train", "test", "ood", or None for all.
        autoreset_mode: any of Gymnasium's three.
        max_episode_steps: truncate episodes at this step, as `gymnasium.make` would with its `TimeLimit`.
        render_mode: None, "ansi" or "rgb_array".
        reveal_task: put copies of the task's fields into the infos under "task".
        distribution: draw from this one instead of the split.

    Raises:
        ConfigError: if an argument is out of range.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": RENDER_MODES, "render_fps": 4}  # type: ignore[misc]

    def __init__(
        self,
        family: Family[Any, Any],
        num_envs: int = 1,
        *,
        split: str | None = "train",
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        reveal_task: bool = False,
        distribution: TaskDistribution | None = None,
    ) -> None:
        super().__init__(num_envs, family.observation_space, family.action_space, autoreset_mode)
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ConfigError(f"max_episode_steps must be at least 1, got {max_episode_steps}")
        self.family = family
        self.render_mode = check_render_mode(render_mode)
        self.task_distribution = distribution or TaskDistribution(family).part(split)
        self.reveal_task, self.max_episode_steps = reveal_task, max_episode_steps
        self.single_task_space = family.task_space
        self._rows = Rows(family, self.task_distribution, self.num_envs)

    # --- rows --------------------------------------------------------------------------------------------------

    @override
    def seed_rows(self, rows: Int, seeds: list[int]) -> None:
        self._rows.seed(rows, seeds)

    @override
    def coerce(self, task: Any) -> Task:
        return self.task_distribution.coerce(task)

    @override
    def step_rows(self, actions: Array, active: Bool | None) -> RowStep:
        rows = self._rows
        step = rows.advance(actions, active)
        truncated = rows.truncations(step.terminated)
        if self.max_episode_steps is not None:
            truncated |= rows.elapsed >= self.max_episode_steps
        return step.reward, step.terminated, truncated, self._info(None, False, step.success)

    @override
    def reset_rows(
        self, rows: Int, *, tasks: list[Task | None] | None = None, repeat_task: bool = False
    ) -> dict[str, Any]:
        if tasks is None:
            self._rows.begin(rows, new_task=not repeat_task)
        else:
            self._begin_with(rows, tasks)
        success = np.zeros(len(rows), np.bool_) if self.family.has_success else None
        return self._info(rows, True, success)

    def _begin_with(self, rows: Int, tasks: list[Task | None]) -> None:
        given = np.array([task is not None for task in tasks], np.bool_)
        if not given.all():
            # Rows without a task of their own follow their pin or their stream, which only they may advance.
            self._rows.next_tasks(rows[~given])
        chosen = [task for task in tasks if task is not None]
        if chosen:
            ids = np.array([task.id for task in chosen])
            self._rows.assign(rows[given], self.family.params_of(chosen), ids)
        self._rows.begin(rows, new_task=False)

    @override
    def observe_rows(self, rows: Int | None) -> Array:
        return self._rows.observe(rows)

    def _info(self, rows: Int | None, starts: bool, success: Bool | None) -> dict[str, Any]:
        ids = self._rows.task_ids.copy() if rows is None else self._rows.task_ids[rows]
        # Copied, since np.ones takes several times as long.
        trial_start = self._all_rows[: len(ids)].copy() if starts else np.zeros(len(ids), np.bool_)
        info: dict[str, Any] = {"task_id": ids, "trial_start": trial_start}
        if success is not None:
            info["is_success"] = success
        if self.reveal_task:
            info["task"] = self.task_columns(np.arange(self.num_envs) if rows is None else rows)
        return info

    # --- tasks -------------------------------------------------------------------------------------------------

    def set_tasks(self, tasks: Sequence[Task | None], env_ids: ArrayLike | None = None) -> None:
        """Pin the tasks of all later trials, from each row's next reset on.

        Args:
            tasks: one a row; None unpins a row.
            env_ids: which rows; all N by default.

        Raises:
            ConfigError: if there is not one task for each row.
            TaskError: if a task does not belong here; nothing is changed then.
        """
        rows = np.arange(self.num_envs) if env_ids is None else np.atleast_1d(np.asarray(env_ids))
        if rows.dtype.kind not in "iu" or (rows < 0).any() or (rows >= self.num_envs).any():
            raise ConfigError(f"env_ids must be in 0..{self.num_envs - 1}, got {rows.tolist()}")
        if len(set(rows.tolist())) != len(rows):
            raise ConfigError(f"env_ids must name no row twice, got {rows.tolist()}")
        if isinstance(tasks, Task) or len(tasks) != len(rows):
            given = "one Task" if isinstance(tasks, Task) else f"{len(tasks)}"
            raise ConfigError(f"set_tasks needs a list of one task (or None) for each of {len(rows)} rows, got {given}")
        distinct = {id(task): task for task in tasks}  # one task is often given to many rows
        own = {key: None if task is None else self.coerce(task) for key, task in distinct.items()}
        coerced = [own[id(task)] for task in tasks]
        pinned = [(row, task) for row, task in zip(rows.tolist(), coerced, strict=True) if task is not None]
        self._rows.unpin(np.array([row for row, task in zip(rows.tolist(), coerced, strict=True) if task is None], int))
        if pinned:
            chosen = [task for _, task in pinned]
            ids = np.array([task.id for task in chosen])
            self._rows.pin(np.array([row for row, _ in pinned]), self.family.params_of(chosen), ids)

    def get_tasks(self) -> tuple[Task, ...]:
        """The tasks being played.

        Raises:
            ResetNeeded: before the first reset.
        """
        if self._rows.state is None:
            raise error.ResetNeeded("there are no tasks before the first reset()")
        return tuple(restore_tasks(self.family, self._rows.params))

    def task_columns(self, rows: Int) -> dict[str, Array]:
        """The fields of the tasks being played in `rows`, (M, ...), copied: `get_tasks` without making tasks."""
        return self._rows.params.take(rows).columns()

    def expected_rewards(self, actions: Array) -> Array | None:
        """What these actions would earn now on average over the noise, (N,); None if the family cannot tell.

        For the trainer alone: it tells about the tasks.

        Args:
            actions: one a row, (N, ...).
        """
        return self.family.expected_reward(self._rows.state, actions, self._rows.params)

    def solutions(self, rows: Int) -> Array | None:
        """What `shortfalls` reads of the tasks being played in `rows`, (M, ...); None if the family cannot tell."""
        return self.family.solve(self._rows.params.take(rows))

    def shortfalls(self, solutions: Array, actions: Array) -> Array:
        """What these actions would give away in expectation, (N,).

        For the trainer alone: it tells about the tasks.

        Args:
            solutions: of the tasks of all rows, (N, ...).
            actions: one a row, (N, ...).
        """
        (state,) = self._rows.state
        left = self.family.episode_length - self._rows.elapsed
        given_away: Array = solutions[np.arange(self.num_envs), left - 1, state, actions]
        return given_away

    def sample_tasks(self, n: int) -> list[Task]:
        """Tasks from a stream of their own: no trajectory changes.

        Raises:
            ConfigError: if n is no integer of at least 1.
        """
        return restore_tasks(self.family, self._rows.sample(check_count(n)))

    # --- access by name, as Gymnasium's own vector envs have it --------------------------------------------------

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every row, or read an attribute: one result a row.

        Raises:
            ConfigError: if rows have no such method or attribute.
        """
        if name == "set_task":
            self.set_tasks([args[0] if args else kwargs["task"]] * self.num_envs)
            return (None,) * self.num_envs
        if name in {"get_task", "task"}:
            return self.get_tasks() if name == "get_task" or self._rows.state is not None else (None,) * self.num_envs
        if name == "sample_task":
            return tuple(self.sample_tasks(self.num_envs))
        if name == "render":
            return self.render()
        shared = {"task_space": self.single_task_space, "observation_space": self.single_observation_space,
                  "action_space": self.single_action_space}  # fmt: skip
        if name in shared:
            return (shared[name],) * self.num_envs
        if name in {"family", "task_distribution", "render_mode", "spec", "reveal_task", "metadata"}:
            return (getattr(self, name),) * self.num_envs
        raise ConfigError(f"rows of {type(self).__name__} have no {name!r}")

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """An attribute of every row."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of every row; only "task" can be set.

        Args:
            name: "task".
            values: a list or tuple with one task (or None) a row, or one task for all.
        """
        if name != "task":
            raise ConfigError(f"only 'task' can be set on the rows of {type(self).__name__}, not {name!r}")
        self.set_tasks(list(values) if isinstance(values, list | tuple) else [values] * self.num_envs)

    @override
    def render(self) -> tuple[Any, ...]:
        """One picture or text a row, as `render_mode` says."""
        if self.render_mode is None:
            return (None,) * self.num_envs
        draw = self.family.draw if self.render_mode == "rgb_array" else self.family.describe
        if self._rows.state is None:
            raise error.ResetNeeded("call reset() before render()")
        state = self._rows.state
        frames = []
        for row in range(self.num_envs):
            index = np.array([row])
            frames.append(draw(type(state)(*(column[index] for column in state)), self._rows.params.take(index)))
        return tuple(frames)

    # --- checkpoints -------------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Array]:
        """Everything that decides the future of the env, as a flat dict of arrays."""
        arrays = self._rows.get_state()
        if self._finished is not None:
            arrays["finished"] = self._finished.copy()
        return arrays

    def set_state(self, arrays: dict[str, Array]) -> None:
        """Continue from what `get_state` of an env of the same family and size returned."""
        self._rows.set_state(arrays)
        self._finished = arrays["finished"].copy() if "finished" in arrays else None
