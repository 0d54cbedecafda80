"""What families of physical constants share: a box of tasks around a nominal one, and how tasks are drawn from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from gymnasium import spaces
from typing_extensions import override

from metagym.family import Family, ParamsT, Region, StateT
from metagym.tasks import Task
from metagym.types import Array, Float

__all__ = ["PhysicsFamily", "Span"]


@dataclass(frozen=True)
class Span:
    """The values of one constant.

    Attributes:
        nominal: the published value.
        train: lowest and highest value in training and test.
        support: lowest and highest value of the task space.
    """

    nominal: float
    train: tuple[float, float]
    support: tuple[float, float]


class PhysicsFamily(Family[StateT, ParamsT]):
    """A family whose tasks are scalar constants, one `Span` for each field of its params.

    In training and test, constants are independent and uniform on their training intervals; the two are told apart by
    a hash of all of them. Out of distribution, one constant, each as likely, is uniform on what its support has beyond
    its training interval, and the others are uniform on their whole supports.

    Attributes:
        spans: name of a constant to its values, in the order of the params.
    """

    spans: ClassVar[Mapping[str, Span]]
    initial_needs_task = False
    observe_needs_task = False

    def __init__(self) -> None:
        spans = list(self.spans.values())
        self.structural = tuple(self.spans)
        self.num_structure_draws = len(spans)
        self.task_space = spaces.Dict(
            {name: spaces.Box(*span.support, (), np.float64) for name, span in self.spans.items()}
        )
        self._train_low, self._train_high = np.array([span.train for span in spans]).T
        self._low, self._high = np.array([span.support for span in spans]).T
        self._below, self._above = self._train_low - self._low, self._high - self._train_high
        self._leavable = np.flatnonzero(self._below + self._above > 0.0)

    @classmethod
    def nominal(cls) -> Task:
        """The task whose constants are the published ones."""
        return Task(cls.name, {name: np.array(span.nominal) for name, span in cls.spans.items()})

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        if region == "train":
            values = _between(self._train_low, self._train_high, noise)
        else:
            # The first uniform says which constant leaves; what is left of it is as uniform as it was.
            turn = noise[:, 0] * len(self._leavable)
            number = turn.astype(np.int64)
            place = np.column_stack([turn - number, noise[:, 1:]])
            values = _between(self._low, self._high, place)
            rows, leaving = np.arange(len(noise)), self._leavable[number]
            values[rows, leaving] = self._beyond(place[rows, leaving], leaving)
        return {name: values[:, column].copy() for column, name in enumerate(self.spans)}

    def _beyond(self, place: Float, which: Array) -> Float:
        """Values of constants number `which` outside their training intervals, for places in [0, 1)."""
        below, above = self._below[which], self._above[which]
        offset = place * (below + above)
        # Neither side holds the end of the training interval itself, also where sums are rounded.
        under = np.minimum(self._low[which] + offset, np.nextafter(self._train_low[which], -np.inf))
        over = np.maximum(self._high[which] - (offset - below), np.nextafter(self._train_high[which], np.inf))
        values: Float = np.where((offset < below) | (above == 0.0), under, over)
        return values


def _between(low: Float, high: Float, place: Float) -> Float:
    """Values at `place` in [0, 1) between `low` and `high`, never above `high` by rounding."""
    values: Float = np.minimum(low + (high - low) * place, high)
    return values
