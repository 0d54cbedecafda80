"""Checks of the keywords that families are made with."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from metagym.errors import ConfigError

__all__ = ["choice_of", "flag", "integer", "number"]


def flag(name: str, value: Any) -> bool:
    """`value` if it is a bool.

    Raises:
        ConfigError: if not.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{name}={value!r} is not accepted; accepted are True and False")
    return value


def integer(name: str, value: Any, low: int, high: int) -> int:
    """`value` as an int if it is a whole number in [low, high].

    Raises:
        ConfigError: if not.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not low <= int(value) <= high:
        raise ConfigError(f"{name}={value!r} is not accepted; accepted is an integer in [{low}, {high}]")
    return int(value)


def number(name: str, value: Any, low: float, high: float, *, above: bool = False) -> float:
    """`value` as a float if it is a number in [low, high], or in (low, high] with `above`.

    Raises:
        ConfigError: if not.
    """
    real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not real or not low <= float(value) <= high or (above and float(value) == low):
        interval = f"{'(' if above else '['}{low}, {high}]"
        raise ConfigError(f"{name}={value!r} is not accepted; accepted is a number in {interval}")
    return float(value)


def choice_of(name: str, value: Any, choices: Sequence[str]) -> str:
    """`value` if it is one of `choices`.

    Raises:
        ConfigError: if not.
    """
    if not isinstance(value, str) or value not in choices:
        raise ConfigError(f"{name}={value!r} is not accepted; accepted are {', '.join(map(repr, choices))}")
    return value
