"""Several dicts in one, each under a prefix of its own: how checkpoints name the arrays of their parts."""

from collections.abc import Mapping
from typing import TypeVar

__all__ = ["prefixed", "section"]

Value = TypeVar("Value")


def prefixed(prefix: str, values: Mapping[str, Value]) -> dict[str, Value]:
    """The values, each under ``prefix/`` and its own name."""
    return {f"{prefix}/{name}": value for name, value in values.items()}


def section(prefix: str, values: Mapping[str, Value]) -> dict[str, Value]:
    """The values that `prefixed` named, under their own names; values of other prefixes are left out."""
    start = f"{prefix}/"
    return {name[len(start) :]: value for name, value in values.items() if name.startswith(start)}
