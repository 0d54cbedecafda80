"""Distributions of tasks: sampling from one stream per task, validation, train/test/ood splits, filters."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, overload

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike
from typing_extensions import Self, override

from metagym.errors import ConfigError, TaskError
from metagym.family import Params, Region, TaskFamily
from metagym.noise import advance, subkeys, uniforms
from metagym.tasks import Task, content_ids, content_words
from metagym.types import Array, Bool, Float, Int, Keys

__all__ = ["Predicate", "TaskDistribution", "check_count", "restore_tasks"]

Predicate = Callable[[Any], Bool]
TEST_FRACTION = 0.2
_MAX_NOISE = 2**15  # uniforms of a block of tasks: larger arrays are mapped and unmapped by malloc every time
_MAX_ROUNDS = 10_000
_AHEAD = 4  # proposals made at once for a task whose last ones were rejected: rounds cost more than proposals
_DETAILS, _STRUCTURE = np.int64(0), np.int64(1)


class _Table:
    """All structures of a small finite family that pass the filters, drawn by inverting their cumulative weights."""

    def __init__(self, columns: dict[str, Array], weights: Float, words: Keys) -> None:
        self.columns, self.words = columns, words
        self.cumulative = np.cumsum(weights / weights.sum())
        self.cumulative[-1] = 1.0


class TaskDistribution:
    """A probability distribution over the tasks of one family.

    Tasks are drawn from one 64-bit key each: the same key gives the same task, whatever else is drawn beside it.

    Args:
        family: the family; its `task_space` is the support.
    """

    def __init__(self, family: TaskFamily[Any]) -> None:
        self.family = family
        self._region: Region = "train"
        self._split: Literal["train", "test"] | None = None
        self._predicates: tuple[Predicate, ...] = ()
        self._threshold = np.int64(TEST_FRACTION * 2.0**63)
        self._table: _Table | None = None
        self._build_table()

    @property
    def space(self) -> spaces.Dict:
        """The support, a flat `spaces.Dict` of arrays."""
        return self.family.task_space

    @property
    def num_detail_draws(self) -> int:
        """Uniforms for the details of a task here; with 0, all tasks have the same details."""
        ood = self.family.num_ood_detail_draws
        return self.family.num_detail_draws if self._region == "train" or ood is None else ood

    # --- derived distributions ---------------------------------------------------------------------------------

    def split(self, name: str) -> Self:
        """The training or the test part: disjoint by a hash of the structural fields, 80 % to 20 %.

        Small finite families are enumerated, so that their parts hold 80 % and 20 % of the structures exactly and
        at least one each.

        Raises:
            ConfigError: if `name` is neither "train" nor "test", or this distribution is split already, or the family
                has no test part.
        """
        if name not in {"train", "test"}:
            raise ConfigError(f"split {name!r} is unknown; accepted are 'train' and 'test' (and .ood())")
        if self._split is not None or self._region == "ood":
            raise ConfigError(f"this distribution is the {self._split or 'ood'!r} part already")
        if self.family.unsplit is not None:
            if name == "test":
                raise ConfigError(f"{self.family.name} has no test part here: {self.family.unsplit}")
            return self._derive(_split=None)
        return self._derive(_split=name)

    def ood(self) -> Self:
        """The family's stated region outside the support of training and test."""
        if self._split is not None:
            raise ConfigError(f"the {self._split!r} part has no ood region; take it from the whole distribution")
        return self._derive(_region="ood")

    def part(self, name: str | None) -> Self:
        """What `split=` means everywhere: "train", "test", "ood", or None for the whole distribution."""
        if name is None:
            return self
        if name == "ood":
            return self.ood()
        if name not in {"train", "test"}:
            raise ConfigError(f"split={name!r} is unknown; accepted are 'train', 'test', 'ood' and None")
        return self.split(name)

    def where(self, predicate: Predicate) -> Self:
        """The tasks for which `predicate` holds.

        Args:
            predicate: from columns of n tasks (a `Params`, say ``lambda tasks: tasks.success_rate > 0.5``) to a
                boolean array (n,).
        """
        return self._derive(_predicates=(*self._predicates, predicate))

    def _derive(self, **changes: Any) -> Self:
        derived = type(self).__new__(type(self))
        derived.__dict__.update(self.__dict__)
        derived.__dict__.update(changes)
        derived._build_table()
        return derived

    def _build_table(self) -> None:
        self._table = None
        listed = self.family.enumerate_structures() if self._region == "train" else None
        if listed is None:
            return
        columns, weights = listed
        words = content_words(self.family.name, columns)
        if self._split is not None:
            ids = content_ids(words)
            if len(ids) < 2:
                raise ConfigError(f"{self.family.name} has a single structure here: it cannot be split")
            num_test = max(1, round(TEST_FRACTION * len(ids)))
            self._threshold = np.sort(ids)[num_test]
            keep = self._in_split(ids)
            columns = {name: column[keep] for name, column in columns.items()}
            weights, words = weights[keep], words[keep]
        self._table = _Table(columns, weights, words)

    def _in_split(self, structure_ids: Int) -> Bool:
        is_test: Bool = structure_ids < self._threshold
        return is_test if self._split == "test" else ~is_test

    # --- drawing -----------------------------------------------------------------------------------------------

    def draw(self, keys: Keys) -> tuple[Params, Int]:
        """One task for each key.

        Args:
            keys: stream counters, (n,).

        Returns:
            Columns of n tasks, and their ids (n,).

        Raises:
            ConfigError: if no task is found, because the filters leave none.
        """
        if not self._predicates:
            return self._draw(keys)
        columns, ids = self._draw(keys)
        pending = np.arange(len(keys))
        for _ in range(_MAX_ROUNDS):
            rejected = ~self._holds(columns.take(pending))
            pending = pending[rejected]
            if not pending.size:
                return columns, ids
            keys = subkeys(keys[rejected], np.int64(2))
            redrawn, ids[pending] = self._draw(keys)
            columns.put(pending, redrawn)
        raise ConfigError(f"no task of {self.family.name} passed the filter in {_MAX_ROUNDS} draws")

    def _holds(self, params: Params) -> Bool:
        holds = np.ones(len(params), dtype=np.bool_)
        for predicate in self._predicates:
            mask = np.asarray(predicate(params))
            if mask.shape != holds.shape or mask.dtype != np.bool_:
                raise ConfigError(
                    f"a predicate must return a boolean array of shape {holds.shape}, "
                    f"got {mask.dtype} of shape {mask.shape}"
                )
            holds &= mask
        return holds

    def _draw(self, keys: Keys) -> tuple[Params, Int]:
        size = max(1, _MAX_NOISE // max(1, self.family.num_structure_draws, self.num_detail_draws))
        blocks = [self._draw_block(keys[start : start + size]) for start in range(0, len(keys), size)]
        if len(blocks) == 1:
            return blocks[0]
        names = self.family.params_type.names()
        columns = {name: np.concatenate([getattr(params, name) for params, _ in blocks]) for name in names}
        return self.family.params_type(**columns), np.concatenate([ids for _, ids in blocks])

    def _draw_block(self, keys: Keys) -> tuple[Params, Int]:
        structure, words = self._from_table(keys) if self._table is not None else self._by_rejection(keys)
        if self.num_detail_draws:
            noise = uniforms(subkeys(keys, _DETAILS), self.num_detail_draws)
        else:
            noise = np.empty((len(keys), 0))
        details = self.family.draw_details(noise, self._region)
        if details:
            # Without noise all tasks have the same details, and one row stands for all.
            distinct = details if noise.shape[1] else {name: column[:1] for name, column in details.items()}
            words = words + content_words(self.family.name, distinct)
        return self.family.params_type(**structure, **details), content_ids(words)

    def _from_table(self, keys: Keys) -> tuple[dict[str, Array], Keys]:
        assert self._table is not None
        rows = self._table.cumulative.searchsorted(uniforms(keys, 1)[:, 0], side="right")
        columns = {name: column[rows] for name, column in self._table.columns.items()}
        return columns, self._table.words[rows]

    def _by_rejection(self, keys: Keys) -> tuple[dict[str, Array], Keys]:
        counters = subkeys(keys, _STRUCTURE)
        structure, words, accepted = self._propose(counters)
        pending = np.flatnonzero(~accepted)
        ahead = np.array([advance(k * self.family.num_structure_draws) for k in range(1, _AHEAD + 1)])
        for _ in range(_MAX_ROUNDS):
            if not pending.size:
                return structure, words
            columns, partial, accepted = self._propose((counters[pending][:, None] + ahead).reshape(-1))
            table = accepted.reshape(-1, _AHEAD)
            found = table.any(axis=1)
            chosen = (np.arange(len(pending)) * _AHEAD + table.argmax(axis=1))[found]
            rows = pending[found]
            for name, column in structure.items():
                column[rows] = columns[name][chosen]
            words[rows] = partial[chosen]
            pending = pending[~found]
            counters[pending] += ahead[-1]
        part = self._split or self._region
        raise ConfigError(
            f"{self.family.name}: no task found in the {part!r} part after {_MAX_ROUNDS} proposals; "
            "its settings leave (almost) none"
        )

    def _propose(self, counters: Keys) -> tuple[dict[str, Array], Keys, Bool]:
        noise = uniforms(counters, self.family.num_structure_draws)
        structure = self.family.draw_structure(noise, self._region)
        words = content_words(self.family.name, structure)
        accepted = self.family.accept(structure)
        if accepted is None:
            accepted = np.ones(len(counters), dtype=np.bool_)
        if self._split is not None:
            accepted = accepted & self._in_split(content_ids(words))
        return structure, words, accepted

    @overload
    def sample(self, rng: np.random.Generator, n: None = None) -> Task: ...
    @overload
    def sample(self, rng: np.random.Generator, n: int) -> list[Task]: ...
    def sample(self, rng: np.random.Generator, n: int | None = None) -> Task | list[Task]:
        """One task, or a list of n; n draws equal n single ones from the same generator.

        Raises:
            ConfigError: if n is no integer of at least 1.
        """
        size = 1 if n is None else check_count(n)
        keys = rng.integers(0, 2**64, size=size, dtype=np.uint64)
        tasks = restore_tasks(self.family, self.draw(keys)[0])
        return tasks[0] if n is None else tasks

    # --- membership --------------------------------------------------------------------------------------------

    def coerce(self, task: Task | Mapping[str, ArrayLike]) -> Task:
        """Validate a task or a plain mapping, and give it the dtypes of the space.

        Membership in a split is not asked for: a test task may be set in a training environment.

        Raises:
            TypeError: if `task` is no mapping.
            TaskError: naming the field, the value and what is accepted.
        """
        if not isinstance(task, Mapping):
            raise TypeError(f"a task must be a Task or a mapping of field to value, got {type(task).__name__}")
        if isinstance(task, Task) and task.family != self.family.name:
            raise TaskError(f"a task of family {task.family!r} was given to family {self.family.name!r}")
        fields = self.family.normalize(task)
        expected, given = set(self.space), set(fields)
        if expected != given:
            raise TaskError(
                f"a task of {self.family.name} has the fields {sorted(expected)}; "
                f"missing {sorted(expected - given)}, unknown {sorted(given - expected, key=str)}"
            )
        coerced = Task(self.family.name, {name: self._coerce_field(name, fields[name]) for name in fields})
        self.family.check(self.family.params_of([coerced]))
        return coerced

    def _coerce_field(self, name: str, value: ArrayLike) -> Array:
        space = self.space[name]
        try:
            raw = np.asarray(value)
        except ValueError as ragged:
            raise TaskError(f"{name}={value!r} is not numeric; accepted is {space}") from ragged
        if raw.dtype.kind not in "biuf":
            raise TaskError(f"{name}={value!r} is not numeric; accepted is {space}")
        if raw.shape != space.shape:
            raise TaskError(f"{name} has shape {raw.shape}; accepted is shape {space.shape} ({space})")
        with np.errstate(invalid="ignore", over="ignore"):  # what does not fit is refused below
            array = raw.astype(space.dtype)
        exact = array.dtype.kind == "f" or np.array_equal(array, raw)
        if not exact or not space.contains(array[()] if isinstance(space, spaces.Discrete) else array):
            raise TaskError(f"{name}={np.asarray(value).tolist()} is out of range; accepted is {_range(space)}")
        return array + 0 if array.dtype.kind == "f" else array  # -0.0 and 0.0 are one value and must hash alike

    def __contains__(self, task: object) -> bool:
        if not isinstance(task, Task) or task.family != self.family.name:
            return False
        try:
            params = self.family.params_of([self.coerce(task)])
        except TaskError:
            return False
        if self._region == "train" and self._split is not None:
            structure = {name: params.columns()[name] for name in self.family.structural}
            if not self._in_split(content_ids(content_words(self.family.name, structure)))[0]:
                return False
        return bool(self._holds(params)[0])

    @override
    def __repr__(self) -> str:
        part = "ood" if self._region == "ood" else self._split
        return f"TaskDistribution({self.family.name!r}, part={part!r}, filters={len(self._predicates)})"


def check_count(n: Any) -> int:
    """Refuse what is no number of tasks.

    Raises:
        ConfigError: if `n` is no integer of at least 1.
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ConfigError(f"the number of tasks must be an integer of at least 1, got {n!r}")
    return int(n)


def restore_tasks(family: TaskFamily[Any], params: Params) -> list[Task]:
    """Columns of n tasks as a list of `Task` objects."""
    columns = params.columns()
    return [Task(family.name, {name: column[row] for name, column in columns.items()}) for row in range(len(params))]


def _range(space: spaces.Space[Any]) -> str:
    if isinstance(space, spaces.Box):
        return f"{space.dtype} in [{space.low.min()}, {space.high.max()}]"
    return str(space)
