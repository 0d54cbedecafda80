"""The tasks that the next trials of each row will have, drawn ahead in blocks."""

import numpy as np

from metagym.distributions import TaskDistribution
from metagym.family import Params
from metagym.noise import subkeys
from metagym.types import Array, Int, Keys

__all__ = ["TaskRing"]

_MAX_DEPTH = 32
_MAX_TASKS = 2**14
_MAX_BYTES = 2**26


class TaskRing:
    """A ring of tasks for each of N rows.

    Task number t of a row hangs on the row's key and t alone, so how far ahead tasks are drawn changes nothing but
    speed: a block is drawn for all rows at once, as soon as one of them runs out.

    Args:
        distribution: where tasks come from.
        num_rows: N.
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
        self._tasks: Params | None = None
        self._ids: Int = np.zeros(num_rows * self.depth, np.int64)

    def seed(self, rows: Int, keys: Keys) -> None:
        """Restart the streams of some rows."""
        self._keys[rows] = keys
        self._next[rows] = self._filled[rows] = 0

    def pop(self, rows: Int) -> tuple[Params, Int]:
        """The next task of each of `rows`, and their ids."""
        number = self._next[rows]
        if (number == self._filled[rows]).any():
            self._refill()
        slots = rows * self.depth + (number & (self.depth - 1))
        self._next[rows] += 1
        assert self._tasks is not None
        return self._tasks.take(slots), self._ids[slots]

    def _refill(self) -> None:
        missing = self._next + self.depth - self._filled
        rows = np.repeat(np.arange(len(missing)), missing)
        starts = np.cumsum(missing) - missing
        number = self._filled[rows] + np.arange(len(rows)) - starts[rows]
        tasks, ids = self._distribution.draw(subkeys(self._keys[rows], number))
        if self._tasks is None:
            self._tasks = type(tasks)(
                **{
                    name: np.zeros((len(missing) * self.depth, *column.shape[1:]), column.dtype)
                    for name, column in tasks.columns().items()
                }
            )
        slots = rows * self.depth + (number & (self.depth - 1))
        self._tasks.put(slots, tasks)
        self._ids[slots] = ids
        self._filled = self._next + self.depth

    def get_state(self) -> dict[str, Array]:
        """Keys and positions; the tasks themselves follow from them."""
        return {"keys": self._keys.copy(), "next": self._next.copy()}

    def set_state(self, arrays: dict[str, Array]) -> None:
        """Continue from what `get_state` returned."""
        self._keys[...] = arrays["keys"]
        self._next[...] = arrays["next"]
        self._filled[...] = arrays["next"]
