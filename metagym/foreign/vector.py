"""The vector driver of a foreign family: N envs of somebody else's behind the contract of `TaskVectorEnv`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from typing_extensions import NamedTuple, override

from metagym.distributions import TaskDistribution
from metagym.engine import TaskVectorEnv
from metagym.engine.autoreset import RowStep
from metagym.engine.rows import Rows
from metagym.errors import ConfigError
from metagym.family import Step
from metagym.foreign.replay import pack, unpack
from metagym.foreign.world import World, accept, seed_of
from metagym.types import Array, Bool, Int

if TYPE_CHECKING:
    from metagym.foreign.family import ForeignFamily

__all__ = ["ForeignRows", "ForeignVectorEnv"]

_PREFIX = "world/"


class _Played(NamedTuple):
    """The state of rows whose state lies in their worlds."""


class ForeignRows(Rows):
    """N rows: the tasks, pins and streams of metagym's own, and a world each for the rest."""

    def __init__(
        self, family: Any, distribution: TaskDistribution, num_rows: int, render_mode: str | None = None
    ) -> None:
        super().__init__(family, distribution, num_rows)
        self._render_mode = render_mode
        self._columns = self.params.columns()  # the arrays themselves, which stay the same
        self.worlds = self._fresh_worlds()
        self.truncated: Bool = np.zeros(num_rows, np.bool_)
        space = family.observation_space
        self._observations: Array = np.zeros((num_rows, *space.shape), space.dtype)
        self.infos: dict[str, Array] = {
            key: np.zeros((num_rows, *zero.shape), zero.dtype) for key, zero in family.info_schema.items()
        }

    def _fresh_worlds(self) -> list[World]:
        family: Any = self.family
        return [World(family, self._render_mode) for _ in range(self.num_rows)]

    @override
    def begin(self, rows: Int, *, new_task: bool = True) -> None:
        if new_task:
            self.next_tasks(rows)
        seeds, task_ids = self._initial_noise(rows), self.task_ids[rows].tolist()
        for row, task_id, noise in zip(rows.tolist(), task_ids, seeds, strict=True):
            fields = {name: column[row] for name, column in self._columns.items()}
            self.worlds[row].begin(fields, task_id, seed_of(noise))
            self._look(row)
        self.state = _Played()
        self.elapsed[rows] = 0

    @override
    def advance(self, action: Array, active: Bool | None) -> Step[Any]:
        actions = self._accept(action)
        self._active = active
        self.noise.deal()
        reward = np.zeros(self.num_rows)
        terminated, success = np.zeros(self.num_rows, np.bool_), np.zeros(self.num_rows, np.bool_)
        self.truncated[:] = False
        rows = range(self.num_rows) if active is None else np.flatnonzero(active).tolist()
        worlds, observations = self.worlds, self._observations
        for row in rows:
            world = worlds[row]
            reward[row], ended = world.step(actions[row])
            observations[row] = world.observation
            # All zeros so far: writing into an array costs more than asking.
            if ended:
                terminated[row] = True
            if world.truncated:
                self.truncated[row] = True
            if world.success:
                success[row] = True
            if world.info:
                self._pass_on(row, world.info)
        self.elapsed += 1
        return Step(self.state, reward, terminated, success if self.family.has_success else None)

    def _accept(self, action: Array) -> Sequence[Any]:
        space = self.family.action_space
        if isinstance(space, spaces.Discrete):
            return list(action)  # validated by the autoreset, and what `accept` returns
        if isinstance(space, spaces.Box):
            return list(accept(space, action))
        return [accept(space, one) for one in action]

    def _look(self, row: int) -> None:
        world = self.worlds[row]
        self._observations[row] = world.observation
        self._pass_on(row, world.info)

    def _pass_on(self, row: int, info: Mapping[str, Array]) -> None:
        for key, value in info.items():
            self.infos[key][row] = value

    @override
    def observe(self, rows: Int | None) -> Array:
        return self._observations.copy() if rows is None else self._observations[rows]

    def world_arrays(self) -> dict[str, Array]:
        """Where the worlds stand."""
        return pack(self.worlds)

    def set_worlds(self, arrays: dict[str, Array]) -> None:
        """Fresh worlds, led to where those of `world_arrays` stood, under the tasks set before."""
        for world in self.worlds:
            world.close()
        self.worlds = self._fresh_worlds()
        unpack(self.worlds, self.params, self.task_ids.tolist(), arrays)
        for row in np.flatnonzero(arrays["lengths"] >= 0).tolist():
            self._look(row)
            self.state = _Played()


class ForeignVectorEnv(TaskVectorEnv):
    """N envs of somebody else's with tasks, one after another in one process.

    Row i seeded with ``seeds[i]`` goes through the same trajectory, to the last bit, as `ForeignEnv` seeded so. What
    `TaskVectorEnv` says of tasks, seeds, autoreset and options holds here too.

    Args:
        family: which envs these are.
        num_envs: N.
        split: what resets draw tasks from: "train", "test", "ood", or None for all.
        autoreset_mode: any of Gymnasium's three.
        max_episode_steps: truncate episodes at this step.
        render_mode: of the envs inside.
        reveal_task: put copies of the tasks' fields into the infos under "task".
        distribution: draw from this one instead of the split.

    Raises:
        ConfigError: if an argument is out of range.
    """

    _rows: ForeignRows

    def __init__(
        self,
        family: "ForeignFamily",
        num_envs: int = 1,
        *,
        split: str | None = "train",
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        reveal_task: bool = False,
        distribution: TaskDistribution | None = None,
    ) -> None:
        drawn_from = distribution or family.distribution(split)
        whole: Any = family  # a foreign family has all that the drivers of a `Family` read, but no batched physics
        super().__init__(
            whole,
            num_envs,
            split=None,
            autoreset_mode=autoreset_mode,
            max_episode_steps=max_episode_steps,
            reveal_task=reveal_task,
            distribution=drawn_from,
        )
        self.metadata = {**family.metadata, "autoreset_mode": self.autoreset_mode}  # type: ignore[misc]  # as its base does
        self.render_mode = family.check_render_mode(render_mode)
        self._rows = ForeignRows(family, drawn_from, self.num_envs, render_mode)

    @override
    def step_rows(self, actions: Array, active: Bool | None) -> RowStep:
        reward, terminated, truncated, info = super().step_rows(actions, active)
        return reward, terminated, truncated | self._rows.truncated, info

    @override
    def _info(self, rows: Int | None, starts: bool, success: Bool | None) -> dict[str, Any]:
        info = super()._info(rows, starts, success)
        info |= {key: column.copy() if rows is None else column[rows] for key, column in self._rows.infos.items()}
        return info

    @override
    def render(self) -> tuple[Any, ...]:
        """What the envs inside draw, one result a row."""
        if self.render_mode is None:
            return (None,) * self.num_envs
        return tuple(world.render() for world in self._rows.worlds)

    @override
    def close_extras(self, **kwargs: Any) -> None:
        for world in self._rows.worlds:
            world.close()

    # --- checkpoints and copies --------------------------------------------------------------------------------

    @override
    def get_state(self) -> dict[str, Array]:
        """Everything that decides the future, as a flat dict of arrays: for the envs inside, how they came there."""
        arrays = super().get_state()
        return arrays | {_PREFIX + name: array for name, array in self._rows.world_arrays().items()}

    @override
    def set_state(self, arrays: dict[str, Array]) -> None:
        """Continue from what `get_state` of an env of the same family and size returned.

        The running episodes are played once more from their first step. Where an env is not deterministic under its
        seed, a warning says so.

        Raises:
            ConfigError: if these are not the arrays of such an env.
        """
        worlds = {name.removeprefix(_PREFIX): array for name, array in arrays.items() if name.startswith(_PREFIX)}
        if "lengths" not in worlds:
            raise ConfigError("this state holds no worlds: it is not of a foreign family's vector env")
        super().set_state({name: array for name, array in arrays.items() if not name.startswith(_PREFIX)})
        self._rows.set_worlds(worlds)

    @override
    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in vars(self).items() if name not in {"_rows", "_finished"}}
        return {"env": state, "arrays": self.get_state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state["env"])
        self._finished = None
        self._rows = ForeignRows(self.family, self.task_distribution, self.num_envs, self.render_mode)
        self.set_state(state["arrays"])
