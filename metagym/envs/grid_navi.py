"""Grid navigation: search a small grid for a goal that is not seen, then go straight to it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike
from typing_extensions import override

from metagym.envs import grids, hidden_goal
from metagym.envs.arguments import integer
from metagym.family import Params, Region
from metagym.tabular import Cell, Position, TabularFamily
from metagym.types import Array, Bool, Float, Int

__all__ = ["GridNavi", "GridNaviParams"]

# Stay, and y + 1, x + 1, y - 1, x - 1: up, right, down, left.
_MOVES = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))
_REWARD, _COST = 1.0, -0.1


@dataclass(frozen=True)
class GridNaviParams(Params):
    """Columns of N goals."""

    goal: Int
    """Number of the goal's cell, x * size + y, (N,)."""


class GridNavi(TabularFamily[GridNaviParams]):
    """Grid navigation: find a goal that is not seen, by searching a grid; in later episodes, go straight to it.

    The agent sees where it is and feels, by the reward, whether that is the goal.

    ## Task Space

    | Parameter | Shape | Low | High | Unit | Meaning |
    |---|---|---|---|---|---|
    | goal | () | 0 | 24 | index | cell of the goal, x * size + y |

    A goal may also be given as its coordinates, `(x, y)`.

    ## Action Space

    `Discrete(5)`: 0 stay, 1 up (y + 1), 2 right (x + 1), 3 down, 4 left. Walls hold the agent back.

    ## Observation Space

    `Box` of shape (2,), float32, whole numbers:

    | Num | Observation | Low | High | Unit |
    |---|---|---|---|---|
    | 0 | x of the agent | 0 | 4 | cell |
    | 1 | y of the agent | 0 | 4 | cell |

    ## Rewards

    1 for every step that ends on the goal, staying there included, and -0.1 for every other.

    ## Starting State

    The corner (0, 0).

    ## Episode End

    Never terminated, not at the goal either. Truncated after `episode_length` steps.

    ## Information

    `is_success`: whether this step ended on the goal.

    ## Arguments

    - `size`: cells along a side, 3 to 32.
    - `episode_length`: steps, 1 to 100,000; by default 3 * size, the published 15 for size 5.

    ## Splits

    train and test: the goal uniform over all cells but the four of the corner where episodes start, enumerated:
    17 goals and 4 for size 5. ood: one of the other three cells of that corner.

    ## Reference Returns

    One episode, exact, averaged over the 21 goals: random -1.1655; optimal, for an agent that knows the goal, 11.0714.
    Bayes-optimal, for a trial of four episodes in which the goal must be found: 4.0000, 11.0714, 11.0714, 11.0714,
    together 37.2143. In the first episode 14 goals can be visited, and the other seven can lie on one shortest path,
    so that nothing is lost after it. `bayes_return` finds these by branch and bound, for any number of episodes; for
    other sizes and lengths it is None where the best search cannot be proven to be the best within 50,000 walks.

    ## References

    Zintgraf et al. 2020, "VariBAD: A Very Good Method for Bayes-Adaptive Deep RL via Meta-Learning", section 5.1
    (trials of four episodes); lmzintgraf/varibad, `environments/navigation/gridworld.py`.

    Differs: from that code, a task is the number of the goal's cell instead of its coordinates, and `info` does not
    tell the task. The variants in which the agent sees the goal, its belief about it, or may ask for a hint, are left
    out: `RevealTask` is the first of them.

    ## Version History

    - v0: first version.
    """

    name = "GridNavi"
    params_type = GridNaviParams
    structural = ("goal",)
    has_success = True
    num_structure_draws = 1
    num_step_draws = 0
    cells = (Cell(_COST, terminal=False, success=False), Cell(_REWARD, terminal=False, success=True))

    def __init__(self, *, size: int = 5, episode_length: int | None = None) -> None:
        self.size = integer("size", size, 3, 32)
        self.episode_length = (
            3 * self.size if episode_length is None else integer("episode_length", episode_length, 1, 100_000)
        )
        self.task_space = spaces.Dict(goal=spaces.Box(0, self.size**2 - 1, (), np.int64))
        self.observation_space = spaces.Box(0.0, self.size - 1.0, (2,), np.float32)
        self.action_space = spaces.Discrete(len(_MOVES))
        self.successors = grids.neighbours(self.size, _MOVES)[:, :, None]
        place = grids.coordinates(self.size)
        self.observations = place.astype(np.float32)
        near = (place < 2).all(axis=1)
        self._goals: dict[Region, Int] = {"train": np.flatnonzero(~near), "ood": np.flatnonzero(near)[1:]}
        self._compile()

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        goals = self._goals[region]
        return {"goal": goals[(noise[:, 0] * len(goals)).astype(np.int64)]}

    @override
    def enumerate_structures(self) -> tuple[dict[str, Array], Float]:
        goals = self._goals["train"]
        return {"goal": goals}, np.full(len(goals), 1.0 / len(goals))

    @override
    def normalize(self, fields: Mapping[str, ArrayLike]) -> Mapping[str, ArrayLike]:
        return {
            name: grids.cell_at(name, value, self.size) if name == "goal" else value for name, value in fields.items()
        }

    @override
    def kinds(self, params: GridNaviParams, states: Int) -> Bool:
        at_goal: Bool = states == params.goal[:, None]
        return at_goal

    @override
    def bayes_return(self, num_episodes: int) -> Float | None:
        search = hidden_goal.Search(
            self.successors[:, :, 0], self.start, self._goals["train"], self.episode_length, _REWARD, _COST
        )
        return hidden_goal.episode_returns(search, integer("num_episodes", num_episodes, 1, 1_000_000))

    @override
    def describe(self, state: Position, params: GridNaviParams) -> str:
        return grids.text({int(params.goal[0]): "G"}, self.size, int(state.cell[0]), upwards=True)

    @override
    def draw(self, state: Position, params: GridNaviParams) -> Array:
        marks = {self.start: "start", int(params.goal[0]): "goal"}
        return grids.picture(marks, self.size, int(state.cell[0]), upwards=True)
