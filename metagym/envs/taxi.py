"""Taxi: take a passenger from stand to stand, in a town that must be found out."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike
from typing_extensions import override

from metagym.envs import taxi_layouts, taxi_tables
from metagym.envs.arguments import flag, integer, number
from metagym.errors import ConfigError, TaskError
from metagym.family import Params, Region
from metagym.tabular import Cell, Position, TabularFamily, at_states
from metagym.tasks import Task
from metagym.types import Array, Bool, Float, Int

__all__ = ["Taxi", "TaxiParams"]

_CELLS = (
    Cell(reward=-1.0, terminal=False, success=False),
    Cell(reward=-10.0, terminal=False, success=False),
    Cell(reward=20.0, terminal=True, success=True),
)
_STAND_NUMBERS = np.arange(1, 5)
_COLUMN = np.arange(25) % 5
# Which entry of a town's walls (20) is to the east and to the west of each cell; at the border, one that is not used.
_EAST_OF = np.arange(25) // 5 * 4 + np.minimum(_COLUMN, 3)
_WEST_OF = np.arange(25) // 5 * 4 + np.maximum(_COLUMN - 1, 0)


@dataclass(frozen=True)
class TaxiParams(Params):
    """Columns of N towns."""

    stands: Array
    """Cells of the stands R, G, Y and B, row * 5 + column, (N, 4) uint8."""
    walls: Array
    """1 where there is a wall between a cell and the next one in its row, (N, 5, 4) uint8."""


class Taxi(TabularFamily[TaxiParams]):
    """Taxi: fetch a passenger at one of four stands and set them down at another, in a town that is new in every trial.

    The dynamics are those of Gymnasium's Taxi-v4, transition for transition. The agent sees where it is, and by name
    where the passenger is and wants to go. It must find out where the stands are, and the walls.

    ## Task Space

    | Parameter | Shape | Low | High | Unit | Meaning |
    |---|---|---|---|---|---|
    | stands | (4,) | 0 | 24 | index | cells of the stands R, G, Y, B: row * 5 + column, all different |
    | walls | (5, 4) | 0 | 1 | flag | whether a wall is between a cell and the next one in its row |

    The taxi can get everywhere: no two columns are walled off from each other. A task may also be given as Gymnasium
    spells its map, under the name `desc`. `Taxi.nominal()` is Gymnasium's map.

    ## Action Space

    `Discrete(6)`: 0 south, 1 north, 2 east, 3 west, 4 pick up, 5 drop off. In the rain the taxi goes where it heads
    with probability `rainy_probability`, and to each side with half of the rest; where the way ahead is blocked it
    stays.

    ## Observation Space

    `Discrete(500)`:

    | Num | Observation | Low | High | Unit |
    |---|---|---|---|---|
    | 0 | ((row * 5 + column) * 5 + passenger) * 4 + destination | 0 | 499 | index |

    Passenger and destination are the numbers of stands; passenger 4 is in the taxi.

    ## Rewards

    20 for dropping the passenger off at the destination, -10 for picking up where no passenger is or dropping off
    where it cannot be done, else -1. Setting the passenger down at another stand is legal.

    ## Starting State

    Uniform over the 300 states in which the passenger is at a stand other than the destination.

    ## Episode End

    Terminated when the passenger is dropped off at the destination. Truncated after `episode_length` steps.

    ## Information

    `is_success`: whether the passenger was delivered at this step.

    ## Arguments

    - `is_rainy`: whether the taxi may slide to the side.
    - `fickle_passenger`: whether three passengers in ten change their destination, once, to one of the other three
      stands: in the first step that moves the taxi after they are picked up.
    - `rainy_probability`: of going where the taxi heads when it rains, in [0, 1]; to be left at 0.8 if not.
    - `wall_probability`: of each of the 20 places for a wall, in [0, 0.6].
    - `episode_length`: steps, 1 to 100,000.

    ## Splits

    Stands are four different cells on the border of the grid, uniformly; each wall is there by itself, and all of
    them are drawn again until the taxi can get everywhere. train and test share no town, by a hash. ood: the four
    stands are among the inner 3 x 3 cells, walls as in training.

    ## Reference Returns

    Exact, by backward induction over the episode's steps on the tables that are stepped, averaged over starts.
    Gymnasium's map: optimal 7.93, random -771.1; in the rain 3.95 and -772.5; with a fickle passenger 8.38 and
    -765.7. Averaged over 2,000 training towns: optimal 10.70, random -755.7.

    ## References

    Gymnasium 1.4, `gymnasium/envs/toy_text/taxi.py`; Dietterich 2000, "Hierarchical Reinforcement Learning with the
    MAXQ Value Function Decomposition".

    Differs: Gymnasium has one map, and its stands are where the observation says by name. `info` has neither the
    probability of the transition nor the action mask, which would tell where walls and stands are. That a passenger
    is fickle has probability 0.3, Gymnasium's default, and is no keyword.

    ## Version History

    - v0: first version.
    """

    name = "Taxi"
    params_type = TaxiParams
    structural = ("stands", "walls")
    has_success = True
    cells = _CELLS
    num_structure_draws = 24
    num_initial_draws = 1

    def __init__(
        self,
        *,
        is_rainy: bool = False,
        fickle_passenger: bool = False,
        rainy_probability: float = 0.8,
        wall_probability: float = 0.3,
        episode_length: int = 200,
    ) -> None:
        self.is_rainy, self.fickle_passenger = flag("is_rainy", is_rainy), flag("fickle_passenger", fickle_passenger)
        self.rainy_probability = number("rainy_probability", rainy_probability, 0.0, 1.0)
        if not self.is_rainy and self.rainy_probability != 0.8:
            raise ConfigError(f"rainy_probability={rainy_probability!r} needs is_rainy=True; without, leave it out")
        self.wall_probability = number("wall_probability", wall_probability, 0.0, 0.6)
        self.episode_length = integer("episode_length", episode_length, 1, 100_000)
        self.task_space = spaces.Dict(
            stands=spaces.Box(0, 24, (4,), np.uint8), walls=spaces.Box(0, 1, (5, 4), np.uint8)
        )
        self.observation_space = spaces.Discrete(taxi_tables.NUM_GRID)
        self.action_space = spaces.Discrete(6)
        self._tables = tables = taxi_tables.build(self.is_rainy, self.fickle_passenger)
        self.successors, self.leads, self.observations = tables.successors, tables.leads, tables.observations
        self._shares = _shares(self.rainy_probability if self.is_rainy else None, self.fickle_passenger)
        self.num_step_draws = int(len(self._shares) > 1)
        self._compile()

    @staticmethod
    def nominal() -> dict[str, list[str]]:
        """Gymnasium's map, as `set_task` takes it."""
        return {"desc": list(taxi_layouts.NOMINAL)}

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        return taxi_layouts.propose(noise, self.wall_probability, region)

    @override
    def accept(self, structure: Mapping[str, Array]) -> Bool:
        return taxi_layouts.connected(structure["walls"])

    @override
    def normalize(self, fields: Mapping[str, ArrayLike]) -> Mapping[str, ArrayLike]:
        if "desc" not in fields:
            return fields
        if len(fields) > 1:
            raise TaskError(f"a town is given as desc, or as stands and walls; got {sorted(fields)}")
        return taxi_layouts.read(fields["desc"])

    @override
    def check(self, params: TaxiParams) -> None:
        stands = params.stands[0].tolist()
        if len(set(stands)) < 4:
            raise TaskError(f"stands={stands} must be four different cells")
        if not taxi_layouts.connected(params.walls)[0]:
            drawing = "\n".join(taxi_layouts.text({"stands": params.stands[0], "walls": params.walls[0]}))
            raise TaskError(f"walls must leave a way between every two columns that are neighbours; got\n{drawing}")

    @override
    def kinds(self, params: TaxiParams, states: Int) -> Array:
        return self._tables.kinds.take(states)

    @override
    def probabilities(self, params: TaxiParams) -> tuple[Float, ...]:
        return _columns(self._shares, len(params))

    @override
    def effects(self, params: TaxiParams, states: Int, actions: Int) -> Int:
        tables = self._tables
        cell = tables.cell.take(states)
        index = (params.stands[:, None, :] == cell[:, :, None]) @ _STAND_NUMBERS
        index *= 20
        index += tables.errand.take(states)
        index *= 4
        index += at_states(params.walls, _EAST_OF.take(cell))
        index += 2 * at_states(params.walls, _WEST_OF.take(cell))
        index *= 6
        index += actions
        effects: Int = tables.effects.take(index)
        return effects

    @override
    def starts(self, params: TaxiParams) -> Int:
        return np.broadcast_to(self._tables.starts, (len(params), len(self._tables.starts)))

    @override
    def state_values(self, params: TaxiParams, *, greedy: bool = True, horizon: int | None = None) -> Float:
        # A few towns at a time: the dense tables of one take up to 3 MB.
        parts = np.array_split(np.arange(len(params)), max(1, -(-len(params) // 8)))
        solve = super().state_values
        return np.concatenate([solve(params.take(rows), greedy=greedy, horizon=horizon) for rows in parts])

    def transitions(self, task: Task) -> dict[int, dict[int, list[tuple[float, int, float, bool]]]]:
        """The task in the format of Gymnasium's ``TaxiEnv.P``, to which it is equal for `nominal()`.

        Returns:
            For each of 500 states and each action a list of (probability, next state, reward, terminated). A fickle
            passenger is not in it, as in Gymnasium's.
        """
        plain = Taxi(is_rainy=self.is_rainy, rainy_probability=self.rainy_probability)
        (effects,) = plain.effect_table(plain.params_of([task]))[:, : taxi_tables.NUM_GRID].tolist()
        return {
            state: {action: plain._outcomes_of(state, action, effect) for action, effect in enumerate(row)}
            for state, row in enumerate(effects)
        }

    def _outcomes_of(self, state: int, action: int, effect: int) -> list[tuple[float, int, float, bool]]:
        found = []
        # Only moves are uncertain: other actions have the same outcome as often as there are shares.
        for share, entered in zip(self._shares, self.successors[state, effect].tolist(), strict=True):
            meaning, after = _CELLS[self._tables.kinds[entered]], int(self._tables.observations[entered])
            found.append((share, after, meaning.reward, meaning.terminal))
        return found if action < 4 else [(1.0, *found[0][1:])]

    @override
    def describe(self, state: Position, params: TaxiParams) -> str:
        cell, passenger, destination = self._scene(state)
        lines = taxi_layouts.text({"stands": params.stands[0], "walls": params.walls[0]})
        names = taxi_layouts.NAMES
        where = "in the taxi" if passenger == 4 else f"at {names[passenger]}"
        words = f"taxi in row {cell // 5}, column {cell % 5}; passenger {where}, to {names[destination]}"
        return "\n".join([*lines, words, ""])

    @override
    def draw(self, state: Position, params: TaxiParams) -> Array:
        return taxi_layouts.picture({"stands": params.stands[0], "walls": params.walls[0]}, *self._scene(state))

    def _scene(self, state: Position) -> tuple[int, int, int]:
        """Cell of the taxi, where the passenger is, and the destination."""
        cell, errand = divmod(int(self._tables.observations[state.cell[0]]), 20)
        return cell, errand // 4, errand % 4


def _shares(rainy_probability: float | None, fickle_passenger: bool) -> tuple[float, ...]:
    """Probability of each outcome of a move."""
    if rainy_probability is None:
        headings: tuple[float, ...] = (1.0,)
    else:
        aside = (1.0 - rainy_probability) / 2.0
        headings = (rainy_probability, aside, aside)
    return tuple(share / 3.0 for share in headings for _ in range(3)) if fickle_passenger else headings


@lru_cache(maxsize=64)
def _columns(shares: tuple[float, ...], num_rows: int) -> tuple[Float, ...]:
    columns = tuple(np.full(num_rows, share) for share in shares)
    for column in columns:
        column.setflags(write=False)
    return columns
