"""Laws, how they are held against a subject, and comparison to the last bit."""

import copy
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from metagym.errors import ConfigError, ContractError
from metagym.types import Array

__all__ = [
    "Law",
    "arrays_of",
    "hold",
    "require",
    "require_apart",
    "require_refusal",
    "require_same",
    "unchanged_generators",
]

_LONGEST = 300


@dataclass(frozen=True)
class Law:
    """Something that every subject of one kind must keep.

    Attributes:
        name: what errors and exemptions call it.
        says: the law, one sentence.
        check: raises `ContractError` where the law is broken; returns None, or why the law does not apply.
    """

    name: str
    says: str
    check: Callable[[Any], str | None]


def hold(laws: Sequence[Law], subject: Any, exempt: Mapping[str, str]) -> dict[str, str]:
    """Check laws one after another.

    Args:
        laws: in the order in which they are checked.
        subject: what every law's check is given.
        exempt: laws that are not checked, each with a reason.

    Returns:
        Law to "holds", or to why it was not checked.

    Raises:
        ConfigError: if an exemption names no law, or gives no reason.
        ContractError: at the first law that is broken.
    """
    known = [law.name for law in laws]
    for name, reason in exempt.items():
        if name not in known:
            raise ConfigError(f"exempt names {name!r}, which is no law here; accepted are {', '.join(known)}")
        if not isinstance(reason, str) or not reason.strip():
            raise ConfigError(f"exempt[{name!r}]={reason!r} must be a text that says why")
    return {law.name: f"exempt: {exempt[law.name]}" if law.name in exempt else _hold(law, subject) for law in laws}


def _hold(law: Law, subject: Any) -> str:
    try:
        with warnings.catch_warnings():
            # What NumPy warns of (an overflow, a division by zero) is a fault of the code that is checked.
            warnings.simplefilter("error", RuntimeWarning)
            reason = law.check(subject)
    except ContractError as broken:
        raise ContractError(f"the law {law.name!r} is broken ({law.says}): {broken}") from broken
    except Exception as raised:
        raise ContractError(
            f"the law {law.name!r} could not be checked ({law.says}): "
            f"found {type(raised).__name__}: {_shown(raised)}; accepted is code that raises and warns of nothing"
        ) from raised
    return "holds" if reason is None else f"does not apply: {reason}"


def require(holds: Any, where: str, found: object, accepted: str) -> None:
    """Break the law that is being checked unless `holds`.

    Raises:
        ContractError: saying where, what was found and what is accepted.
    """
    if not holds:
        raise ContractError(f"{where}: found {_shown(found)}; accepted is {accepted}")


def require_refusal(call: Callable[[], Any], kind: type[Exception], where: str, named: str) -> None:
    """A call raises an error of one kind, whose message names what was wrong.

    Raises:
        ContractError: if it does not.
    """
    accepted = f"a {kind.__name__} that names {named!r}"
    try:
        call()
    except kind as refused:
        require(named in str(refused), where, refused, accepted)
    else:
        require(False, where, "no error", accepted)


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else str(value) if isinstance(value, Exception) else repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def require_same(actual: Any, expected: Any, where: str = "result") -> None:
    """Equal structure, types, dtypes, shapes and bytes.

    Raises:
        ContractError: at the first difference.
    """
    # Texts are made where something is wrong only: those of arrays and spaces take longer than the comparison.
    if type(actual) is not type(expected):
        require(False, where, type(actual).__name__, f"{type(expected).__name__} {expected!r}")
    if isinstance(expected, np.ndarray) and expected.dtype != object:
        _require_same_array(actual, expected, where)
    elif isinstance(expected, dict | np.ndarray | tuple | list):
        _require_same_items(actual, expected, where)
    elif actual != expected:
        require(False, where, actual, repr(expected))


def _require_same_items(actual: Any, expected: Any, where: str) -> None:
    if isinstance(expected, dict):
        if actual.keys() != expected.keys():
            require(False, f"keys of {where}", sorted(actual), str(sorted(expected)))
        pairs = [(key, actual[key], expected[key]) for key in expected]
    else:
        require(len(actual) == len(expected), f"length of {where}", len(actual), str(len(expected)))
        pairs = list(zip(range(len(expected)), actual, expected, strict=True))
    for place, left, right in pairs:
        require_same(left, right, f"{where}[{place!r}]")


def _require_same_array(actual: Array, expected: Array, where: str) -> None:
    if (actual.dtype, actual.shape) != (expected.dtype, expected.shape):
        kinds = [f"{array.dtype} of shape {array.shape}" for array in (actual, expected)]
        require(False, where, kinds[0], kinds[1])
    if actual.tobytes() == expected.tobytes():
        return
    bits = [np.ascontiguousarray(array).reshape(-1, 1).view(np.uint8) for array in (actual, expected)]
    first = int(np.flatnonzero((bits[0] != bits[1]).any(axis=1))[0])
    place = tuple(map(int, np.unravel_index(first, actual.shape)))
    require(False, f"{where}{list(place) if place else ''}", actual[place], f"{expected[place]!r}, to the last bit")


def arrays_of(value: Any) -> list[Array]:
    """All arrays that nested results hold, those inside object arrays too."""
    if isinstance(value, np.ndarray):
        inside = [array for item in value for array in arrays_of(item)] if value.dtype == object else []
        return [value, *inside]
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    return [array for item in items for array in arrays_of(item)]


def require_apart(first: Mapping[str, Any], second: Mapping[str, Any], accepted: str) -> None:
    """No array of the one shares memory with an array of the other; each is a mapping of names to nested results.

    Raises:
        ContractError: naming the two arrays.
    """
    for name, value in first.items():
        for other_name, other in second.items():
            if value is other and name == other_name:
                continue
            shared = any(np.shares_memory(a, b) for a in arrays_of(value) for b in arrays_of(other))
            require(not shared, name, f"memory shared with {other_name}", accepted)


@contextmanager
def unchanged_generators() -> Iterator[None]:
    """Breaks the law that is being checked if the block draws from `numpy.random` or `random`.

    Raises:
        ContractError: naming the generator.
    """
    before = copy.deepcopy(np.random.get_state(legacy=False)), random.getstate()  # noqa: NPY002
    yield
    after = np.random.get_state(legacy=False), random.getstate()  # noqa: NPY002
    accepted = "the noise that is passed, and no global generator"
    for name, old, new in zip(("numpy.random", "random"), before, after, strict=True):
        require(_is_same(new, old), "the calls", f"draws from the global generator of {name}", accepted)


def _is_same(actual: Any, expected: Any) -> bool:
    try:
        require_same(actual, expected)
    except ContractError:
        return False
    return True
