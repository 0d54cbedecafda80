"""What the rows will need, drawn ahead in blocks: the noise of their next calls, and the tasks of their next trials."""

import numpy as np

from metagym.distributions import TaskDistribution
from metagym.family import Params
from metagym.noise import advance, strides, subkeys, uniforms
from metagym.types import Array, Float, Int, Keys

__all__ = ["NoiseTape", "TaskRing"]

_MAX_STRIDES = 16
_MAX_NOISE = 2**15  # uniforms of a block: arrays of 256 KiB; larger ones are mapped and unmapped by malloc every time

_MAX_DEPTH = 32
_MAX_TASKS = 2**14
_MAX_BYTES = 2**26


class NoiseTape:
    """The dynamics noise of N rows: one stride of uniforms for every call on a row, be it a step or a reset.

    A call moves the stream of its row on by one stride, however much of it is used. So rows that are called together
    stay in phase, and what the next steps of all of them use can be drawn as one block. What a reset uses beyond that
    is drawn for the rows that reset. What a row gets depends on neither.

    Args:
        num_rows: N.
        step_draws: uniforms that a step uses.
        initial_draws: uniforms that a reset uses.
    """

    def __init__(self, num_rows: int, step_draws: int, initial_draws: int) -> None:
        self._step_draws, self._initial_draws = step_draws, initial_draws
        self._stride = max(step_draws, initial_draws)
        self._advance = advance(self._stride)
        self._counters: Keys = np.zeros(num_rows, np.uint64)
        self._most = max(1, min(_MAX_STRIDES, _MAX_NOISE // max(1, num_rows * step_draws)))
        self._length = 1
        self._none: Float = np.empty((0, num_rows, step_draws))
        self._last: Float = np.empty((num_rows, 0))
        self._block = self._none
        self._dealt = 0

    def seed(self, rows: Int, keys: Keys) -> None:
        """Restart the streams of some rows."""
        self._settle()
        self._counters[rows] = keys

    def deal(self) -> Float:
        """Move all rows on by one stride; what a step uses of it, (N, step_draws), to be read only."""
        if self._step_draws:
            if self._dealt == len(self._block):
                self._draw()
            self._last = self._block[self._dealt]
        self._dealt += 1
        return self._last

    def dealt_to(self, rows: Int) -> Float:
        """What a reset of some rows uses of the stride dealt to them last, (M, initial_draws).

        The others may have moved on since; these rows must not have.
        """
        if not self._initial_draws:
            return np.empty((len(rows), 0))
        if self._initial_draws <= self._step_draws:
            noise: Float = self._last[rows, : self._initial_draws]
            return noise
        counters = self._counters[rows] + advance((self._dealt - 1) * self._stride)
        return uniforms(counters, self._initial_draws)

    def deal_to(self, rows: Int) -> Float:
        """Move some rows on by one stride; what a reset uses of it, (M, initial_draws). The others do not move."""
        self._settle()
        counters = self._counters[rows]
        self._counters[rows] = counters + self._advance
        if not self._initial_draws:
            return np.empty((len(rows), 0))
        return uniforms(counters, self._initial_draws)

    def _draw(self) -> None:
        length = self._length
        self._settle()
        self._block = strides(self._counters, self._step_draws, length, self._stride)
        self._block.setflags(write=False)
        # Longer while blocks are used up, short again as soon as some rows leave the others' phase.
        self._length = min(2 * length, self._most)

    def _settle(self) -> None:
        """Bring the counters up to what was dealt, and forget what was drawn ahead."""
        if self._dealt:
            self._counters += self._advance if self._dealt == 1 else advance(self._dealt * self._stride)
            self._dealt = 0
        self._block, self._length = self._none, 1

    def get_state(self) -> Keys:
        """The counters, (N,)."""
        self._settle()
        return self._counters.copy()

    def set_state(self, counters: Keys) -> None:
        """Continue from what `get_state` returned."""
        self._settle()
        self._counters[...] = counters


class TaskRing:
    """A ring of tasks for each of N rows.

    Task number t of a row hangs on the row's key and t alone, so how far ahead tasks are drawn changes nothing but
    speed: a block is drawn for all rows at once, as soon as one of them runs out.

    Args:
        distribution: where tasks come from.
        num_rows: N.

    Attributes:
        tasks: columns of N times `depth` tasks.
        ids: their ids.
    """

    def __init__(self, distribution: TaskDistribution, num_rows: int) -> None:
        self._distribution = distribution
        bytes_each = sum(
            int(np.prod(space.shape or ())) * np.dtype(space.dtype).itemsize for space in distribution.space.values()
        )
        most = min(_MAX_DEPTH, _MAX_TASKS // num_rows, _MAX_BYTES // (num_rows * bytes_each))
        self.depth = 1 << max(most, 1).bit_length() - 1
        self._keys: Keys = np.zeros(num_rows, np.uint64)
        self._next: Int = np.zeros(num_rows, np.int64)
        self._filled: Int = np.zeros(num_rows, np.int64)
        self.tasks: Params = distribution.family.params_type(
            **{
                name: np.zeros((num_rows * self.depth, *(space.shape or ())), space.dtype)
                for name, space in distribution.space.items()
            }
        )
        self.ids: Int = np.zeros(num_rows * self.depth, np.int64)

    def seed(self, rows: Int, keys: Keys) -> None:
        """Restart the streams of some rows."""
        self._keys[rows] = keys
        self._next[rows] = self._filled[rows] = 0

    def pop(self, rows: Int) -> Int:
        """Where in `tasks` and `ids` the next task of each of `rows` lies, (M,), until more are drawn."""
        number = self._next[rows]
        if (number == self._filled[rows]).any():
            self._refill()
        slots = rows * self.depth + (number & (self.depth - 1))
        self._next[rows] += 1
        return slots

    def _refill(self) -> None:
        missing = self._next + self.depth - self._filled
        rows = np.repeat(np.arange(len(missing)), missing)
        starts = np.cumsum(missing) - missing
        number = self._filled[rows] + np.arange(len(rows)) - starts[rows]
        tasks, ids = self._distribution.draw(subkeys(self._keys[rows], number))
        slots = rows * self.depth + (number & (self.depth - 1))
        self.tasks.put(slots, tasks)
        self.ids[slots] = ids
        self._filled = self._next + self.depth

    def get_state(self) -> dict[str, Array]:
        """Keys and positions; the tasks themselves follow from them."""
        return {"keys": self._keys.copy(), "next": self._next.copy()}

    def set_state(self, arrays: dict[str, Array]) -> None:
        """Continue from what `get_state` returned."""
        self._keys[...] = arrays["keys"]
        self._next[...] = arrays["next"]
        self._filled[...] = arrays["next"]
