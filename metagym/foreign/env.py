"""The scalar driver of a foreign family: the contract of `TaskEnv`, over an env of somebody else's."""

from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from metagym.distributions import TaskDistribution
from metagym.engine import TaskEnv
from metagym.engine.row import BatchRow
from metagym.foreign.replay import pack, unpack
from metagym.foreign.world import World, accept, seed_of
from metagym.noise import seed_keys

if TYPE_CHECKING:
    from metagym.foreign.family import ForeignFamily

__all__ = ["ForeignEnv", "ForeignRow"]


class ForeignRow(BatchRow):
    """One row: the tasks and streams of metagym's own, and a world for the rest."""

    def __init__(self, family: Any, distribution: TaskDistribution, render_mode: str | None) -> None:
        super().__init__(family, distribution)
        self.world = World(family, render_mode)

    @override
    def begin(self) -> Any:
        seed = seed_of(self._draw(1)[0])
        fields = {name: column[0] for name, column in self._params.columns().items()}
        return self.world.begin(fields, self.task_id, seed).copy()

    @override
    def step(self, action: Any) -> tuple[Any, float, bool, bool]:
        action = accept(self.family.action_space, action)
        self._draw(0)
        reward, terminated = self.world.step(action)
        return self.world.observation.copy(), reward, terminated, self.world.success

    @property
    @override
    def state(self) -> Any:
        return None


class ForeignEnv(TaskEnv):
    """An env of somebody else's with tasks: everything `TaskEnv` says of tasks, seeds and options holds here too.

    Every episode resets the env inside with a seed of its own, from the row's stream. So what happens in an episode
    hangs on the task, the seed and the actions alone, and not on what the env played before.

    Args:
        family: which envs these are.
        split: what resets draw tasks from: "train", "test", "ood", or None for all.
        render_mode: of the env inside.
        reveal_task: put copies of the task's fields into the info under "task".
        distribution: draw from this one instead of the split.

    Raises:
        ConfigError: if an argument is out of range.
    """

    _row: ForeignRow

    def __init__(
        self,
        family: "ForeignFamily",
        *,
        split: str | None = "train",
        render_mode: str | None = None,
        reveal_task: bool = False,
        distribution: TaskDistribution | None = None,
    ) -> None:
        drawn_from = distribution or family.distribution(split)
        whole: Any = family  # a foreign family has all that the drivers of a `Family` read, but no batched physics
        super().__init__(whole, split=None, reveal_task=reveal_task, distribution=drawn_from)
        self.metadata = dict(family.metadata)  # type: ignore[misc]  # as Gymnasium's vectorisers do
        self.render_mode = family.check_render_mode(render_mode)
        self._row = ForeignRow(family, drawn_from, render_mode)
        self._row.seed(seed_keys([int(np.random.SeedSequence().generate_state(1, np.uint64)[0])], 3)[0])

    @override
    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step of the episode.

        Args:
            action: in the space; finite numbers of a `Box` may be out of bounds, and are clipped.

        Returns:
            Observation, reward, terminated, truncated and info.

        Raises:
            ConfigError: if the action is not accepted.
            ResetNeeded: before the first reset.
        """
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated or self._row.world.truncated, info

    @override
    def _info(self, starts: bool, success: bool) -> dict[str, Any]:
        info = super()._info(starts, success)
        info |= {key: value.item() if not value.shape else value.copy() for key, value in self._row.world.info.items()}
        return info

    @override
    def render(self) -> Any:
        """What the env inside draws."""
        return super().render() if self.render_mode is None else self._row.world.render()

    @override
    def close(self) -> None:
        self._row.world.close()
        super().close()

    # --- copies ------------------------------------------------------------------------------------------------

    @override
    def __getstate__(self) -> dict[str, Any]:
        state = dict(vars(self))
        row = dict(vars(self._row))
        world = row.pop("world")
        return {"env": state | {"_row": None}, "row": row, "world": pack([world]), "render_mode": self.render_mode}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state["env"])
        family: Any = self.family
        row = ForeignRow.__new__(ForeignRow)
        vars(row).update(state["row"])
        row.world = World(family, state["render_mode"])
        self._row = row
        if self._is_reset:
            unpack([row.world], row.params, [row.task_id], state["world"])
