"""What a parameter of somebody else's env may be: a range, a union of ranges, a list of choices, a Gymnasium space."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from gymnasium import spaces
from typing_extensions import override

from metagym.errors import ConfigError
from metagym.types import Array, Bool, Float

__all__ = ["Choices", "Domain", "Ranges", "coded", "domain_of", "is_code"]

_ACCEPTED = (
    "accepted are a range (low, high), a list of ranges, a list of choices, or a Box, Discrete, MultiDiscrete or "
    "MultiBinary space"
)
_MOST_VALUES = 2**16


class Domain(ABC):
    """The values of one parameter, and how they are drawn.

    Attributes:
        low: least values, of the parameter's shape.
        high: greatest values.
        dtype: of the task's field.
        num_draws: uniforms that one value takes.
    """

    low: Array
    high: Array
    dtype: np.dtype[Any]
    num_draws: int

    @abstractmethod
    def draw(self, noise: Float) -> Array:
        """Values (n, *shape) from uniforms (n, num_draws)."""

    @abstractmethod
    def listed(self) -> Array | None:
        """All values (k, *shape), each as probable, or None if they are too many or continuous."""

    @abstractmethod
    def contains(self, value: Array) -> bool:
        """Whether a value of the right shape belongs to it."""

    @abstractmethod
    def boxes(self) -> tuple[Array, Array]:
        """Lower and upper corners of the boxes that it consists of, (P, *shape) each."""

    def as_dtype(self, dtype: np.dtype[Any]) -> "Domain":
        """The same, as floats where they are asked for: whole numbers among them need not be spelt so."""
        del dtype
        return self

    def overlaps(self, other: "Domain") -> bool:
        """Whether the two share more than a boundary."""
        for low, high in zip(*self.boxes(), strict=True):
            for other_low, other_high in zip(*other.boxes(), strict=True):
                left, right = np.maximum(low, other_low), np.minimum(high, other_high)
                points = (low == high) | (other_low == other_high)
                if bool(np.all(np.where(points, left <= right, left < right))):
                    return True
        return False


class Ranges(Domain):
    """A union of boxes, drawn from uniformly: by their volumes, then within.

    Args:
        low: lower corners, (P, *shape).
        high: upper corners.
        dtype: a float's, or an integer's: then both ends are drawn.
    """

    def __init__(self, low: Array, high: Array, dtype: np.dtype[Any]) -> None:
        self._low, self._high, self.dtype = low, high, dtype
        self._is_integer = dtype.kind != "f"
        self.low, self.high = low.min(axis=0), high.max(axis=0)
        sizes = (high - low + self._is_integer).astype(np.float64)
        sizes[sizes == 0.0] = 1.0  # a coordinate that does not vary
        weights = sizes.reshape(len(low), -1).prod(axis=1)
        self._cumulative = np.cumsum(weights / weights.sum())[:-1]
        self._several = len(low) > 1
        self._size = int(np.prod(self.low.shape))
        self._num_values = weights.sum() if self._is_integer else np.inf
        self.num_draws = self._size + self._several

    @override
    def draw(self, noise: Float) -> Array:
        box = np.zeros(len(noise), np.int64)
        if self._several:
            box = self._cumulative.searchsorted(noise[:, -1], side="right")
        unit = noise[:, : self._size].reshape(len(noise), *self.low.shape)
        low, high = self._low[box], self._high[box]
        if self._is_integer:
            values: Array = low + np.floor(unit * (high - low + 1))
        else:
            values = np.minimum(low + unit * (high - low), high)
        return values.astype(self.dtype)

    @override
    def listed(self) -> Array | None:
        if self._num_values > _MOST_VALUES:
            return None
        values = []
        for low, high in zip(self._low, self._high, strict=True):
            axes = [np.arange(first, last + 1) for first, last in zip(low.ravel(), high.ravel(), strict=True)]
            grid = np.meshgrid(*axes, indexing="ij")
            values.append(np.stack([axis.ravel() for axis in grid], axis=1).reshape(-1, *low.shape))
        return np.concatenate(values).astype(self.dtype)

    @override
    def contains(self, value: Array) -> bool:
        return bool(np.all((self.low <= value) & (value <= self.high)))

    @override
    def boxes(self) -> tuple[Array, Array]:
        return self._low, self._high


class Choices(Domain):
    """A list of numbers, or of codes of other things, each as probable.

    Args:
        values: distinct numbers, (k,).
    """

    def __init__(self, values: Array) -> None:
        self.values, self.dtype = values, values.dtype
        self.low, self.high, self.num_draws = values.min(), values.max(), 1

    @override
    def draw(self, noise: Float) -> Array:
        drawn: Array = self.values[np.floor(noise[:, 0] * len(self.values)).astype(np.int64)]
        return drawn

    @override
    def as_dtype(self, dtype: np.dtype[Any]) -> Domain:
        return Choices(self.values.astype(dtype)) if dtype.kind == "f" else self

    @override
    def listed(self) -> Array | None:
        return self.values

    @override
    def contains(self, value: Array) -> bool:
        found: Bool = self.values == value
        return bool(found.any())

    @override
    def boxes(self) -> tuple[Array, Array]:
        return self.values, self.values


def is_code(given: Any) -> bool:
    """Whether choices are no plain numbers: tasks then hold their positions in the list."""
    is_list = isinstance(given, Sequence) and not isinstance(given, str | tuple)
    return is_list and any(isinstance(value, bool | np.bool_) or not isinstance(value, Real) for value in given) and (
        not _are_ranges(given)
    )  # fmt: skip


def coded(name: str, given: Sequence[Any], first: int = 0) -> Choices:
    """Choices that are no numbers, as the codes ``first, first + 1, ...``.

    Raises:
        ConfigError: if there are none.
    """
    if not given:
        raise ConfigError(f"{name}=[] is empty; {_ACCEPTED}")
    return Choices(np.arange(first, first + len(given), dtype=np.int64))


def domain_of(name: str, given: Any) -> Domain:
    """The domain that a user's spelling stands for.

    Args:
        name: of the parameter, for messages.
        given: ``(low, high)``: every number between, as float64; a list of such ranges; a list of numbers: these
            alone; or a space.

    Raises:
        ConfigError: if it is none of these, or empty.
    """
    if isinstance(given, spaces.Space):
        return _of_space(name, given)
    if isinstance(given, tuple):
        return _of_ranges(name, [given])
    if isinstance(given, range | np.ndarray):
        given = np.asarray(given).tolist()
    if not isinstance(given, list) or not given:
        raise ConfigError(f"{name}={given!r} is {'empty' if given == [] else 'no domain'}; {_ACCEPTED}")
    return _of_ranges(name, given) if _are_ranges(given) else _of_numbers(name, given)


def _are_ranges(given: Sequence[Any]) -> bool:
    return bool(given) and all(isinstance(part, tuple) and _is_range(part) for part in given)


def _is_range(given: tuple[Any, ...]) -> bool:
    return len(given) == 2 and all(isinstance(end, Real) and not isinstance(end, bool) for end in given)


def _of_ranges(name: str, given: Sequence[tuple[Any, ...]]) -> Domain:
    for part in given:
        if not _is_range(part) or not np.isfinite(part).all() or not part[0] < part[1]:
            raise ConfigError(
                f"{name}={part!r} is no range (low, high) of finite numbers with low < high; {_ACCEPTED}; "
                "choices are a list, not a tuple"
            )
    ends = np.array(given, np.float64)
    return Ranges(ends[:, 0], ends[:, 1], np.dtype(np.float64))


def _of_numbers(name: str, given: Sequence[Any]) -> Domain:
    if not all(isinstance(value, Real) and np.isfinite(float(value)) for value in given):
        raise ConfigError(f"{name}={given!r} holds something else than finite numbers; {_ACCEPTED}")
    whole = all(isinstance(value, int | np.integer) for value in given)
    values = np.array(given, np.int64 if whole else np.float64) + 0
    if len(np.unique(values)) != len(values):
        raise ConfigError(f"{name}={given!r} names a choice twice")
    return Choices(values)


def _of_space(name: str, space: spaces.Space[Any]) -> Domain:
    if isinstance(space, spaces.Discrete):
        low, high = np.array(space.start), np.array(space.start + space.n - 1)
    elif isinstance(space, spaces.MultiDiscrete):
        low, high = space.start, space.start + space.nvec - 1
    elif isinstance(space, spaces.MultiBinary):
        low, high = np.zeros(space.shape), np.ones(space.shape)
    elif isinstance(space, spaces.Box) and space.is_bounded() and space.low.size:
        low, high = space.low, space.high
    else:
        raise ConfigError(f"{name}={space} is no space with finite bounds; {_ACCEPTED}")
    is_float = isinstance(space, spaces.Box) and space.dtype.kind == "f"
    dtype = np.dtype(np.float64 if is_float else np.int64)
    if np.any(low > high):
        raise ConfigError(f"{name}={space} is empty")
    return Ranges(low.astype(dtype)[None], high.astype(dtype)[None], dtype)
