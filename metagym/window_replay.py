"""A replay buffer of windows that stores every row once, and rebuilds windows when they are sampled."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common import buffers
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from typing_extensions import override

from metagym.errors import CheckpointError, ConfigError
from metagym.types import Array, Bool, Int
from metagym.wrappers.window import THERE, WindowSpace, entries_of, on_parts, put

__all__ = ["WindowReplayBuffer"]

COLUMNS = ("actions", "rewards", "dones", "timeouts", "ages", "endings")
_ROWS = "observations"
_NO_ENDING = -1


class WindowReplayBuffer(ReplayBuffer):
    """SB3's replay buffer for windows of a trial: the same samples in about 1/2K of the memory.

    A window's rows are observations of consecutive steps, so that storing windows (and the next windows) stores each
    row 2K times. Here a transition stores its newest row alone; the observation after a transition is the row of the
    next one, but at a trial's end, whose last observation is kept beside. From the same draws of NumPy's global
    generator it samples, to the bit, what SB3's `ReplayBuffer` (of Dicts its `DictReplayBuffer`) samples from windows.

    A transition takes the bytes of one row (4 D; of a Dict those of its entries, of which images are bytes, as they
    came), 4 for each number of the action (8 of a discrete one), and 17 more; the end of a trial takes another row. A
    million transitions of 3 x 84 x 84 images are 21 GB, where SB3's buffer of windows of 16 of them would take 677 GB.
    A sample has the size of ``batch_size`` (K + 1) rows.

    Pass it to any off-policy learner on an env of windows, ``SAC(..., replay_buffer_class=WindowReplayBuffer)``.

    Where a row does not continue from the observation that the step before led to (its env was reset before the trial
    was over), a trial begins. What happened in a trial before the buffer's first transition is not seen in its windows.

    Args:
        buffer_size: transitions kept, of all envs together.
        observation_space: of windows: (K, D + 1), or a `WindowSpace`.
        action_space: of one env.
        device: of the samples.
        n_envs: N.
        optimize_memory_usage: must be False: SB3's way of saving memory would lose the ends of trials.
        handle_timeout_termination: as in SB3: a trial that was only cut off is no end.

    Attributes:
        observations: rows, (C, N, D) float32, with C = ``buffer_size`` + K - 1: the oldest transitions keep the rows
            of their windows. Of a `WindowSpace` a dict of (C, N, ...).

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
        self._zeros = _zeros_of_rows(observation_space)
        if optimize_memory_usage:
            raise ConfigError("WindowReplayBuffer stores every row once: leave optimize_memory_usage=False")
        # Not ReplayBuffer's constructor, which would allocate the windows.
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs)
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage, self.handle_timeout_termination = False, handle_timeout_termination
        self.length: int = observation_space.length if isinstance(observation_space, WindowSpace) else self.obs_shape[0]
        shape = (self.buffer_size + self.length - 1, n_envs)
        self.capacity = shape[0]
        self.observations: Any = self._rows_of(*shape)
        self.actions = np.zeros((*shape, self.action_dim), self._maybe_cast_dtype(action_space.dtype))
        self.rewards, self.dones, self.timeouts = (np.zeros(shape, np.float32) for _ in range(3))
        # How many rows of its trial are before a row, up to the K - 1 that a window shows.
        self.ages: Int = np.zeros(shape, np.min_scalar_type(self.length))
        # Where in `last_rows` the observation after a transition is, if it is not the row that follows.
        self.endings: Int = np.full(shape, _NO_ENDING, np.int32)
        self._warn_of_memory()
        self.last_rows: Any = self._rows_of(0)
        self._num_slots = 0
        # A heap: which slot is next hangs on which are taken, not on the order in which they were given back.
        self._free: list[int] = []
        self._next_rows: Any = self._rows_of(n_envs)
        self._count, self._is_cut = 0, True

    def _warn_of_memory(self) -> None:
        """Say so, as SB3 does, where the machine has less memory than this will take when it is full."""
        psutil: Any = getattr(buffers, "psutil", None)  # optional there
        columns = [*_parts(self.observations), *(getattr(self, name) for name in COLUMNS)]
        needed = sum(column.nbytes for column in columns)
        if psutil is not None and needed > (free := psutil.virtual_memory().available):
            warnings.warn(
                f"this replay buffer will take {needed / 1e9:.1f} GB, of which {free / 1e9:.1f} GB are there: choose a "
                f"buffer_size below {self.buffer_size * self.n_envs}.",
                stacklevel=3,
            )

    def _rows_of(self, *shape: int) -> Any:
        """Zeros, (*shape, D), or a dict of (*shape, ...)."""
        return on_parts(lambda zero: np.zeros((*shape, *zero.shape), zero.dtype), self._zeros)

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
            obs: windows (N, K, D + 1), of which the newest rows are stored, or these rows, (N, D); or dicts.
            next_obs: likewise; where a trial ended, its last one, not the first of the next.
            action: (N, ...).
            reward: (N,).
            done: whether the trial ended, (N,).
            infos: one an env; "TimeLimit.truncated" is read.
        """
        rows, next_rows = self._newest(obs), self._newest(next_obs)
        place = self._count % self.capacity
        continues = self._continues(obs, rows)
        for ending in self.endings[place][self.endings[place] != _NO_ENDING].tolist():
            heappush(self._free, ending)
        self.endings[place] = _NO_ENDING
        before = (self._count - 1) % self.capacity
        self.ages[place] = np.where(continues, np.minimum(self.ages[before].astype(np.int64) + 1, self.length - 1), 0)
        put(self.observations, place, rows)
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

    def _newest(self, observation: Any) -> Any:
        """The newest rows, as they are stored; of windows, or rows alone."""
        if not isinstance(self._zeros, dict):
            array = np.asarray(observation, np.float32)
            rows: Any = array[:, -1, :-1] if array.ndim == 3 else array
        else:
            entries = entries_of(observation)
            rows = {name: np.asarray(entries[name]) for name in self._zeros}
            rows = on_parts(lambda part: part[:, -1], rows) if THERE in entries else rows
        return on_parts(lambda part, zero: part.reshape(self.n_envs, *zero.shape).astype(zero.dtype), rows, self._zeros)

    def _continues(self, obs: Any, rows: Any) -> Bool:
        """Envs where a row is of the same trial as the row before, (N,). Where it should be and is not, that ends."""
        if not self._count:
            return np.zeros(self.n_envs, np.bool_)
        before = (self._count - 1) % self.capacity
        open_: Bool = self.dones[before] == 0
        equal = on_parts(lambda one, other: (one == other).reshape(self.n_envs, -1).all(-1), rows, self._next_rows)
        continues: Bool = open_ & np.all(_parts(equal), 0) & (not self._is_cut)
        if (there := _marks(obs)) is not None and self.length > 1:
            continues &= there[:, -2] > 0.5
        self._end(before, open_ & ~continues)
        return continues

    def _end(self, place: int, ended: Bool) -> None:
        """Keep the observation after a transition, for the envs where no row will hold it."""
        for env in np.flatnonzero(ended):
            if not self._free:
                self._grow()
            slot = heappop(self._free)
            put(self.last_rows, slot, on_parts(lambda part, of=env: part[of], self._next_rows))
            self.endings[place, env] = slot

    def _grow(self) -> None:
        """Make room for more ends of trials."""
        size, self._num_slots = self._num_slots, max(64, 2 * self._num_slots)
        grown = self._rows_of(self._num_slots)
        put(grown, slice(size), self.last_rows)
        self.last_rows = grown
        self._free = list(range(size, self._num_slots))

    @override
    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.endings[...] = _NO_ENDING
        self._free = list(range(self._num_slots))
        self._count, self._is_cut = 0, True

    # --- sampling ----------------------------------------------------------------------------------------------

    @override
    def _get_samples(self, batch_inds: Array, env: VecNormalize | None = None) -> ReplayBufferSamples:
        # SB3's order of draws. Its place s holds the newest transition whose number is s, modulo the buffer's size.
        envs = np.random.randint(0, high=self.n_envs, size=len(batch_inds))  # noqa: NPY002 (the stream of SB3)
        numbers = (self._count - 1) - (self._count - 1 - batch_inds) % self.buffer_size
        places = numbers % self.capacity
        observations, next_observations = self._observations(numbers, envs, env)
        ends = self.dones[places, envs] * (1 - self.timeouts[places, envs])
        rewards = self._normalize_reward(self.rewards[places, envs].reshape(-1, 1), env)
        kind: Any = DictReplayBufferSamples if isinstance(observations, dict) else ReplayBufferSamples
        samples: ReplayBufferSamples = kind(
            self._tensors(observations),
            self.to_torch(self.actions[places, envs]),
            self._tensors(next_observations),
            self.to_torch(ends.reshape(-1, 1)),
            self.to_torch(rewards),
        )
        return samples

    def _tensors(self, windows: Any) -> Any:
        tensors = on_parts(lambda part: self.to_torch(part, copy=False), windows)
        return _Entries(tensors) if isinstance(tensors, dict) else tensors

    def _observations(self, numbers: Int, envs: Int, env: VecNormalize | None) -> tuple[Any, Any]:
        """Windows before and after transitions, each (B, K, ...), normalised as the env does."""
        # An env that normalises rows does so before padding and marks are put on.
        whole = env is not None and _are_windows(env.observation_space, self.observation_space)
        windows = self._windows(numbers, envs, None if whole else env)
        before, after = (on_parts(lambda part, of=of: part[:, of], windows) for of in (slice(-1), slice(1, None)))
        return (_normalized(before, env), _normalized(after, env)) if whole else (before, after)

    def _windows(self, numbers: Int, envs: Int, env: VecNormalize | None) -> Any:
        """Windows of transitions and the row after each, (B, K + 1, ...); rows normalised by `env`."""
        offsets = np.arange(1 - self.length, 2)
        wanted = (numbers[:, None] + offsets) % self.capacity
        rows = on_parts(lambda column: column[wanted, envs[:, None]], self.observations)
        places = numbers % self.capacity
        newest = np.flatnonzero(numbers == self._count - 1)
        put(rows, (newest, -1), on_parts(lambda part: part[envs[newest]], self._next_rows))
        endings = self.endings[places, envs]
        ended = np.flatnonzero(endings != _NO_ENDING)
        put(rows, (ended, -1), on_parts(lambda part: part[endings[ended]], self.last_rows))
        there = offsets >= -self.ages[places, envs].astype(np.int64)[:, None]
        return self._as_windows(self._normalized_rows(rows, env), there)

    def _normalized_rows(self, rows: Any, env: VecNormalize | None) -> Any:
        space = self.observation_space
        if isinstance(space, WindowSpace) and not isinstance(space.row_space, spaces.Dict):
            return on_parts(lambda part: _normalized(part, env), rows)  # to the env it is no Dict
        return _normalized(rows, env)

    def _as_windows(self, rows: Any, there: Bool) -> Any:
        """Windows of rows (B, K, ...), zero where nothing is there, (B, K)."""
        if isinstance(rows, dict):
            for part in rows.values():
                part[~there] = 0
            return {**rows, THERE: there.astype(np.int8)}
        windows = np.empty((*there.shape, rows.shape[-1] + 1), np.float32)
        windows[..., :-1] = rows
        windows[..., -1] = 1.0
        windows[~there] = 0.0
        return windows

    # --- checkpoints -------------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Array]:
        """Everything that is stored, as a flat dict of arrays."""
        used = min(self._count, self.capacity)
        arrays = {name: getattr(self, name)[:used].copy() for name in COLUMNS}
        arrays |= _named(_ROWS, on_parts(lambda column: column[:used].copy(), self.observations))
        arrays |= _named("last_rows", on_parts(np.copy, self.last_rows))
        arrays |= _named("next_rows", on_parts(np.copy, self._next_rows))
        return arrays | {"count": np.array([self._count, int(self._is_cut)])}

    def set_state(self, arrays: Mapping[str, Array]) -> None:
        """Continue from what `get_state` of an equal buffer returned.

        Raises:
            CheckpointError: if the arrays do not fit.
        """
        try:
            self._set_state(arrays)
        except (KeyError, ValueError, TypeError, IndexError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"the stored replay buffer is damaged: {error!r}") from error

    def _set_state(self, arrays: Mapping[str, Array]) -> None:
        count, is_cut = arrays["count"].tolist()
        used = min(count, self.capacity)
        columns = _named(_ROWS, self.observations) | {name: getattr(self, name) for name in COLUMNS}
        for name, column in columns.items():
            _check_shape(name, arrays[name], (used, *column.shape[1:]))
            column[:used] = arrays[name]
        last_rows = self._stored("last_rows", arrays)
        num_slots = min(len(part) for part in _parts(last_rows))
        self.endings[used:] = _NO_ENDING
        taken = set(self.endings[self.endings != _NO_ENDING].tolist())
        if any(slot >= num_slots for slot in taken):
            raise CheckpointError("the stored replay buffer lacks ends of trials")
        self.last_rows, self._next_rows = last_rows, self._stored("next_rows", arrays)
        self._num_slots = num_slots
        self._free = [slot for slot in range(num_slots) if slot not in taken]
        self._count, self._is_cut = count, bool(is_cut)
        self.pos, self.full = count % self.buffer_size, count >= self.buffer_size

    def _stored(self, name: str, arrays: Mapping[str, Array]) -> Any:
        """Rows that are not of the ring, (M, ...), from a state."""
        for key, zero in _named(name, self._zeros).items():
            _check_shape(key, arrays[key], (len(arrays[key]), *zero.shape))
        if not isinstance(self._zeros, dict):
            return arrays[name].copy()
        return {key: arrays[f"{name}/{key}"].copy() for key in self._zeros}


class _Entries(dict[str, th.Tensor]):
    """A batch of Dicts. CrossQ joins two of them with `torch.cat`, as if they were tensors: entry by entry, then."""

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], _: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function is not th.cat:
            return NotImplemented
        batches, *rest = args
        return cls({name: th.cat([batch[name] for batch in batches], *rest, **(kwargs or {})) for name in batches[0]})


def _zeros_of_rows(space: spaces.Space[Any]) -> Any:
    """A row of zeros, (D,), or a dict of them.

    Raises:
        ConfigError: if the space is not one of windows.
    """
    if isinstance(space, WindowSpace):
        return {name: np.zeros(space[name].shape[1:], space[name].dtype) for name in space.row_spaces}  # type: ignore[index]
    if not isinstance(space, spaces.Box) or len(space.shape) != 2:
        raise ConfigError(f"WindowReplayBuffer holds windows, a Box of shape (K, D + 1) or a WindowSpace, not {space}")
    return np.zeros(space.shape[1] - 1, np.float32)


def _are_windows(seen: spaces.Space[Any], windows: spaces.Space[Any]) -> bool:
    """Whether an env sees windows, not rows."""
    return THERE in seen.spaces if isinstance(seen, spaces.Dict) else seen.shape == windows.shape


def _marks(observation: Any) -> Array | None:
    """Which places of windows are there, (N, K); None for rows."""
    if isinstance(observation, dict):
        return observation.get(THERE)
    array = np.asarray(observation)
    return array[..., -1] if array.ndim == 3 else None


def _parts(values: Any) -> list[Array]:
    return list(values.values()) if isinstance(values, dict) else [values]


def _named(name: str, values: Any) -> dict[str, Array]:
    """Rows as arrays of a checkpoint."""
    return {f"{name}/{key}": part for key, part in values.items()} if isinstance(values, dict) else {name: values}


def _check_shape(name: str, array: Array, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise CheckpointError(f"{name} of the stored replay buffer has shape {array.shape}, not {shape}")


def _normalized(observations: Any, env: VecNormalize | None) -> Any:
    return observations if env is None else env.normalize_obs(observations)
