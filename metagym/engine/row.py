"""One row of a family, two ways: as a batch of one, or walking the tables of a tabular family as Python lists."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
from typing_extensions import Self, override

from metagym.distributions import TaskDistribution
from metagym.family import Family, Params
from metagym.noise import GAMMA, subkeys, uniforms
from metagym.tabular import Position, TabularFamily, thresholds
from metagym.tasks import Task
from metagym.types import Array, Float, Keys

__all__ = ["BatchRow", "Row", "TableRow", "walks_tables"]

_NOISE_BLOCK = 512
_TASK_BLOCK = 32


class Row(ABC):
    """One row: its task, its state and its three streams.

    Noise and tasks are drawn ahead in blocks; what they are does not depend on the size of the blocks.
    """

    def __init__(self, family: Any, distribution: TaskDistribution) -> None:
        self.family: Family[Any, Any] = family
        self.distribution = distribution
        self.task_id = 0
        self._stride = max(family.num_step_draws, family.num_initial_draws)
        self._nothing: Float = np.empty((1, 0))

    def seed(self, keys: Keys) -> None:
        """Restart the streams: dynamics, tasks of resets, sampled tasks."""
        self._dynamics, self._task_key, self._sampling_key = keys
        self._noise: list[float] = []
        self._noise_used = 0
        self._num_tasks, self._block_start, self._num_sampled = 0, -_TASK_BLOCK, 0

    def sample(self, num_tasks: int) -> Params:
        """Tasks from the third stream."""
        index = np.arange(self._num_sampled, self._num_sampled + num_tasks)
        tasks = self.distribution.draw(subkeys(self._sampling_key, index))[0]
        self._num_sampled += num_tasks
        return tasks

    def next_task(self) -> None:
        """Go on to the next task of the second stream."""
        place = self._num_tasks - self._block_start
        if place == _TASK_BLOCK:
            index = np.arange(self._num_tasks, self._num_tasks + _TASK_BLOCK)
            params, ids = self.distribution.draw(subkeys(self._task_key, index))
            self._block, self._block_ids = params, ids.tolist()
            self._prepare_block()
            place, self._block_start = 0, self._num_tasks
        self._num_tasks += 1
        self.task_id = self._block_ids[place]
        self._use_block(place)

    def _deal(self) -> int:
        """Move on by one stride, as every call does; returns where it starts in the noise."""
        start = self._noise_used
        if start + self._stride > len(self._noise):
            self._refill_noise()
            start = 0
        self._noise_used = start + self._stride
        return start

    def _refill_noise(self) -> None:
        self._dynamics = np.uint64((int(self._dynamics) + self._noise_used * int(GAMMA)) % 2**64)
        counters = np.array([self._dynamics], np.uint64)
        self._noise = uniforms(counters, max(_NOISE_BLOCK, self._stride))[0].tolist()
        self._noise_used = 0

    def _draw(self, num_draws: int) -> Float:
        start = self._deal()
        if not num_draws:
            return self._nothing
        return np.array(self._noise[start : start + num_draws]).reshape(1, num_draws)

    @abstractmethod
    def _prepare_block(self) -> None: ...

    @abstractmethod
    def _use_block(self, place: int) -> None: ...

    @abstractmethod
    def set_task(self, task: Task) -> None:
        """Play `task` from the next episode on."""

    @abstractmethod
    def begin(self) -> Any:
        """Start an episode; returns the first observation."""

    @abstractmethod
    def step(self, action: Any) -> tuple[Any, float, bool, bool]:
        """One step: observation, reward, terminated, success."""

    @property
    @abstractmethod
    def params(self) -> Params:
        """The task as columns of one row."""

    @property
    @abstractmethod
    def state(self) -> Any:
        """The state as columns of one row."""


class BatchRow(Row):
    """A batch of one."""

    @override
    def _prepare_block(self) -> None:
        return

    @override
    def _use_block(self, place: int) -> None:
        self._params = self._block.take(np.array([place]))

    @override
    def set_task(self, task: Task) -> None:
        self._params, self.task_id = self.family.params_of([task]), task.id

    @override
    def begin(self) -> Any:
        self._state = self.family.initial(self._params, self._draw(self.family.num_initial_draws))
        return self._observation()

    @override
    def step(self, action: Any) -> tuple[Any, float, bool, bool]:
        noise = self._draw(self.family.num_step_draws)
        step = self.family.step(self._state, np.asarray(action)[None], self._params, noise)
        self._state = step.state
        success = step.success is not None and step.success.item()
        return self._observation(), step.reward.item(), step.terminated.item(), success

    def _observation(self) -> Any:
        return self.family.observe(self._state, self._params)[0]

    @property
    @override
    def params(self) -> Params:
        return self._params

    @property
    @override
    def state(self) -> Any:
        return self._state


def walks_tables(family: Family[Any, Any]) -> bool:
    """Whether the tables of a family are all there is to its dynamics: it does not step in a way of its own."""
    kind = type(family)
    starts_anywhere = bool(family.num_initial_draws) or kind.initial is TabularFamily.initial
    return isinstance(family, TabularFamily) and kind.step is TabularFamily.step and starts_anywhere


class TableRow(Row):
    """The same tables that the vector driver steps, walked as Python lists: a step without array operations."""

    def __init__(self, family: TabularFamily[Any], distribution: TaskDistribution) -> None:
        super().__init__(family, distribution)
        self._tabular = family
        self._successors = family.successors.tolist()
        self._leads = None if family.leads is None else family.leads.tolist()
        self._cells = list(family.cells)
        self._set: Task | None = None
        self._one: Params | None = None
        # Discrete observations of tabular families are numpy integers, made once: making one costs as much as a step.
        self._numbers = [np.int64(index) for index in range(len(self._successors))]
        self._looks = None if family.observations is None else list(family.observations)
        self._looks_of_task = type(family).observe is not TabularFamily.observe
        self._has_fixed_start = not (family.num_initial_draws or family.initial_needs_task)

    @override
    def _prepare_block(self) -> None:
        self._tables = _Tables.of(self._tabular, self._block)

    @override
    def _use_block(self, place: int) -> None:
        self._set = self._one = None
        self._place = place
        self._use(self._tables, place)

    @override
    def set_task(self, task: Task) -> None:
        if task is self._set:
            return  # a pinned task, reset after reset
        self._set, self._one, self.task_id = task, self.family.params_of([task]), task.id
        self._use(_Tables.of(self._tabular, self._one), 0)

    def _use(self, tables: "_Tables", place: int) -> None:
        # One task at a time: of the tasks drawn ahead, some are never played.
        self._kind = tables.kinds[place].tolist()
        self._thresholds = tables.thresholds[place].tolist()
        self._effects = None if tables.effects is None else tables.effects[place].tolist()
        if self._looks_of_task:
            states = np.arange(len(self._successors))
            self._looks = list(self._tabular.observe(Position(states), self.params.take(np.zeros_like(states))))

    @override
    def begin(self) -> Any:
        if self._has_fixed_start:
            self._deal()
            self._index = self._tabular.start
        else:
            noise = self._draw(self._tabular.num_initial_draws)
            self._index = int(self._tabular.initial(self.params, noise).cell[0])
        return self._numbers[self._index] if self._looks is None else self._looks[self._index].copy()

    @override
    def step(self, action: Any) -> tuple[Any, float, bool, bool]:
        place = self._deal()
        if self._effects is not None:
            action = self._effects[self._index][action]
        chosen = 0
        if self._thresholds:
            draw = self._noise[place]
            for threshold in self._thresholds:
                if draw >= threshold:
                    chosen += 1
        index = self._successors[self._index][action][chosen]
        kind = self._kind[index]
        if self._leads is not None:
            index = self._leads[kind][index]
        self._index = index
        reward, terminated, success = self._cells[kind]
        observation = self._numbers[index] if self._looks is None else self._looks[index].copy()
        return observation, reward, terminated, success

    @property
    @override
    def params(self) -> Params:
        if self._one is None:
            self._one = self._block.take(np.array([self._place]))
        return self._one

    @property
    @override
    def state(self) -> Any:
        return Position(np.array([self._index], np.int64))


class _Tables(NamedTuple):
    """The tables of n tasks: kinds of all states, thresholds between outcomes, and effects where actions differ."""

    kinds: Array
    thresholds: Float
    effects: Array | None

    @classmethod
    def of(cls, family: TabularFamily[Any], params: Params) -> Self:
        columns = thresholds(family.probabilities(params))
        limits = np.stack(columns, axis=1) if columns else np.empty((len(params), 0))
        effects = None if family.actions_are_effects else family.effect_table(params)
        return cls(family.kind_table(params), limits, effects)
