"""Observations, actions and tasks as flat float32 vectors, many rows at once."""

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from metagym.errors import ConfigError
from metagym.types import Array

__all__ = ["Flat", "FlatDict", "flat_box"]

Float32 = NDArray[np.float32]
_ACCEPTED = (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)


class Flat:
    """Writes values of one space into float32 vectors, in the layout of `gymnasium.spaces.flatten`.

    `Discrete` becomes a one-hot vector, `MultiDiscrete` one after another, `Box` and `MultiBinary` their numbers.

    Args:
        space: of one row.

    Attributes:
        width: D, the length of the vectors.
        low: bounds, (D,) float32.
        high: bounds, (D,) float32.

    Raises:
        ConfigError: if the values of the space are not arrays of one shape.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        if not isinstance(space, _ACCEPTED):
            raise ConfigError(
                f"{space} cannot be flattened here; accepted are Box, Discrete, MultiBinary and MultiDiscrete "
                "(for others put gymnasium.wrappers.FlattenObservation inside)"
            )
        self.space = space
        box = spaces.flatten_space(space)
        assert isinstance(box, spaces.Box)
        self.low: Float32 = box.low.astype(np.float32)
        self.high: Float32 = box.high.astype(np.float32)
        self.width = len(self.low)

    def write(self, values: Array, out: Float32) -> None:
        """Write M values into M zeroed rows.

        Args:
            values: (M, *shape of the space).
            out: (M, D) zeros, written to.
        """
        if isinstance(self.space, spaces.Discrete):
            out[np.arange(len(values)), values - self.space.start] = 1.0
        elif isinstance(self.space, spaces.MultiDiscrete):
            for row, value in zip(out, values, strict=True):
                row[:] = spaces.flatten(self.space, value)
        else:
            out[:] = values.reshape(len(values), -1)


class FlatDict:
    """The same for a `spaces.Dict` of such spaces, one field after another.

    Args:
        space: of one row.

    Attributes:
        width: P, the length of the vectors.
        low: bounds, (P,) float32.
        high: bounds, (P,) float32.
    """

    def __init__(self, space: spaces.Dict) -> None:
        self._parts = {name: Flat(part) for name, part in space.items()}
        self.low: Float32 = np.concatenate([part.low for part in self._parts.values()])
        self.high: Float32 = np.concatenate([part.high for part in self._parts.values()])
        self.width = len(self.low)

    def __call__(self, columns: dict[str, Array]) -> Float32:
        """M values, given as columns (M, ...), as vectors (M, P)."""
        num_rows = len(next(iter(columns.values())))
        out = np.zeros((num_rows, self.width), np.float32)
        start = 0
        for name, part in self._parts.items():
            part.write(columns[name], out[:, start : start + part.width])
            start += part.width
        return out


def flat_box(*bounds: tuple[Any, Any]) -> spaces.Box:
    """A flat float32 `Box` from the bounds (low, high) of its parts, each a vector."""
    low = np.concatenate([np.asarray(part[0], np.float32) for part in bounds])
    high = np.concatenate([np.asarray(part[1], np.float32) for part in bounds])
    return spaces.Box(low, high, dtype=np.float32)
