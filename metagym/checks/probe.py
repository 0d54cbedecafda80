"""A family under examination: its tasks, and moments of its dynamics along random trajectories."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from metagym.distributions import TaskDistribution
from metagym.errors import ConfigError
from metagym.family import Family
from metagym.types import Array, Bool, Float

__all__ = ["Moment", "Probe", "outcomes_of"]

_MOMENTS = 8


class Moment(NamedTuple):
    """All that `initial`, `step` and `observe` of N rows are given."""

    params: Any
    state: Any
    action: Array
    initial_noise: Float
    step_noise: Float

    def take(self, rows: Array) -> "Moment":
        """The moment of some rows, copied."""
        state = type(self.state)(*(column[rows] for column in self.state))
        arrays = (self.action[rows], self.initial_noise[rows], self.step_noise[rows])
        return Moment(self.params.take(rows), state, *arrays)

    def columns(self) -> dict[str, Array]:
        """Name to array, those of tasks and states too; the arrays themselves."""
        named = {f"params.{name}": column for name, column in self.params.columns().items()}
        named |= {f"state.{name}": getattr(self.state, name) for name in self.state._fields}
        return named | {"action": self.action, "initial noise": self.initial_noise, "step noise": self.step_noise}


def outcomes_of(family: Family[Any, Any], moment: Moment) -> dict[str, Array]:
    """Everything that a family makes of a moment, by name."""
    first = family.initial(moment.params, moment.initial_noise)
    step = family.step(moment.state, moment.action, moment.params, moment.step_noise)
    results = {f"initial().{name}": getattr(first, name) for name in first._fields}
    results |= {f"step().state.{name}": getattr(step.state, name) for name in step.state._fields}
    results |= {"step().reward": step.reward, "step().terminated": step.terminated}
    if step.success is not None:
        results["step().success"] = step.success
    return results | {"observe()": family.observe(moment.state, moment.params)}


class Probe:
    """Draws what laws look at. Every draw follows from `seed` and from what is asked for, not from the order of laws.

    Args:
        family: the family to examine.
        seed: of everything.
        num_rows: N of the moments.
        num_steps: length of the trajectories through the engine.
        num_episodes: episodes that are simulated for the returns.
    """

    def __init__(
        self, family: Family[Any, Any], *, seed: int = 0, num_rows: int = 64, num_steps: int = 30,
        num_episodes: int = 2000,
    ) -> None:  # fmt: skip
        if not isinstance(family, Family):
            hint = ": pass an instance, not the class" if isinstance(family, type) else ""
            raise ConfigError(f"family={family!r} is not accepted{hint}; accepted is a metagym.Family")
        self.family, self.seed, self.num_rows, self.num_steps = family, seed, num_rows, num_steps
        self.num_episodes = num_episodes

    def rng(self, purpose: str) -> np.random.Generator:
        """A generator of its own for every purpose."""
        return np.random.default_rng([self.seed, *purpose.encode()])

    # --- tasks -------------------------------------------------------------------------------------------------

    @cached_property
    def distribution(self) -> TaskDistribution:
        """All tasks of training and test."""
        return TaskDistribution(self.family)

    @cached_property
    def regions(self) -> tuple[str, ...]:
        """The regions that the family has: a `ConfigError` says that it has no ood region."""
        try:
            self.distribution.ood().draw(self.keys("ood?", 1))
        except ConfigError:
            return ("train",)
        return ("train", "ood")

    def keys(self, purpose: str, num_tasks: int) -> Any:
        """One key a task."""
        return self.rng(purpose).integers(0, 2**64, num_tasks, dtype=np.uint64)

    def tasks(self, num_tasks: int, region: str = "train") -> Any:
        """Columns of tasks of a region."""
        part = self.distribution.part("ood" if region == "ood" else None)
        return part.draw(self.keys(f"tasks {region}", num_tasks))[0]

    # --- dynamics ----------------------------------------------------------------------------------------------

    def actions(self, rng: np.random.Generator, num_rows: int) -> Array:
        """Random actions; every fourth one of a `Box` is out of bounds, as the contract allows."""
        space = self.family.action_space
        if isinstance(space, spaces.Discrete):
            return rng.integers(0, int(space.n), num_rows)
        scale = np.where(np.arange(num_rows) % 4 == 3, 3.0, 1.0).reshape(-1, *[1] * len(space.shape or ()))
        return (scale * self._in_box(space, rng, num_rows)).astype(space.dtype)

    def uniform_actions(self, rng: np.random.Generator, num_rows: int) -> Array:
        """Actions that are uniform on the space."""
        space = self.family.action_space
        if isinstance(space, spaces.Discrete):
            return rng.integers(0, int(space.n), num_rows)
        return self._in_box(space, rng, num_rows).astype(space.dtype)

    @staticmethod
    def _in_box(space: Any, rng: np.random.Generator, num_rows: int) -> Float:
        low, high = np.maximum(space.low, -1e3).astype(float), np.minimum(space.high, 1e3).astype(float)
        drawn: Float = low + (high - low) * rng.random((num_rows, *space.shape))
        return drawn

    def _trajectory(self, params: Any, rng: np.random.Generator, num_steps: int) -> Iterator[Moment]:
        """Moments of N rows; rows whose episode is over are stepped once more and then begin anew."""
        family, num_rows = self.family, len(params)
        shape = (num_rows, family.num_initial_draws)
        state, elapsed = family.initial(params, rng.random(shape)), np.zeros(num_rows, np.int64)
        over: Bool = np.zeros(num_rows, np.bool_)
        held = self.actions(rng, num_rows)
        for _ in range(num_steps):
            # Half of the rows keep to one action, to get somewhere.
            action = np.where(_column(np.arange(num_rows) % 2 == 0, held), held, self.actions(rng, num_rows))
            moment = Moment(params, state, action, rng.random(shape), rng.random((num_rows, family.num_step_draws)))
            yield moment
            step = family.step(state, action, params, moment.step_noise)
            begun = family.initial(params, rng.random(shape))
            state = type(state)(
                *(np.where(_column(over, old), new, old) for old, new in zip(step.state, begun, strict=True))
            )
            elapsed = np.where(over, 0, elapsed + 1)
            over = ~over & (step.terminated | (elapsed >= family.episode_length))

    @property
    def moments(self) -> list[Moment]:
        """Moments of every region at the start of episodes, and ever further on; copied for every law."""
        return [_copied(moment) for moment in self._moments]

    @cached_property
    def _moments(self) -> list[Moment]:
        found = []
        for region in self.regions:
            chosen = {2**power - 1 for power in range(_MOMENTS)}
            rng = self.rng(f"moments {region}")
            num_steps = min(2**_MOMENTS, self.num_steps + 1)
            moments = self._trajectory(self.tasks(self.num_rows, region), rng, num_steps)
            found += [_copied(moment) for place, moment in enumerate(moments) if place in chosen]
        return found


def _copied(moment: Moment) -> Moment:
    return moment.take(np.arange(len(moment.action)))


def _column(flags: Bool, like: Array) -> Bool:
    return flags.reshape(-1, *[1] * (like.ndim - 1))
