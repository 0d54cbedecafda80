"""A replay buffer of windows that stores every row once, and rebuilds windows when they are sampled."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from typing_extensions import override

from metagym.errors import CheckpointError, ConfigError
from metagym.types import Array, Bool, Int

__all__ = ["WindowReplayBuffer"]

COLUMNS = ("observations", "actions", "rewards", "dones", "timeouts", "ages", "endings")
_NO_ENDING = -1


class WindowReplayBuffer(ReplayBuffer):
    """SB3's replay buffer for windows (K, D + 1) of a trial: the same samples in about 1/2K of the memory.

    A window's rows are observations of consecutive steps, so that storing windows (and the next windows) stores each
    row 2K times. Here a transition stores its newest row alone; the observation after a transition is the row of the
    next one, but at a trial's end, whose last observation is kept beside. From the same draws of NumPy's global
    generator it samples, to the bit, what SB3's `ReplayBuffer` samples from windows.

    Pass it to any off-policy learner on an env of windows, ``SAC(..., replay_buffer_class=WindowReplayBuffer)``.

    Where a row does not continue from the observation that the step before led to (its env was reset before the trial
    was over), a trial begins. What happened in a trial before the buffer's first transition is not seen in its windows.

    Args:
        buffer_size: transitions kept, of all envs together.
        observation_space: of windows, (K, D + 1).
        action_space: of one env.
        device: of the samples.
        n_envs: N.
        optimize_memory_usage: must be False: SB3's way of saving memory would lose the ends of trials.
        handle_timeout_termination: as in SB3: a trial that was only cut off is no end.

    Attributes:
        observations: rows, (C, N, D) float32, with C = ``buffer_size`` + K - 1: the oldest transitions keep the rows
            of their windows.

    Raises:
        ConfigError: if the space is not one of windows, or `optimize_memory_usage` is set.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
    ) -> None:
        if not isinstance(observation_space, spaces.Box) or len(observation_space.shape) != 2:
            raise ConfigError(f"WindowReplayBuffer holds windows, a Box of shape (K, D + 1), not {observation_space}")
        if optimize_memory_usage:
            raise ConfigError("WindowReplayBuffer stores every row once: leave optimize_memory_usage=False")
        # Not ReplayBuffer's constructor, which would allocate the windows.
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs)
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage, self.handle_timeout_termination = False, handle_timeout_termination
        self.length, self.width = observation_space.shape[0], observation_space.shape[1] - 1
        shape = (self.buffer_size + self.length - 1, n_envs)
        self.observations = np.zeros((*shape, self.width), np.float32)
        self.actions = np.zeros((*shape, self.action_dim), self._maybe_cast_dtype(action_space.dtype))
        self.rewards, self.dones, self.timeouts = (np.zeros(shape, np.float32) for _ in range(3))
        # How many rows of its trial are before a row, up to the K - 1 that a window shows.
        self.ages: Int = np.zeros(shape, np.min_scalar_type(self.length))
        # Where in `last_rows` the observation after a transition is, if it is not the row that follows.
        self.endings: Int = np.full(shape, _NO_ENDING, np.int32)
        self.last_rows: NDArray[np.float32] = np.zeros((0, self.width), np.float32)
        self._free: list[int] = []
        self._next_rows: NDArray[np.float32] = np.zeros((n_envs, self.width), np.float32)
        self._count, self._is_cut = 0, True

    # --- adding ------------------------------------------------------------------------------------------------

    @override
    def add(
        self,
        obs: Array,
        next_obs: Array,
        action: Array,
        reward: Array,
        done: Array,
        infos: list[dict[str, Any]],
    ) -> None:
        """Store one transition of every env.

        Args:
            obs: windows (N, K, D + 1), of which the newest rows are stored, or these rows, (N, D).
            next_obs: likewise; where a trial ended, its last one, not the first of the next.
            action: (N, ...).
            reward: (N,).
            done: whether the trial ended, (N,).
            infos: one an env; "TimeLimit.truncated" is read.
        """
        rows, next_rows = self._newest(obs), self._newest(next_obs)
        place = self._count % len(self.observations)
        continues = self._continues(obs, rows)
        self._free.extend(int(ending) for ending in self.endings[place] if ending != _NO_ENDING)
        self.endings[place] = _NO_ENDING
        before = (self._count - 1) % len(self.observations)
        self.ages[place] = np.where(continues, np.minimum(self.ages[before].astype(np.int64) + 1, self.length - 1), 0)
        self.observations[place] = rows
        self.actions[place] = np.asarray(action).reshape(self.n_envs, self.action_dim)
        self.rewards[place], self.dones[place] = reward, done
        if self.handle_timeout_termination:
            self.timeouts[place] = [info.get("TimeLimit.truncated", False) for info in infos]
        self._next_rows = next_rows
        self._end(place, np.asarray(done, np.bool_))
        self._count, self._is_cut = self._count + 1, False
        self.pos, self.full = self._count % self.buffer_size, self._count >= self.buffer_size

    def cut(self) -> None:
        """Say that all envs are reset before the next transition, whether their trials were over or not."""
        self._is_cut = True

    def _newest(self, observation: Array) -> NDArray[np.float32]:
        array = np.asarray(observation, np.float32)
        newest = array[:, -1, :-1] if array.ndim == 3 else array
        return newest.reshape(self.n_envs, self.width).copy()

    def _continues(self, obs: Array, rows: Array) -> Bool:
        """Envs where a row is of the same trial as the row before, (N,). Where it should be and is not, that ends."""
        if not self._count:
            return np.zeros(self.n_envs, np.bool_)
        before = (self._count - 1) % len(self.observations)
        open_: Bool = self.dones[before] == 0
        continues: Bool = open_ & (rows == self._next_rows).all(-1) & (not self._is_cut)
        if np.ndim(obs) == 3 and self.length > 1:
            continues &= obs[:, -2, -1] > 0.5
        self._end(before, open_ & ~continues)
        return continues

    def _end(self, place: int, ended: Bool) -> None:
        """Keep the observation after a transition, for the envs where no row will hold it."""
        for env in np.flatnonzero(ended):
            if not self._free:
                size = len(self.last_rows)
                grown = np.zeros((max(64, 2 * size), self.width), np.float32)
                grown[:size] = self.last_rows
                self.last_rows = grown
                self._free = list(range(len(grown) - 1, size - 1, -1))
            slot = self._free.pop()
            self.last_rows[slot] = self._next_rows[env]
            self.endings[place, env] = slot

    @override
    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.endings[...] = _NO_ENDING
        self._free = list(range(len(self.last_rows)))
        self._count, self._is_cut = 0, True

    # --- sampling ----------------------------------------------------------------------------------------------

    @override
    def _get_samples(self, batch_inds: Array, env: VecNormalize | None = None) -> ReplayBufferSamples:
        # SB3's order of draws. Its place s holds the newest transition whose number is s, modulo the buffer's size.
        envs = np.random.randint(0, high=self.n_envs, size=len(batch_inds))  # noqa: NPY002 (the stream of SB3)
        numbers = (self._count - 1) - (self._count - 1 - batch_inds) % self.buffer_size
        places = numbers % len(self.observations)
        observations, next_observations = self._observations(numbers, envs, env)
        ends = self.dones[places, envs] * (1 - self.timeouts[places, envs])
        rewards = self._normalize_reward(self.rewards[places, envs].reshape(-1, 1), env)
        return ReplayBufferSamples(
            self.to_torch(observations, copy=False),
            self.to_torch(self.actions[places, envs]),
            self.to_torch(next_observations, copy=False),
            self.to_torch(ends.reshape(-1, 1)),
            self.to_torch(rewards),
        )

    def _observations(self, numbers: Int, envs: Int, env: VecNormalize | None) -> tuple[Array, Array]:
        """Windows before and after transitions, each (B, K, D + 1), normalised as the env does."""
        # An env that normalises rows does so before padding and marks are put on.
        whole = env is not None and env.observation_space.shape == self.obs_shape
        windows = self._windows(numbers, envs, None if whole else env)
        before, after = windows[:, :-1], windows[:, 1:]
        return (_normalized(before, env), _normalized(after, env)) if whole else (before, after)

    def _windows(self, numbers: Int, envs: Int, env: VecNormalize | None) -> NDArray[np.float32]:
        """Windows of transitions and the row after each, (B, K + 1, D + 1); rows normalised by `env`."""
        capacity = len(self.observations)
        offsets = np.arange(1 - self.length, 2)
        windows = np.empty((len(numbers), self.length + 1, self.width + 1), np.float32)
        rows = self.observations[(numbers[:, None] + offsets) % capacity, envs[:, None]]
        places = numbers % capacity
        newest = np.flatnonzero(numbers == self._count - 1)
        rows[newest, -1] = self._next_rows[envs[newest]]
        endings = self.endings[places, envs]
        ended = np.flatnonzero(endings != _NO_ENDING)
        rows[ended, -1] = self.last_rows[endings[ended]]
        valid = offsets >= -self.ages[places, envs].astype(np.int64)[:, None]
        windows[..., :-1] = _normalized(rows, env)
        windows[..., -1] = 1.0
        windows[~valid] = 0.0
        return windows

    # --- checkpoints -------------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Array]:
        """Everything that is stored, as a flat dict of arrays."""
        used = min(self._count, len(self.observations))
        arrays = {name: getattr(self, name)[:used].copy() for name in COLUMNS}
        return arrays | {
            "last_rows": self.last_rows.copy(),
            "next_rows": self._next_rows.copy(),
            "count": np.array([self._count, int(self._is_cut)]),
        }

    def set_state(self, arrays: Mapping[str, Array]) -> None:
        """Continue from what `get_state` of an equal buffer returned.

        Raises:
            CheckpointError: if the arrays do not fit.
        """
        try:
            count, is_cut = arrays["count"].tolist()
            used = min(count, len(self.observations))
            for name in COLUMNS:
                column = getattr(self, name)
                if arrays[name].shape != (used, *column.shape[1:]):
                    raise CheckpointError(f"{name} of the stored replay buffer has shape {arrays[name].shape}")
                column[:used] = arrays[name]
            self.last_rows, self._next_rows = arrays["last_rows"].copy(), arrays["next_rows"].copy()
            self.endings[used:] = _NO_ENDING
            taken = set(self.endings[self.endings != _NO_ENDING].tolist())
            if any(slot >= len(self.last_rows) for slot in taken):
                raise CheckpointError("the stored replay buffer lacks ends of trials")
        except (KeyError, ValueError, TypeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"the stored replay buffer is damaged: {error!r}") from error
        self._free = [slot for slot in range(len(self.last_rows)) if slot not in taken]
        self._count, self._is_cut = count, bool(is_cut)
        self.pos, self.full = count % self.buffer_size, count >= self.buffer_size


def _normalized(observations: NDArray[np.float32], env: VecNormalize | None) -> NDArray[np.float32]:
    if env is None:
        return observations
    normalized = env.normalize_obs(observations)
    assert isinstance(normalized, np.ndarray)
    return normalized
