"""Rows that play one episode each: those of many tasks in lock-step, or those of one task in anybody's vector env."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecTransposeImage, unwrap_vec_normalize
from typing_extensions import override

from metagym.algos.batched_rows import Moment, TaskRows, require_native
from metagym.algos.reptile_env import give_task
from metagym.engine import TaskVectorEnv
from metagym.errors import ConfigError
from metagym.types import Array, Bool, Int
from metagym.wrappers.sb3 import VectorEnvAdapter

__all__ = [
    "EpisodeRows",
    "LockStepRows",
    "VecEnvRows",
    "lock_step_rows",
    "put",
    "require_plain_env",
    "with_rows",
]


def put(observations: Any, rows: Int, values: Any) -> None:
    """Overwrite the observations of some rows."""
    if isinstance(observations, dict):
        for key, part in observations.items():
            part[rows] = values[key]
    else:
        observations[rows] = values


def require_plain_env(env: VecEnv) -> None:
    """Refuse `VecNormalize`, whose statistics would differ from step to step of one gradient.

    Raises:
        ConfigError: if there is one.
    """
    if unwrap_vec_normalize(env) is not None:
        raise ConfigError("gradient meta-learners do not take VecNormalize: normalise within the env")


def lock_step_rows(env: VecEnv, num_tasks: int) -> "LockStepRows | None":
    """Rows of K tasks in one native vector env like `env`; None if `env` is not that of a family of metagym's alone."""
    inner = env.venv if isinstance(env, VecTransposeImage) else env
    try:
        native = require_native(inner)
    except ConfigError:
        return None
    return LockStepRows(native, num_tasks, env if isinstance(env, VecTransposeImage) else None)


def with_rows(env: VecEnv, num_rows: int) -> VecEnv:
    """A new vector env like a native one, with another number of rows.

    Raises:
        ConfigError: if the env is not that of a family of metagym's.
    """
    inner = env.venv if isinstance(env, VecTransposeImage) else env
    try:
        like = require_native(inner)
    except ConfigError as other:
        raise ConfigError(f"n_envs={num_rows} needs a training env of one of metagym's families") from other
    native = TaskVectorEnv(
        like.family,
        num_rows,
        autoreset_mode=AutoresetMode.SAME_STEP,
        max_episode_steps=like.max_episode_steps,
        distribution=like.task_distribution,
    )
    made = VecMonitor(VectorEnvAdapter(native))
    return VecTransposeImage(made) if isinstance(env, VecTransposeImage) else made


class EpisodeRows(ABC):
    """n rows for each of K tasks, which play one episode each.

    Attributes:
        num_tasks: K.
        num_rows: n.
        steps_on: whether rows that have played their episode take steps all the same, which somebody's env may feel.
        successes: whether the episodes that ended succeeded, where the family says.
    """

    num_tasks: int
    num_rows: int
    steps_on: ClassVar[bool]
    successes: list[bool]

    @abstractmethod
    def reset(self, tasks: Sequence[Any], seeds: Sequence[int]) -> Any:
        """Start an episode in every row, (K * n, ...), its streams anew from its task's seed."""

    @abstractmethod
    def step(self, actions: Array, running: Bool) -> Moment:
        """Step with actions (K * n, ...); rows that are not `running` have played their episode."""


class _CountedRows(TaskRows):
    """Rows that report whether an episode succeeded, where it is the first of its row."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.running: Bool = np.ones(self.env.num_envs, np.bool_)
        self.successes: list[bool] = []

    @override
    def _record(self, rows: Int, success: Bool | None) -> None:
        if success is not None:
            self.successes += success[rows[self.running[rows]]].tolist()


class LockStepRows(EpisodeRows):
    """All rows in one native vector env, stepped together.

    Args:
        native: the env that it is like.
        num_tasks: K.
        transposer: moves the channels of images to the front, if there are any.
    """

    steps_on: ClassVar[bool] = False

    def __init__(self, native: TaskVectorEnv, num_tasks: int, transposer: VecTransposeImage | None = None) -> None:
        self.num_tasks, self.num_rows = num_tasks, native.num_envs
        self._rows = _CountedRows(native, num_tasks, start=None, window=1)
        self._transposer = transposer

    @override
    def reset(self, tasks: Sequence[Any], seeds: Sequence[int]) -> Any:
        self.successes = self._rows.successes = []
        return self._shown(self._rows.reset(tasks, seeds))

    @override
    def step(self, actions: Array, running: Bool) -> Moment:
        self._rows.running = running
        moment = self._rows.step(actions)
        last = self._shown(moment.last) if moment.cut.size else moment.last
        return moment._replace(observations=self._shown(moment.observations), last=last)

    def _shown(self, observations: Any) -> Any:
        return observations if self._transposer is None else self._transposer.transpose_observations(observations)


class VecEnvRows(EpisodeRows):
    """The rows of any vector env of SB3, all with the same task: K = 1.

    Args:
        env: the env.
    """

    steps_on: ClassVar[bool] = True

    def __init__(self, env: VecEnv) -> None:
        self.num_tasks, self.num_rows = 1, env.num_envs
        self._env = env

    @override
    def reset(self, tasks: Sequence[Any], seeds: Sequence[int]) -> Any:
        self.successes = []
        if tasks[0] is not None:
            give_task(self._env, tasks[0])
        self._env.seed(seeds[0])
        return self._env.reset()

    @override
    def step(self, actions: Array, running: Bool) -> Moment:
        observations, rewards, dones, infos = self._env.step(actions)
        ended = (dones & running).nonzero()[0].tolist()
        self.successes += [bool(infos[row]["is_success"]) for row in ended if "is_success" in infos[row]]
        cut = [row for row in ended if infos[row].get("TimeLimit.truncated", False)]
        ends = [infos[row]["terminal_observation"] for row in cut]
        last = _stack(ends) if ends else None
        return Moment(observations, np.asarray(rewards), np.asarray(dones, np.bool_), np.array(cut, np.int64), last)


def _stack(observations: list[Any]) -> Any:
    if isinstance(observations[0], dict):
        return {key: np.stack([one[key] for one in observations]) for key in observations[0]}
    return np.stack(observations)
