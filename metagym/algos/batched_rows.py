"""The rows of many tasks in one vector env, stepped together; and what episodes they finish."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from metagym.engine import TaskVectorEnv
from metagym.errors import ConfigError
from metagym.types import Array, Bool, Int
from metagym.wrappers.sb3 import VectorEnvAdapter

__all__ = ["Episodes", "Moment", "TaskRows", "clock_of", "require_native"]


def clock_of(env: VecEnv | None) -> float | None:
    """When the monitor of an env started, seconds; None without one."""
    return env.t_start if isinstance(env, VecMonitor) else None


def require_native(env: VecEnv) -> TaskVectorEnv:
    """The vector env of a family of metagym's in an SB3 env that holds nothing else.

    Raises:
        ConfigError: if there is something else, which rows would not see if they were stepped without it.
    """
    monitor = env if type(env) is VecMonitor else None
    adapter = env if monitor is None else monitor.venv
    native = adapter.env if type(adapter) is VectorEnvAdapter else None
    plain_monitor = monitor is None or (monitor.results_writer is None and not monitor.info_keywords)
    if type(native) is TaskVectorEnv and plain_monitor:
        return native
    layers = []
    layer: Any = env
    while layer is not None:
        layers.append(type(layer).__name__)
        layer = vars(layer).get("venv", vars(layer).get("env"))
    raise ConfigError(
        "batched=True steps the rows of metagym's own vector envs itself: give an id or an env of one of its families, "
        f"without wrappers and log files; got {' of '.join(layers)}"
    )


class Moment(NamedTuple):
    """What a step of all rows led to.

    Attributes:
        observations: (N, ...), or a dict of those; the first of the next episode where one ended.
        rewards: (N,).
        dones: rows whose episode ended, (N,).
        cut: numbers of the rows whose episode was truncated only, (M,).
        last: the last observations of those episodes, (M, ...), or a dict of those.
    """

    observations: Any
    rewards: Array
    dones: Bool
    cut: Int
    last: Any


@dataclass
class Episodes:
    """The episodes that one task's rows finish, as SB3 and Reptile record them.

    Attributes:
        latest: SB3's records of the latest episodes.
        successes: whether they succeeded, where the family says.
        first: return of the first episode of each row that finished one.
        last: return of the last one.
        number: how many there were.
    """

    latest: deque[dict[str, Any]]
    successes: deque[Any]
    first: dict[int, float] = field(default_factory=dict)
    last: dict[int, float] = field(default_factory=dict)
    number: int = 0


class TaskRows:
    """n rows for each of K tasks, as one native vector env of K * n rows that resets finished ones at once.

    Row i of a task goes through the trajectory, to the bit, that it has in an env of n rows.

    Args:
        like: the env of n rows.
        num_tasks: K.
        start: of the clock that SB3's records of episodes show, seconds; None where there is no monitor, and episodes
            are counted, but their returns are not known.
        window: how many of the latest episodes are recorded.
    """

    def __init__(self, like: TaskVectorEnv, num_tasks: int, *, start: float | None, window: int) -> None:
        self.num_tasks, self.num_rows = num_tasks, like.num_envs
        self.env = TaskVectorEnv(
            like.family,
            num_tasks * like.num_envs,
            autoreset_mode=AutoresetMode.SAME_STEP,
            max_episode_steps=like.max_episode_steps,
            distribution=like.task_distribution,
        )
        self._start, self._window = start, window
        self.begin_counting()

    def begin_counting(self) -> None:
        """Forget all episodes."""
        self.episodes = [
            Episodes(deque(maxlen=self._window), deque(maxlen=self._window)) for _ in range(self.num_tasks)
        ]
        self.returns: Array = np.zeros(self.env.num_envs, np.float32)  # as VecMonitor adds them up
        self.lengths: Array = np.zeros(self.env.num_envs, np.int32)

    def reset(self, tasks: Sequence[Any], seeds: Sequence[int]) -> Array:
        """Pin the tasks, start all streams anew, and start episodes.

        Args:
            tasks: K.
            seeds: row r of task k is seeded with ``seeds[k] + r``.

        Returns:
            Observations, (N, ...).
        """
        self.begin_counting()
        self.env.set_tasks([task for task in tasks for _ in range(self.num_rows)])
        observations: Array = self.env.reset(seed=[seed + row for seed in seeds for row in range(self.num_rows)])[0]
        return observations

    def step(self, actions: Array) -> Moment:
        """Step every row with actions (N, ...) of the action space; rewards are float32."""
        env = self.env
        reward, terminated, truncated, info = env.step_rows(actions, None)
        rewards = reward.astype(np.float32)
        dones = terminated | truncated
        self.returns += rewards
        self.lengths += 1
        rows = dones.nonzero()[0]
        cut = rows
        last: Array = rewards[:0]
        if rows.size:
            self._record(rows, info.get("is_success"))
            cut = (truncated & ~terminated).nonzero()[0]
            if cut.size:
                last = env.observe_rows(cut)
            env.reset_rows(rows)
        return Moment(env.observe_rows(None), rewards, dones, cut, last)

    def _record(self, rows: Int, success: Bool | None) -> None:
        seconds = round(time.time() - (self._start or 0.0), 6)
        for row in rows.tolist():
            task, place = divmod(row, self.num_rows)
            episodes = self.episodes[task]
            episodes.number += 1
            if success is not None:
                episodes.successes.append(bool(success[row]))
            if self._start is not None:
                total = self.returns[row]
                episodes.latest.append({"r": total, "l": self.lengths[row], "t": seconds})
                episodes.last[place] = float(total)
                episodes.first.setdefault(place, float(total))
        self.returns[rows] = 0
        self.lengths[rows] = 0
