"""One elementwise function of columns, run three ways with equal bits: on floats, in NumPy, or compiled by numba.

Physics is written once, as plain arithmetic on things that may be numbers or columns. Which way it is run decides
about speed alone: one row costs least as Python floats, many rows as NumPy columns, and all of them least as a single
compiled loop. The result is the same to the last bit, because IEEE arithmetic is, wherever no fused or reordered
operation is allowed. Sines and cosines are not; callers compute them with NumPy and pass them in.
"""

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from gymnasium.error import DependencyNotInstalled
from typing_extensions import override

from metagym.types import Array

__all__ = ["Namespace", "RowWise"]


class Namespace(Protocol):
    """What a function of columns may use beside operators and `abs`: the same three names on arrays and numbers."""

    minimum: Any
    maximum: Any
    where: Any


def _either(condition: bool, chosen: float, other: float) -> float:
    return chosen if condition else other


class _Floats:
    """NumPy's names for Python's numbers, at a tenth of the price."""

    minimum = staticmethod(min)
    maximum = staticmethod(max)
    where = staticmethod(_either)


_item = np.ndarray.item
Factory = Callable[[Any], Callable[..., tuple[Any, ...]]]


class RowWise:
    """An elementwise function of columns.

    With one row it is called with Python numbers, with more with the columns themselves, or, if `compiled`, in a loop
    over the rows that numba compiled. All ways give the same bits, so a row does not depend on how many there are.

    Args:
        factory: from a `Namespace` to the function. The function takes columns (N,) and returns a tuple of them. It
            is plain arithmetic: operators, `abs`, and what the namespace has. It returns floats, not whole numbers
            (0.0, not 0), and never divides by zero, at which Python raises where NumPy goes on. The factory must be
            module-level, to be pickled.
        outputs: the NumPy type characters of what it returns, "d" for a float and "?" for a boolean: "dd?" for three.
        compiled: whether numba compiles it. That takes about a second, once for each factory in a process; nothing is
            written to disk, since installed packages may lie where nobody can write, or be updated under a cache.

    Raises:
        DependencyNotInstalled: if `compiled` and numba is missing.
    """

    def __init__(self, factory: Factory, outputs: str, *, compiled: bool = False) -> None:
        self._arguments = (factory, outputs, compiled)
        self._one = factory(_Floats)
        self._many = _compiled_loop(factory, outputs) if compiled else factory(np)

    def __call__(self, *columns: Array) -> tuple[Array, ...]:
        """The function of these columns, all (N,), as fresh columns (N,)."""
        if len(columns[0]) != 1:
            return self._many(*columns)
        return tuple([np.array([value]) for value in self._one(*map(_item, columns))])

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        factory, outputs, compiled = self._arguments
        return _restore, (factory, outputs, compiled)


def _restore(factory: Factory, outputs: str, compiled: bool) -> RowWise:
    return RowWise(factory, outputs, compiled=compiled)


@cache
def _compiled_loop(factory: Factory, outputs: str) -> Callable[..., tuple[Any, ...]]:
    """The function in a loop over rows, compiled for the columns it is first called with."""
    try:
        import numba
    except ImportError as missing:
        raise DependencyNotInstalled(
            'compiled=True needs numba; install it with: pip install "metagym-rl[compiled]"'
        ) from missing
    # A module, since those are what numba looks names up in; its own `numpy.where` makes arrays, of numbers too.
    floats: Any = ModuleType("floats")
    floats.minimum, floats.maximum, floats.where = min, max, numba.njit(_either)
    function = factory(floats)
    # NumPy's error model: no check for division by zero, which would keep the loop from being vectorised.
    compile_ = numba.njit(error_model="numpy")
    scope: dict[str, Any] = {"empty": np.empty, "row": compile_(function)}
    scope |= {f"t{number}": np.dtype(character) for number, character in enumerate(outputs)}
    exec(_loop_source(function.__code__.co_argcount, len(outputs)), scope)  # numba needs each column as an argument
    loop: Callable[..., tuple[Any, ...]] = compile_(scope["loop"])
    return loop


def _loop_source(num_inputs: int, num_outputs: int) -> str:
    inputs, outputs = range(num_inputs), range(num_outputs)
    allocate = "; ".join(f"o{k} = empty(len(i0), t{k})" for k in outputs)
    return (
        f"def loop({', '.join(f'i{k}' for k in inputs)}):\n"
        f"    {allocate}\n"
        f"    for n in range(len(i0)):\n"
        f"        {''.join(f'o{k}[n], ' for k in outputs)} = row({', '.join(f'i{k}[n]' for k in inputs)})\n"
        f"    return {''.join(f'o{k}, ' for k in outputs)}\n"
    )
