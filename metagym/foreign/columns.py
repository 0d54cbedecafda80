"""Columns of tasks whose fields are known only when a family is made."""

import dataclasses
from functools import cache
from typing import Any

from typing_extensions import override

from metagym.family import Params
from metagym.types import Array

__all__ = ["params_type"]


class _NamedParams(Params):
    """Base of the classes made here, which pickle by the names of their fields."""

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self).names(), self.columns())


@cache
def params_type(names: tuple[str, ...]) -> type[Params]:
    """The class of task columns with these fields; the same class for the same names."""
    fields = [(name, Array) for name in names]
    made: type[Params] = dataclasses.make_dataclass("ForeignParams", fields, bases=(_NamedParams,), frozen=True)
    return made


def _restore(names: tuple[str, ...], columns: dict[str, Array]) -> Params:
    return params_type(names)(**columns)
