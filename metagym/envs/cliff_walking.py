"""Cliff walking: get to the goal without stepping off cliffs that must be found out."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike
from typing_extensions import override

from metagym.envs import cliff_maps
from metagym.envs.arguments import flag, integer, number
from metagym.errors import TaskError
from metagym.family import Params, Region
from metagym.tabular import Cell, Position, TabularFamily, at_states
from metagym.tasks import Task
from metagym.types import Array, Bool, Float, Int

__all__ = ["CliffWalking", "CliffWalkingParams"]

_CELLS = (
    Cell(reward=-1.0, terminal=False, success=False),
    Cell(reward=-1.0, terminal=False, success=False),
    Cell(reward=-100.0, terminal=False, success=False),
    Cell(reward=-1.0, terminal=True, success=True),
)


@dataclass(frozen=True)
class CliffWalkingParams(Params):
    """Columns of N maps."""

    map: Array
    """Codes of the cells, indices into "SFCG", (N, height, width) uint8."""


class CliffWalking(TabularFamily[CliffWalkingParams]):
    """Cliff walking: get from start to goal; whoever steps off a cliff is back at the start and pays for it.

    The dynamics are those of Gymnasium's CliffWalking-v1, transition for transition; the map is new in every trial.
    The agent sees the number of its cell and must find out where the cliffs are.

    ## Task Space

    | Parameter | Shape | Low | High | Unit | Meaning |
    |---|---|---|---|---|---|
    | map | (4, 12) | 0 | 3 | code | cells by row: 0 start S, 1 floor F, 2 cliff C, 3 goal G |

    The start is the bottom left cell; there is one goal, and a way to it that touches no cliff. A map may also be
    given as rows of text. `CliffWalking.nominal()` is Gymnasium's.

    ## Action Space

    `Discrete(4)`: 0 up, 1 right, 2 down, 3 left. Where it is slippery, the agent goes where it means to, or to either
    side of that, with a third each. The border holds it back.

    ## Observation Space

    `Discrete(height * width)`:

    | Num | Observation | Low | High | Unit |
    |---|---|---|---|---|
    | 0 | cell of the agent, row * width + column | 0 | 47 | index |

    ## Rewards

    -100 for stepping off a cliff, which leads to the start; else -1, also on reaching the goal.

    ## Starting State

    The bottom left cell.

    ## Episode End

    Terminated at the goal. Truncated after `episode_length` steps.

    ## Information

    `is_success`: whether the goal was reached at this step.

    ## Arguments

    - `height`: rows, 2 to 16.
    - `width`: columns, 2 to 16.
    - `cliff_probability`: of each cell other than start and goal, in [0, 0.6].
    - `is_slippery`: whether the agent may go to the side of where it means to.
    - `random_goal`: draw the goal uniformly from the cells below the top row, but the start; else it is at the bottom
      right.
    - `episode_length`: steps, 1 to 100,000; by default twice the number of cells, and at least 100.

    ## Splits

    Each cell is a cliff by itself, and the whole map is drawn again until there is a way. train and test share no
    map; where there are at most 2 ** 16 maps to look at (3 x 6 cells), they are enumerated and drawn with their exact
    probabilities, else split by a hash. With `cliff_probability=0` and the goal at the bottom right there is one map,
    and no test part. ood: goals uniform on the top row, where training has none.

    ## Reference Returns

    Exact, by backward induction over the episode's steps on the tables that are stepped. Gymnasium's map: optimal
    -13, and -63.01 where it is slippery; random -1083.0 on both. Averaged over 20,000 training maps: optimal -14.50,
    random -1302.

    ## References

    Gymnasium 1.4, `gymnasium/envs/toy_text/cliffwalking.py`; Sutton and Barto, "Reinforcement Learning: An
    Introduction", example 6.6.

    Differs: Gymnasium has one map, and no limit to an episode: CliffWalking-v1 is registered without one, so 100 is
    this family's. Its `info` with the probability of the transition is not here.

    ## Version History

    - v0: first version.
    """

    name = "CliffWalking"
    params_type = CliffWalkingParams
    structural = ("map",)
    has_success = True
    cells = _CELLS

    def __init__(
        self,
        *,
        height: int = 4,
        width: int = 12,
        cliff_probability: float = 0.25,
        is_slippery: bool = False,
        random_goal: bool = False,
        episode_length: int | None = None,
    ) -> None:
        self.height, self.width = integer("height", height, 2, 16), integer("width", width, 2, 16)
        self.cliff_probability = number("cliff_probability", cliff_probability, 0.0, 0.6)
        self.is_slippery = flag("is_slippery", is_slippery)
        self.random_goal = flag("random_goal", random_goal)
        if self.cliff_probability == 0.0 and not self.random_goal:
            self.unsplit = "there is a single map; evaluate on split='train'"
        num_cells = self.height * self.width
        self.episode_length = (
            max(100, 2 * num_cells) if episode_length is None else integer("episode_length", episode_length, 1, 100_000)
        )
        self.task_space = spaces.Dict(map=spaces.Box(0, 3, (self.height, self.width), np.uint8))
        self.observation_space = spaces.Discrete(num_cells)
        self.action_space = spaces.Discrete(4)
        self.num_structure_draws = num_cells
        self.num_step_draws = int(self.is_slippery)
        self.start = num_cells - self.width
        self.successors = _successors(self.height, self.width, self.is_slippery)
        self.leads = _leads(num_cells, self.start)
        self._compile()

    @staticmethod
    def nominal() -> dict[str, list[str]]:
        """Gymnasium's map, 4 x 12, as `set_task` takes it."""
        return {"map": ["F" * 12] * 3 + ["S" + "C" * 10 + "G"]}

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        size = (self.height, self.width)
        goals = cliff_maps.goal_cells(*size, random_goal=self.random_goal, on_top=region == "ood")
        return {"map": cliff_maps.propose(noise, *size, self.cliff_probability, goals)}

    @override
    def accept(self, structure: Mapping[str, Array]) -> Bool:
        return cliff_maps.solvable(structure["map"])

    @override
    def enumerate_structures(self) -> tuple[dict[str, Array], Float] | None:
        listed = cliff_maps.enumerate_maps(self.height, self.width, self.cliff_probability, self.random_goal)
        return None if listed is None else ({"map": listed[0]}, listed[1])

    @override
    def normalize(self, fields: Mapping[str, ArrayLike]) -> Mapping[str, ArrayLike]:
        return {name: cliff_maps.read(value) if name == "map" else value for name, value in fields.items()}

    @override
    def check(self, params: CliffWalkingParams) -> None:
        codes = params.map[0]
        drawing = cliff_maps.text(codes)
        if codes[-1, 0] != cliff_maps.START or np.count_nonzero(codes == cliff_maps.START) != 1:
            raise TaskError(f"map must have one start S, at the bottom left; got\n{drawing}")
        num_goals = np.count_nonzero(codes == cliff_maps.GOAL)
        if num_goals != 1:
            raise TaskError(f"map must have exactly one goal G, got {num_goals}:\n{drawing}")
        if not cliff_maps.solvable(params.map)[0]:
            raise TaskError(f"map must have a way from S to G that touches no cliff C; got\n{drawing}")

    @override
    def kinds(self, params: CliffWalkingParams, states: Int) -> Array:
        return at_states(params.map, states)

    @override
    def probabilities(self, params: CliffWalkingParams) -> tuple[Float, ...]:
        if not self.is_slippery:
            return super().probabilities(params)
        third = np.full(len(params), 1.0 / 3.0)
        return third, third, third

    def transitions(self, task: Task) -> dict[int, dict[int, list[tuple[float, int, float, bool]]]]:
        """The task in the format of Gymnasium's ``CliffWalkingEnv.P``, to which it is equal for `nominal()`.

        Returns:
            For each cell and action a list of (probability, next cell, reward, terminated). Cliffs and the goal, where
            an agent never acts, have entries as well.
        """
        (kinds,) = self.kind_table(self.params_of([task])).astype(np.int64)
        entered = kinds[self.successors]
        left = _leads(len(kinds), self.start)[entered, self.successors]
        columns = (left, self._rewards[entered], self._terminals[entered])
        share = 1.0 / self.successors.shape[2]
        lists = [column.tolist() for column in columns]
        return {
            cell: {
                action: [(share, *outcome) for outcome in zip(*(part[cell][action] for part in lists), strict=True)]
                for action in range(4)
            }
            for cell in range(len(kinds))
        }

    @override
    def describe(self, state: Position, params: CliffWalkingParams) -> str:
        return cliff_maps.text(params.map[0], int(state.cell[0])) + "\n"

    @override
    def draw(self, state: Position, params: CliffWalkingParams) -> Array:
        return cliff_maps.picture(params.map[0], int(state.cell[0]))


def _leads(num_cells: int, start: int) -> Int:
    """Entering a cliff leads to the start, all else where it is entered, (C, S)."""
    leads = np.tile(np.arange(num_cells), (len(_CELLS), 1))
    leads[cliff_maps.CLIFF] = start
    return leads


def _successors(height: int, width: int, is_slippery: bool) -> Int:
    row, column = np.divmod(np.arange(height * width), width)
    up, down = np.maximum(row - 1, 0), np.minimum(row + 1, height - 1)
    left, right = np.maximum(column - 1, 0), np.minimum(column + 1, width - 1)
    neighbour = np.stack([up * width + column, row * width + right, down * width + column, row * width + left], axis=1)
    # Outcomes in Gymnasium's order: the side before, where the action means to go, the side after.
    turns = [-1, 0, 1] if is_slippery else [0]
    return np.stack([np.roll(neighbour, -turn, axis=1) for turn in turns], axis=2)
