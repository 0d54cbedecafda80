"""Dark key-to-door: find a key and then a door, neither of them seen, in the versions of two lines of work."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike
from typing_extensions import override

from metagym.envs import grids
from metagym.envs.arguments import choice_of, flag, integer
from metagym.errors import ConfigError
from metagym.family import Params, Region
from metagym.tabular import Cell, Position, TabularFamily, at_states
from metagym.types import Array, Float, Int

__all__ = ["VARIANTS", "KeyToDoor", "KeyToDoorParams", "Variant"]

_ANYWHERE = -1
_DOOR_BIT = np.uint8(1)
# What entering a cell means: nothing, the key, the door, or both.
_CELLS = (
    Cell(reward=0.0, terminal=False, success=False),
    Cell(reward=1.0, terminal=False, success=False),
    Cell(reward=1.0, terminal=True, success=True),
    Cell(reward=2.0, terminal=True, success=True),
)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The constants in which published versions of this task differ."""

    size: int
    """Cells along a side."""
    episode_length: int
    start_of_task: bool
    """Whether all episodes of a task start in one cell; else each starts anywhere."""
    sees_key: bool
    """Whether the agent sees coordinates and whether it has the key; else the number of its cell."""


VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "ad": Variant(size=9, episode_length=50, start_of_task=False, sees_key=False),
        "amago": Variant(size=8, episode_length=50, start_of_task=True, sees_key=True),
    }
)


@dataclass(frozen=True)
class KeyToDoorParams(Params):
    """Columns of N rooms."""

    key: Int
    """Number of the key's cell, row * size + column, (N,)."""
    door: Int
    """Number of the door's cell, (N,)."""
    start: Int
    """Number of the cell in which episodes start; -1 where each starts anywhere, (N,)."""
    action_map: Array
    """Which move (0 stay, 1 up, 2 right, 3 down, 4 left) each action is, (N, 5) uint8."""


class KeyToDoor(TabularFamily[KeyToDoorParams]):
    """Dark key-to-door: find a key and then a door, which are not seen, and return to them in later episodes.

    Rewards tell the agent when it takes the key and when it opens the door.

    ## Task Space

    | Parameter | Shape | Low | High | Unit | Meaning |
    |---|---|---|---|---|---|
    | key | () | 0 | 80 | index | cell of the key, row * size + column |
    | door | () | 0 | 80 | index | cell of the door |
    | start | () | -1 | 80 | index | cell in which episodes start; -1: any, drawn anew in each episode |
    | action_map | (5,) | 0 | 4 | move | which of the five moves each action is, a permutation |

    Cells may also be given as coordinates, `(row, column)`; `start` (-1) and `action_map` may be left out.

    ## Action Space

    `Discrete(5)`: 0 stay, 1 up (row - 1), 2 right (column + 1), 3 down, 4 left, unless the actions are permuted.
    Walls hold the agent back.

    ## Observation Space

    `Discrete(size ** 2)`:

    | Num | Observation | Low | High | Unit |
    |---|---|---|---|---|
    | 0 | cell of the agent, row * size + column | 0 | 80 | index |

    With `variant="amago"`, a `Box` of shape (3,), float32: row / size, column / size, and 1 with the key, else 0.

    ## Rewards

    1 for the first step of an episode that ends on the key's cell, which takes the key; 1 for a step with the key
    that ends on the door's cell, which opens the door; else 0. A step that ends where both are pays 2.

    ## Starting State

    Without the key, in the cell `start`; where that is -1, as in all tasks of "ad", in a cell drawn uniformly from
    all in each episode. Starting on the key or the door does nothing until a step has ended there.

    ## Episode End

    Terminated when the door is opened. Truncated after `episode_length` steps.

    ## Information

    `is_success`: whether the door was opened at this step.

    ## Arguments

    - `variant`: one of the published versions below.
    - `size`: cells along a side, 2 to 16; by default the variant's.
    - `episode_length`: steps, 1 to 100,000; by default the variant's.
    - `remap_actions`: draw a permutation of the five actions for each task, uniformly from all 120.

    | Variant | Size | Start | Observation | Steps | Source |
    |---|---|---|---|---|---|
    | ad | 9 | anywhere, anew in each episode | cell | 50 | AD, "Dark Key-to-Door" |
    | amago | 8 | part of the task | coordinates, key | 50, in trials of 500 | AMAGO, `RoomKeyDoor` |

    ## Splits

    train and test: the cells of key and door, independent and uniform over all, enumerated: of 6,561 pairs for size 9,
    1,312 are for testing; `start`, where it is part of the task, uniform over all cells. ood: cells drawn alike, and
    actions permuted by one of the 119 permutations that change something; none with `remap_actions=True`.

    ## Reference Returns

    One episode, exact, averaged over all training tasks and starts. Optimal, for an agent that knows the task: 2 in
    both variants, since the way to the key and from there to the door is never longer than 32 steps. Random: "ad"
    0.2523, "amago" 0.3175.

    ## References

    AD: Laskin et al. 2023, "In-context Reinforcement Learning with Algorithm Distillation", section 4.1; re-implemented
    by corl-team/toy-meta-gym, `src/toymeta/dark_key_door.py` and `__init__.py`.
    AMAGO: Grigsby et al. 2024, "AMAGO: Scalable In-Context Reinforcement Learning for Adaptive Agents";
    UT-Austin-RPL/amago, `amago/envs/builtin/toy_gym.py` (`RoomKeyDoor`), `examples/05_dark_key_door.py`.

    Differs: that each episode of "ad" starts anywhere is what toy-meta-gym registers; its class starts in the
    centre unless told otherwise, for which tasks can name a `start`. Key and door are independent, as AD's number
    of tasks says, 81²; toy-meta-gym lists only pairs that differ, and its `info` has `has_key`. From AMAGO: the
    moves come in another order; a step that ends where both key and door are pays 2 at once, where AMAGO pays for
    the door at the next step there; no step is lost between episodes; the elapsed part of the episode is not
    observed; and the light room, in which key and door are seen, is left out (`reveal_task=True` shows them).
    AMAGO's class has 9 cells along a side by default, its example 8.

    ## Version History

    - v0: first version.
    """

    name = "KeyToDoor"
    params_type = KeyToDoorParams
    structural = ("key", "door")
    has_success = True
    initial_needs_task = True
    num_structure_draws = 2
    num_initial_draws = 1
    num_step_draws = 0
    cells = _CELLS

    def __init__(
        self,
        *,
        variant: str = "ad",
        size: int | None = None,
        episode_length: int | None = None,
        remap_actions: bool = False,
    ) -> None:
        self.variant = choice_of("variant", variant, list(VARIANTS))
        self.constants = constants = VARIANTS[self.variant]
        self.size = constants.size if size is None else integer("size", size, 2, 16)
        self.episode_length = (
            constants.episode_length
            if episode_length is None
            else integer("episode_length", episode_length, 1, 100_000)
        )
        self.remap_actions = flag("remap_actions", remap_actions)
        num_cells = self._num_cells = self.size**2
        self.task_space = spaces.Dict(
            key=spaces.Box(0, num_cells - 1, (), np.int64),
            door=spaces.Box(0, num_cells - 1, (), np.int64),
            start=spaces.Box(_ANYWHERE, num_cells - 1, (), np.int64),
            action_map=spaces.Box(0, 4, (5,), np.uint8),
        )
        self.action_space = spaces.Discrete(len(grids.MOVES))
        self.num_detail_draws = int(constants.start_of_task) + int(self.remap_actions)
        self.num_ood_detail_draws = 1 + int(constants.start_of_task)
        self._lay_out(num_cells)
        self._compile()

    def _lay_out(self, num_cells: int) -> None:
        # Three layers of cells: without the key, with it, and before the first step, when being in a cell is no
        # entering of it.
        self._first = np.array(2 * num_cells)
        self._with_key = np.array(num_cells)
        moves = grids.neighbours(self.size, grids.MOVES)
        self.successors = np.concatenate([moves, moves + num_cells, moves])[:, :, None]
        states = np.arange(3 * num_cells)
        taken = states % num_cells + num_cells
        self.leads = np.stack([states, taken, states, taken])
        if not self.constants.sees_key:
            self.observations = states % num_cells
            self.observation_space = spaces.Discrete(num_cells)
            return
        place = grids.coordinates(self.size)[states % num_cells] / self.size
        has_key = states // num_cells == 1
        self.observations = np.concatenate([place, has_key[:, None]], axis=1).astype(np.float32)
        high = np.array([place.max(), place.max(), 1.0], dtype=np.float32)
        self.observation_space = spaces.Box(np.zeros(3, np.float32), high, dtype=np.float32)

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        cells = (noise * self._num_cells).astype(np.int64)
        return {"key": cells[:, 0].copy(), "door": cells[:, 1].copy()}

    @override
    def enumerate_structures(self) -> tuple[dict[str, Array], Float]:
        key, door = np.divmod(np.arange(self._num_cells**2), self._num_cells)
        return {"key": key, "door": door}, np.full(len(key), 1.0 / len(key))

    @override
    def draw_details(self, noise: Float, region: Region) -> dict[str, Array]:
        start, order = np.full(len(noise), _ANYWHERE), np.zeros(len(noise), np.int64)
        if self.constants.start_of_task:
            start = (noise[:, 0] * self._num_cells).astype(np.int64)
        if region == "ood":
            if self.remap_actions:
                raise ConfigError("KeyToDoor has no ood region here: with remap_actions=True, training has all tasks")
            order = 1 + (noise[:, -1] * (len(grids.ORDERS) - 1)).astype(np.int64)
        elif self.remap_actions:
            order = (noise[:, -1] * len(grids.ORDERS)).astype(np.int64)
        return {"start": start, "action_map": grids.ORDERS[order]}

    @override
    def normalize(self, fields: Mapping[str, ArrayLike]) -> Mapping[str, ArrayLike]:
        places = {"key", "door", "start"}
        full = {
            name: grids.cell_at(name, value, self.size) if name in places else value for name, value in fields.items()
        }
        full.setdefault("start", _ANYWHERE)
        full.setdefault("action_map", grids.ORDERS[0])
        return full

    @override
    def check(self, params: KeyToDoorParams) -> None:
        grids.check_order(params.action_map[0].tolist())

    @override
    def kinds(self, params: KeyToDoorParams, states: Int) -> Array:
        takes = states == params.key[:, None]
        opens = states == (params.door + self._with_key)[:, None]
        opens |= takes & (params.key == params.door)[:, None]
        # The number of a kind in binary: whether the door opens, whether the key is taken.
        kind: Array = opens.view(np.uint8) << _DOOR_BIT
        kind |= takes.view(np.uint8)
        return kind

    @override
    def effects(self, params: KeyToDoorParams, states: Int, actions: Int) -> Int:
        return at_states(params.action_map, actions)

    @override
    def starts(self, params: KeyToDoorParams) -> Int:
        start = params.start[:, None]
        states: Int = np.where(start == _ANYWHERE, np.arange(self._num_cells), start) + self._first
        return states

    @override
    def initial(self, params: KeyToDoorParams, noise: Float) -> Position:
        anywhere = (noise[:, 0] * self._num_cells).astype(np.int64)
        return Position(np.where(params.start == _ANYWHERE, anywhere, params.start) + self._first)

    @override
    def describe(self, state: Position, params: KeyToDoorParams) -> str:
        layer, agent = divmod(int(state.cell[0]), self._num_cells)
        key, door = int(params.key[0]), int(params.door[0])
        letters = {door: "D"} if layer == 1 else {door: "D", key: "B" if key == door else "K"}
        return grids.text(letters, self.size, agent) + ("with the key\n" if layer == 1 else "without the key\n")

    @override
    def draw(self, state: Position, params: KeyToDoorParams) -> Array:
        layer, agent = divmod(int(state.cell[0]), self._num_cells)
        marks = {int(params.door[0]): "goal"}
        if layer != 1:
            marks[int(params.key[0])] = "yellow"
        return grids.picture(marks, self.size, agent)
