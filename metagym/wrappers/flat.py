"""Observations, actions and tasks as flat float32 vectors, many rows at once."""

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from metagym.errors import ConfigError
from metagym.types import Array

__all__ = ["Flat", "FlatDict", "Kept", "flat_box"]

OBSERVATION = "observation"
# Convolutions of the usual size (Mnih et al. 2015) have nothing to slide over in less.
SMALLEST_IMAGE = 36

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


class Kept:
    """Observations that stay what they are, as entries of a `spaces.Dict`.

    The entries of a Dict stay its entries, but that pictures too small to be images become flat. An image, a Box of
    bytes with three axes and at least 36 pixels either way, becomes the entry "observation".

    Args:
        space: of one row.

    Raises:
        ConfigError: if a Dict holds what a network cannot read: other spaces than Box, Discrete, MultiBinary and
            MultiDiscrete.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {OBSERVATION: space}
        for name, part in parts.items():
            if not isinstance(part, _ACCEPTED):
                raise ConfigError(
                    f"entry {name!r} is {part}; accepted are Box, Discrete, MultiBinary and MultiDiscrete (leave it "
                    "out with gymnasium.wrappers.FilterObservation)"
                )
        self._flat = {name for name, part in parts.items() if _is_picture(part) and not _is_image(part)}
        self._parts = {name: _flattened(part) if name in self._flat else part for name, part in parts.items()}

    @staticmethod
    def is_needed(space: spaces.Space[Any]) -> bool:
        """Whether flattening would be senseless: for a Dict, and for an image."""
        return _is_image(space) or isinstance(space, spaces.Dict)

    def with_entry(self, name: str, space: spaces.Space[Any]) -> spaces.Dict:
        """The Dict of these entries and of another.

        Raises:
            ConfigError: if there is an entry of that name.
        """
        if name in self._parts:
            raise ConfigError(f"observations have an entry {name!r} already, which is needed for another purpose")
        return spaces.Dict({**self._parts, name: space})

    def entries(self, values: Any) -> dict[str, Array]:
        """M observations as entries (M, ...)."""
        if not isinstance(values, dict):
            return {OBSERVATION: values}
        return {
            name: part.reshape(len(part), -1).astype(np.float32) if name in self._flat else part
            for name, part in values.items()
        }


def _is_picture(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Box) and len(space.shape) == 3 and space.dtype == np.uint8


def _is_image(space: spaces.Space[Any]) -> bool:
    return _is_picture(space) and sorted(space.shape or ())[1] >= SMALLEST_IMAGE


def _flattened(space: spaces.Space[Any]) -> spaces.Box:
    flat = Flat(space)
    return spaces.Box(flat.low, flat.high, dtype=np.float32)


def flat_box(*bounds: tuple[Any, Any]) -> spaces.Box:
    """A flat float32 `Box` from the bounds (low, high) of its parts, each a vector."""
    low = np.concatenate([np.asarray(part[0], np.float32) for part in bounds])
    high = np.concatenate([np.asarray(part[1], np.float32) for part in bounds])
    return spaces.Box(low, high, dtype=np.float32)
