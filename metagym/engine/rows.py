"""N rows of one family: their tasks, states, clocks and random streams. No autoreset, no Gymnasium."""

from typing import Any

import numpy as np

from metagym.distributions import TaskDistribution
from metagym.engine.streams import NoiseTape, TaskRing
from metagym.errors import ConfigError
from metagym.family import Family, Params, Step
from metagym.noise import seed_keys, subkeys
from metagym.types import Array, Bool, Float, Int

__all__ = ["Rows"]

_ONE = np.array(1)  # 0-d arrays: ufuncs take them faster than Python's numbers


class Rows:
    """State of N rows, advanced all together and reset one by one.

    Args:
        family: the physics.
        distribution: what trials without a set task draw from.
        num_rows: N.
    """

    def __init__(self, family: Family[Any, Any], distribution: TaskDistribution, num_rows: int) -> None:
        self.family, self.distribution, self.num_rows = family, distribution, num_rows
        self.noise = NoiseTape(num_rows, family.num_step_draws, family.num_initial_draws)
        self.ring = TaskRing(distribution, num_rows)
        self.sampling_key, self.num_sampled = np.uint64(0), 0
        self._active: Bool | None = None
        entropy = int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
        self.seed(np.arange(num_rows), [entropy + row for row in range(num_rows)])
        self.params: Params = family.params_type(
            **{
                name: np.zeros((num_rows, *(space.shape or ())), space.dtype)
                for name, space in family.task_space.items()
            }
        )
        self.task_ids: Int = np.zeros(num_rows, np.int64)
        self.elapsed: Int = np.zeros(num_rows, np.int64)
        self._longest = 0
        self._details_stay = False
        self.state: Any = None
        self.pinned: Bool = np.zeros(num_rows, np.bool_)
        self._stale: Bool = np.zeros(num_rows, np.bool_)
        self._pins: Params = self.params.take(np.arange(num_rows))
        self._pin_ids: Int = self.task_ids.copy()
        self._count_pins()

    # --- streams -----------------------------------------------------------------------------------------------

    def seed(self, rows: Int, seeds: list[int]) -> None:
        """Restart the three streams (dynamics, tasks of resets, `sample_tasks`) of some rows."""
        keys = seed_keys(seeds, 3)
        self.noise.seed(rows, keys[:, 0])
        self.ring.seed(rows, keys[:, 1])
        first = np.flatnonzero(rows == 0)
        if first.size:
            self.sampling_key, self.num_sampled = keys[first[0], 2], 0

    def sample(self, num_tasks: int) -> Params:
        """Tasks from the third stream, which never touches a trajectory."""
        index = np.arange(self.num_sampled, self.num_sampled + num_tasks)
        tasks = self.distribution.draw(subkeys(self.sampling_key, index))[0]
        self.num_sampled += num_tasks
        return tasks

    # --- tasks -------------------------------------------------------------------------------------------------

    def pin(self, rows: Int, params: Params, ids: Int) -> None:
        """Set the tasks of all later trials of `rows`; the running trials keep theirs."""
        self._pins.put(rows, params)
        self._pin_ids[rows] = ids
        self.pinned[rows] = self._stale[rows] = True
        self._count_pins()

    def unpin(self, rows: Int) -> None:
        """Let later trials of `rows` draw their tasks."""
        self.pinned[rows] = self._stale[rows] = False
        self._count_pins()

    def _count_pins(self) -> None:
        # Two flags kept beside the arrays: the common case, all rows or none, costs no array operation.
        self._any_pinned, self._all_pinned = bool(self.pinned.any()), bool(self.pinned.all())
        self._any_stale = bool(self._stale.any())

    def assign(self, rows: Int, params: Params, ids: Int) -> None:
        """Set the tasks of the trials that start now, and of no later ones."""
        self.params.put(rows, params)
        self.task_ids[rows] = ids
        self._details_stay = False
        if self._any_pinned:
            self._stale[rows] = self.pinned[rows]
            self._count_pins()

    def next_tasks(self, rows: Int) -> None:
        """Give `rows` (sorted) the tasks of their next trials: pinned ones, or the next of their streams."""
        if self._any_stale:
            stale = rows[self._stale[rows]]
            self._details_stay = False
            self.params.put(stale, self._pins.take(stale))
            self.task_ids[stale] = self._pin_ids[stale]
            self._stale[stale] = False
            self._any_stale = bool(self._stale.any())
        if self._all_pinned:
            return
        if self._any_pinned:
            rows = rows[~self.pinned[rows]]
        if rows.size:
            self._draw_tasks(rows)

    def _draw_tasks(self, rows: Int) -> None:
        slots = self.ring.pop(rows)
        self.task_ids[rows] = self.ring.ids[slots]
        # Where draws leave the details alone, rows that had drawn tasks before need the structure only.
        names = self.family.structural if self._details_stay else self.params.names()
        for name in names:
            getattr(self.params, name)[rows] = getattr(self.ring.tasks, name)[slots]
        if len(rows) == self.num_rows:
            self._details_stay = not self.distribution.num_detail_draws

    # --- dynamics ----------------------------------------------------------------------------------------------

    def begin(self, rows: Int, *, new_task: bool = True) -> None:
        """Start an episode in `rows` (sorted): of the task they are to have next, or of the one they have."""
        if new_task:
            self.next_tasks(rows)
        whole = len(rows) == self.num_rows or not self.family.initial_needs_task
        params = self.params if whole else self.params.take(rows)
        state = self.family.initial(params, self._initial_noise(rows))
        if self.state is None:
            self.state = state
        else:
            for column, fresh in zip(self.state, state, strict=True):
                column[rows] = fresh
        self.elapsed[rows] = 0

    def advance(self, action: Array, active: Bool | None) -> Step[Any]:
        """Step every row; rows that are not `active` must begin anew at once: this call is their reset."""
        self._active = active
        step = self.family.step(self.state, action, self.params, self.noise.deal())
        self.state = step.state
        self.elapsed += _ONE
        return step

    def _initial_noise(self, rows: Int) -> Float:
        # Rows that were not active in this call have been dealt their stride with everybody's.
        if self._active is not None and not self._active[rows[0]]:
            self._active = None
            return self.noise.dealt_to(rows)
        return self.noise.deal_to(rows)

    def truncations(self, terminated: Bool) -> Bool:
        """Rows whose episode is over by its length alone, (N,)."""
        # An upper bound of the clocks, kept as one number: most steps, no row can be due and no array is compared.
        self._longest += 1
        if self._longest < self.family.episode_length:
            return np.zeros(self.num_rows, np.bool_)
        due = self.elapsed >= self.family.episode_length
        if not due.any():
            self._longest = int(self.elapsed.max())
        return np.greater(due, terminated)

    def observe(self, rows: Int | None) -> Array:
        """Observations of all rows, or of some, freshly allocated."""
        if rows is None:
            return self.family.observe(self.state, self.params)
        state = type(self.state)(*(column[rows] for column in self.state))
        params = self.params.take(rows) if self.family.observe_needs_task else self.params
        return self.family.observe(state, params)

    # --- checkpoints -------------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Array]:
        """Everything that decides the future, as arrays."""
        arrays = {f"params/{name}": column.copy() for name, column in self.params.columns().items()}
        arrays |= {f"pins/{name}": column.copy() for name, column in self._pins.columns().items()}
        arrays |= {f"ring/{name}": array for name, array in self.ring.get_state().items()}
        if self.state is not None:
            arrays |= {f"state/{name}": getattr(self.state, name).copy() for name in self.state._fields}
        for name in ("task_ids", "elapsed", "pinned", "_stale", "_pin_ids"):
            arrays[name] = getattr(self, name).copy()
        arrays["dynamics"] = self.noise.get_state()
        arrays["sampling"] = np.array([self.sampling_key, self.num_sampled], np.uint64)
        return arrays

    def set_state(self, arrays: dict[str, Array]) -> None:
        """Continue from what `get_state` returned.

        Raises:
            ConfigError: if the arrays are those of other rows; nothing is changed then.
        """
        self._check_state(arrays)
        if any(name.startswith("state/") for name in arrays):
            self.begin(np.arange(self.num_rows))
            self.state = type(self.state)(*(arrays[f"state/{name}"].copy() for name in self.state._fields))
        else:
            self.state = None
        for group, params in (("params", self.params), ("pins", self._pins)):
            for name, column in params.columns().items():
                column[...] = arrays[f"{group}/{name}"]
        self.ring.set_state(
            {name.removeprefix("ring/"): array for name, array in arrays.items() if name.startswith("ring/")}
        )
        for name in ("task_ids", "elapsed", "pinned", "_stale", "_pin_ids"):
            getattr(self, name)[...] = arrays[name]
        self.noise.set_state(arrays["dynamics"])
        self._active, self._details_stay = None, False
        self.sampling_key, self.num_sampled = arrays["sampling"][0], int(arrays["sampling"][1])
        self._longest = int(self.elapsed.max())
        self._count_pins()

    def _check_state(self, arrays: dict[str, Array]) -> None:
        expected = {name: array.shape for name, array in self.get_state().items() if not name.startswith("state/")}
        given = {name: array.shape for name, array in arrays.items() if name in expected}
        rows = {len(array) for name, array in arrays.items() if name.startswith("state/")}
        if given != expected or not rows <= {self.num_rows}:
            differ = [name for name, shape in expected.items() if given.get(name) != shape]
            raise ConfigError(
                f"this state is of other rows than {self.num_rows} of {self.family.name}: {differ or 'state'} differ"
            )
