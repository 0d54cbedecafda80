"""Dark rooms: find a goal that is not seen in an empty room, in the versions of two lines of work."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike
from typing_extensions import override

from metagym.envs import grids, hidden_goal
from metagym.envs.arguments import choice_of, integer
from metagym.family import Params, Region
from metagym.tabular import Cell, Position, TabularFamily, at_states
from metagym.types import Array, Bool, Float, Int

__all__ = ["VARIANTS", "DarkRoom", "DarkRoomParams", "Variant"]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The constants in which published versions of this task differ."""

    size: int
    """Cells along a side."""
    episode_length: int
    start: Literal["centre", "corner"]
    ends_at_goal: bool = False
    hidden: Literal["goal", "actions"] = "goal"
    """What differs between tasks: where the goal is (else it is in the last cell), or what the actions do."""


VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "ad": Variant(size=9, episode_length=20, start="centre"),
        "ad_hard": Variant(size=17, episode_length=20, start="centre", ends_at_goal=True),
        "dpt": Variant(size=10, episode_length=100, start="corner"),
        "dpt_permuted": Variant(size=10, episode_length=100, start="corner", hidden="actions"),
    }
)


@dataclass(frozen=True)
class DarkRoomParams(Params):
    """Columns of N rooms."""

    goal: Int
    """Number of the goal's cell, row * size + column, (N,)."""
    action_map: Array
    """Which move (0 stay, 1 up, 2 right, 3 down, 4 left) each action is, (N, 5) uint8."""


class DarkRoom(TabularFamily[DarkRoomParams]):
    """Dark rooms: find a goal that is not seen, and return to it in later episodes.

    The agent sees the number of its cell and nothing else. Rewards tell it whether that is the goal.

    ## Task Space

    | Parameter | Shape | Low | High | Unit | Meaning |
    |---|---|---|---|---|---|
    | goal | () | 0 | 80 | index | cell of the goal, row * size + column |
    | action_map | (5,) | 0 | 4 | move | which of the five moves each action is, a permutation |

    A goal may also be given as its coordinates, `(row, column)`; `action_map` may be left out.

    ## Action Space

    `Discrete(5)`: 0 stay, 1 up (row - 1), 2 right (column + 1), 3 down, 4 left, unless the actions are permuted.
    Walls hold the agent back.

    ## Observation Space

    `Discrete(size ** 2)`:

    | Num | Observation | Low | High | Unit |
    |---|---|---|---|---|
    | 0 | cell of the agent, row * size + column | 0 | 80 | index |

    ## Rewards

    1 for every step that ends on the goal, else 0. Standing on the goal therefore pays at each step: staying there,
    and being held there by a wall. Starting on the goal pays nothing until a step has ended there. In "ad_hard" the
    episode ends with the first such step, so that it pays once.

    ## Starting State

    The centre; the cell (0, 0) in "dpt" and "dpt_permuted".

    ## Episode End

    Terminated at the goal in "ad_hard", else never. Truncated after `episode_length` steps.

    ## Information

    `is_success`: whether this step ended on the goal.

    ## Arguments

    - `variant`: one of the published versions below.
    - `size`: cells along a side, 2 to 32; by default the variant's.
    - `episode_length`: steps, 1 to 100,000; by default the variant's.

    | Variant | Size | Start | Steps | Reward on the goal | Tasks | Source |
    |---|---|---|---|---|---|---|
    | ad | 9 | centre | 20 | every step | 81 goals | AD, "Dark Room" |
    | ad_hard | 17 | centre | 20 | once, and ends | 289 goals | AD, "Dark Room (Hard)" |
    | dpt | 10 | (0, 0) | 100 | every step | 100 goals | DPT, "Dark Room" |
    | dpt_permuted | 10 | (0, 0) | 100 | every step | 120 permutations of the actions, goal at (9, 9) | DPT |

    ## Splits

    train and test: the goal uniform over all cells, that of the start included, and actions as listed above; in
    "dpt_permuted", permutations uniform over all 120 and the goal in the last cell. Both are enumerated: 65 goals and
    16, 231 and 58, 80 and 20, 96 permutations and 24. ood: the part that is fixed in training varies as well: actions
    permuted by one of the 119 other permutations; in "dpt_permuted", goals in any cell but the last.

    ## Reference Returns

    One episode, exact, for an agent that knows the task, averaged over all training tasks: "ad" 16.5432, "ad_hard" 1,
    "dpt" 91.99, "dpt_permuted" 83. Random: "ad" 0.2469, "ad_hard" 0.0373, "dpt" 1, "dpt_permuted" 0.1646.
    Bayes-optimal, for an agent that must find the goal: an episode of "ad" brings at most 210 / 81 = 2.5926, by
    entering 20 new cells, if there is no later one; the first four of "ad_hard" find 20 new cells each, which brings
    20 / 289 = 0.0692, and 40, 60 and 80 / 289; in "dpt" all cells can be visited in the first episode, which brings
    50.5, and all later ones bring 91.99. `bayes_return` finds these by branch and bound. It is None where the best
    search cannot be proven to be the best within 50,000 walks, as for several episodes of "ad" and more than four of
    "ad_hard", and where the actions are hidden.

    ## References

    AD: Laskin et al. 2023, "In-context Reinforcement Learning with Algorithm Distillation", section 4.1; re-implemented
    by corl-team/toy-meta-gym, `src/toymeta/dark_room.py` and `__init__.py`, whose moves and numbering are used here.
    DPT: Lee et al. 2023, "Supervised Pretraining Can Learn In-Context Reinforcement Learning", section 5;
    jon--lee/decision-pretrained-transformer, `envs/darkroom_env.py`, `collect_data.py`.

    Differs: AD does not say how an episode of "ad_hard" goes on after its one reward; as in toy-meta-gym, it ends.
    toy-meta-gym's class starts in a random cell unless told otherwise; its registered rooms start in the centre, as
    here. DPT's agent sees its two coordinates, and its actions come in another order (down, up, right, left, stay),
    one-hot. DPT keeps the order of one shuffle of goals for its split of 80 to 20; here goals are split by hash.

    ## Version History

    - v0: first version.
    """

    name = "DarkRoom"
    params_type = DarkRoomParams
    structural = ("goal", "action_map")
    has_success = True
    num_structure_draws = 2
    num_step_draws = 0

    def __init__(self, *, variant: str = "ad", size: int | None = None, episode_length: int | None = None) -> None:
        self.variant = choice_of("variant", variant, list(VARIANTS))
        self.constants = constants = VARIANTS[self.variant]
        self.size = constants.size if size is None else integer("size", size, 2, 32)
        self.episode_length = (
            constants.episode_length
            if episode_length is None
            else integer("episode_length", episode_length, 1, 100_000)
        )
        num_cells = self.size**2
        self._first = (self.size // 2) * (self.size + 1) if constants.start == "centre" else 0
        self.cells = (Cell(0.0, terminal=False, success=False), Cell(1.0, constants.ends_at_goal, success=True))
        self.task_space = spaces.Dict(
            goal=spaces.Box(0, num_cells - 1, (), np.int64), action_map=spaces.Box(0, 4, (5,), np.uint8)
        )
        self.observation_space = spaces.Discrete(num_cells)
        self.action_space = spaces.Discrete(len(grids.MOVES))
        self._neighbours = grids.neighbours(self.size, grids.MOVES)
        self._lay_out(num_cells)
        self._compile()

    def _lay_out(self, num_cells: int) -> None:
        self.start, self.successors = self._first, self._neighbours[:, :, None]
        if self.constants.ends_at_goal:
            # Who starts on the goal has not entered it, and goes on: a state of its own, which looks like the cell.
            self.start = num_cells
            self.successors = np.append(self.successors, self.successors[[self._first]], axis=0)
            self.observations = np.append(np.arange(num_cells), self._first)

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        num_cells, everything = self.size**2, len(grids.ORDERS)
        place, order = np.zeros(len(noise), np.int64), np.zeros(len(noise), np.int64)
        if self.constants.hidden == "goal":
            place = (noise[:, 0] * num_cells).astype(np.int64)
            if region == "ood":
                order = 1 + (noise[:, 1] * (everything - 1)).astype(np.int64)
        else:
            order = (noise[:, 1] * everything).astype(np.int64)
            num_others = num_cells - 1
            place = (noise[:, 0] * num_others).astype(np.int64) if region == "ood" else place + num_others
        return {"goal": place, "action_map": grids.ORDERS[order]}

    @override
    def enumerate_structures(self) -> tuple[dict[str, Array], Float]:
        num_cells = self.size**2
        if self.constants.hidden == "goal":
            goals, maps = np.arange(num_cells), np.repeat(grids.ORDERS[:1], num_cells, axis=0)
        else:
            goals, maps = np.full(len(grids.ORDERS), num_cells - 1), grids.ORDERS.copy()
        return {"goal": goals, "action_map": maps}, np.full(len(goals), 1.0 / len(goals))

    @override
    def normalize(self, fields: Mapping[str, ArrayLike]) -> Mapping[str, ArrayLike]:
        full = {
            name: grids.cell_at(name, value, self.size) if name == "goal" else value for name, value in fields.items()
        }
        full.setdefault("action_map", grids.ORDERS[0])
        return full

    @override
    def check(self, params: DarkRoomParams) -> None:
        grids.check_order(params.action_map[0].tolist())

    @override
    def kinds(self, params: DarkRoomParams, states: Int) -> Bool:
        at_goal: Bool = states == params.goal[:, None]
        return at_goal

    @override
    def effects(self, params: DarkRoomParams, states: Int, actions: Int) -> Int:
        return at_states(params.action_map, actions)

    @override
    def bayes_return(self, num_episodes: int) -> Float | None:
        integer("num_episodes", num_episodes, 1, 1_000_000)
        if self.constants.hidden == "actions":
            return None
        goals = np.arange(self.size**2)
        search = hidden_goal.Search(
            self._neighbours, self._first, goals, self.episode_length, ends_at_goal=self.constants.ends_at_goal
        )
        return hidden_goal.episode_returns(search, num_episodes)

    @override
    def describe(self, state: Position, params: DarkRoomParams) -> str:
        agent = int(self.observe(state, params)[0])
        return grids.text({int(params.goal[0]): "G"}, self.size, agent)

    @override
    def draw(self, state: Position, params: DarkRoomParams) -> Array:
        agent = int(self.observe(state, params)[0])
        return grids.picture({self._first: "start", int(params.goal[0]): "goal"}, self.size, agent)
