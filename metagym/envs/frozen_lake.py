"""Frozen lakes: cross the ice to the goal, on a map that must be found out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike
from typing_extensions import override

from metagym.envs import lake_maps
from metagym.envs.arguments import flag, integer, number
from metagym.errors import ConfigError, TaskError
from metagym.family import Params, Region
from metagym.tabular import Cell, Position, TabularFamily, at_states
from metagym.tasks import Task
from metagym.types import Array, Bool, Float, Int

__all__ = ["FrozenLake", "FrozenLakeParams"]

_MARGIN = 0.1
_PERMUTATIONS = {count: np.array(list(permutations(range(count))), dtype=np.uint8) for count in (4, 5)}
_ONE, _HALF = np.array(1.0), np.array(0.5)  # 0-d arrays: ufuncs take them faster than Python's numbers
_CELLS = (
    Cell(reward=0.0, terminal=False, success=False),
    Cell(reward=0.0, terminal=False, success=False),
    Cell(reward=0.0, terminal=True, success=False),
    Cell(reward=1.0, terminal=True, success=True),
)
_HOLE_TO_RECOVER_FROM = Cell(reward=-0.1, terminal=False, success=False)


@dataclass(frozen=True)
class FrozenLakeParams(Params):
    """Columns of N lakes."""

    map: Array
    """Codes of the cells, indices into "SFHG", (N, size, size) uint8."""
    success_rate: Float
    """Probability that the agent goes where it means to, (N,)."""
    action_map: Array
    """Which of the moves (0 left, 1 down, 2 right, 3 up; 4 stay, if there is one) each action is, (N, A) uint8."""


class FrozenLake(TabularFamily[FrozenLakeParams]):
    """Frozen lakes: cross the ice to the goal without falling into a hole, on a map that is new in every trial.

    The dynamics are those of Gymnasium's FrozenLake-v1, outcome for outcome. The agent sees the number of its cell
    and must find out where the holes are.

    ## Task Space

    | Parameter | Shape | Low | High | Unit | Meaning |
    |---|---|---|---|---|---|
    | map | (4, 4) | 0 | 3 | code | cells by row: 0 start S, 1 frozen F, 2 hole H, 3 goal G |
    | success_rate | () | 0 | 1 | probability | of going where the action means to |
    | action_map | (4,) | 0 | 3 | action | which of the four effects each action has |

    Start is the top left cell; there is one goal, and a path to it. A map may also be given as rows of text, under
    the name `map` or Gymnasium's `desc`; `success_rate` and `action_map` may be left out. With `can_stay`,
    `action_map` has five entries.

    ## Action Space

    `Discrete(4)`: 0 left, 1 down, 2 right, 3 up, unless `remap_actions`. On slippery ice the agent goes where it
    means to with probability `success_rate`, and to each of the two sides with half of the rest. Walls hold it back.
    With `can_stay`, `Discrete(5)`: 4 stays, for sure.

    ## Observation Space

    `Discrete(size ** 2)`:

    | Num | Observation | Low | High | Unit |
    |---|---|---|---|---|
    | 0 | cell of the agent, row * size + column | 0 | 15 | index |

    With `observe_coordinates`, a `Box` of shape (2,), float32: row / size and column / size.

    ## Rewards

    1 on reaching the goal, else 0. With `recover_from_holes`, -0.1 for every step into a hole.

    ## Starting State

    The top left cell.

    ## Episode End

    Terminated in a hole or at the goal. With `recover_from_holes`, holes do not end the episode: the agent stays in
    the cell that it wanted to leave. Truncated after `episode_length` steps.

    ## Information

    `is_success`: whether the goal was reached at this step.

    ## Arguments

    - `size`: cells along a side, 2 to 16.
    - `frozen_probability`: of each cell other than start and goal, in (0, 1].
    - `is_slippery`: whether the ice is; if not, `success_rate` is 1.
    - `success_rate`: a number in [0, 1], or a pair (low, high) for a rate drawn uniformly for each task. A task that
      names none gets the number, or the middle of the pair.
    - `remap_actions`: draw a permutation of the actions for each task, uniformly from all 24 (120 with `can_stay`).
    - `random_goal`: draw the goal uniformly from the cells other than the start; else it is at the bottom right.
    - `recover_from_holes`: whether holes cost 0.1 and let go of the agent, instead of ending the episode.
    - `can_stay`: whether there is a fifth action, which stays.
    - `observe_coordinates`: whether the agent sees coordinates instead of the number of its cell.
    - `episode_length`: steps, 1 to 100,000; by default 25 * size, which is Gymnasium's 100 for size 4 and 200 for 8.

    The lakes of AMAGO are `size=5, is_slippery=False, can_stay=True, observe_coordinates=True`, with or without
    `recover_from_holes=True`, in trials of 15 episodes or of 512 steps.

    ## Splits

    Maps are drawn as by Gymnasium's `generate_random_map`: each cell frozen or a hole by itself, and the whole map
    (goal included) again until there is a path. train and test share no map. Where there are at most 2 ** 16 maps to
    look at (sizes 2 to 4, and 2 to 3 with `random_goal`), they are enumerated and drawn with their exact
    probabilities. With `frozen_probability=1` and the goal at the bottom right there is one map, and no test part. ood:
    maps as in training, and a success rate uniform on the part of [0, 1] that is more than 0.1 away from every rate of
    training (none with `is_slippery=False`).

    ## Reference Returns

    Exact, by backward induction over the episode's steps on the tables that are stepped. For the default
    arguments, averaged over all maps with their probabilities: random 0.1296, optimal 0.9029. Optimal on Gymnasium's
    own maps: 0.7442 for 4x4 in 100 steps, 0.9132 for 8x8 in 200.

    ## References

    Gymnasium 1.4, `gymnasium/envs/toy_text/frozen_lake.py`. Lakes as meta-learning tasks: Grigsby et al. 2024,
    "AMAGO: Scalable In-Context Reinforcement Learning for Adaptive Agents"; UT-Austin-RPL/amago,
    `amago/envs/builtin/toy_gym.py` (`MetaFrozenLake`), `examples/00_meta_frozen_lake.py`.

    Differs: from Gymnasium, `success_rate` and the meaning of the actions may be hidden parts of the task, the goal
    may be anywhere, and `info` has no `prob`. From AMAGO: its actions are 0 stay, 1 down, 2 up, 3 right, 4 left; its
    observation adds whether the attempt has just begun, which `RL2Context` does, and which share of the attempts is
    used up; its attempts have no limit of their own (set `episode_length` to that of the trial). Of its hard mode, the
    swap of two actions in half of the tasks is part of `remap_actions`; noise on the position in a quarter of the
    steps, and holes that open behind the agent in a third of them, are left out: they depend on more than a cell.

    ## Version History

    - v0: first version.
    """

    name = "FrozenLake"
    params_type = FrozenLakeParams
    structural = ("map",)
    has_success = True

    def __init__(
        self,
        *,
        size: int = 4,
        frozen_probability: float = 0.8,
        is_slippery: bool = True,
        success_rate: float | Sequence[float] = 1 / 3,
        remap_actions: bool = False,
        random_goal: bool = False,
        recover_from_holes: bool = False,
        can_stay: bool = False,
        observe_coordinates: bool = False,
        episode_length: int | None = None,
    ) -> None:
        self.size = integer("size", size, 2, 16)
        self.frozen_probability = number("frozen_probability", frozen_probability, 0.0, 1.0, above=True)
        self.is_slippery = flag("is_slippery", is_slippery)
        self.success_rates = _success_rates(success_rate, self.is_slippery)
        self.remap_actions = flag("remap_actions", remap_actions)
        self.random_goal = flag("random_goal", random_goal)
        self.recover_from_holes = flag("recover_from_holes", recover_from_holes)
        self.can_stay = flag("can_stay", can_stay)
        self.observe_coordinates = flag("observe_coordinates", observe_coordinates)
        self.episode_length = (
            25 * self.size if episode_length is None else integer("episode_length", episode_length, 1, 100_000)
        )
        num_cells, num_actions = self.size**2, 4 + int(self.can_stay)
        lowest = 0.0 if self.is_slippery else 1.0
        self.task_space = spaces.Dict(
            map=spaces.Box(0, 3, (self.size, self.size), np.uint8),
            success_rate=spaces.Box(lowest, 1.0, (), np.float64),
            action_map=spaces.Box(0, num_actions - 1, (num_actions,), np.uint8),
        )
        self.action_space = spaces.Discrete(num_actions)
        self._orders = _PERMUTATIONS[num_actions]
        self.num_structure_draws = num_cells if self.random_goal else num_cells - 2
        if self.frozen_probability == 1.0 and not self.random_goal:
            self.unsplit = "there is a single map; evaluate on split='train'"
        low, high = self.success_rates
        self.num_detail_draws = int(low < high) + int(self.remap_actions)
        self.num_ood_detail_draws = 1 + int(self.remap_actions)
        self.actions_are_effects = not self.remap_actions
        self._lay_out()
        self._compile()

    def _lay_out(self) -> None:
        """States, what they look like, and where they lead."""
        size = self.size
        self.cells = _CELLS
        self._entered: Int | None = None
        if self.recover_from_holes:
            ice, goal = _CELLS[0], _CELLS[-1]
            self.cells = (ice, ice, _HOLE_TO_RECOVER_FROM, goal)
            self.successors, self._entered, left = lake_maps.tries(size, self.is_slippery, self.can_stay)
            self.leads = np.stack([self._entered, self._entered, left, self._entered])
        else:
            self.successors = lake_maps.successors(size, self.is_slippery, self.can_stay)
        self.observation_space: spaces.Space[Any] = spaces.Discrete(size**2)
        if self.observe_coordinates:
            place = np.stack(np.divmod(np.arange(size**2), size), axis=1) / size
            seen = place if self._entered is None else place[self._entered]
            self.observations = seen.astype(np.float32)
            self.observation_space = spaces.Box(0.0, float(self.observations.max()), (2,), np.float32)

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        maps = lake_maps.propose(noise, self.size, self.frozen_probability, random_goal=self.random_goal)
        return {"map": maps}

    @override
    def draw_details(self, noise: Float, region: Region) -> dict[str, Array]:
        low, high = self.success_rates
        if region == "ood":
            rate = _rates_outside(noise[:, 0], low - _MARGIN if self.is_slippery else 0.0, high + _MARGIN)
        elif low < high:
            rate = np.minimum(low + (high - low) * noise[:, 0], high)
        else:
            rate = np.full(len(noise), low)
        chosen = np.zeros(len(noise), np.int64)
        if self.remap_actions:
            chosen = (noise[:, -1] * len(self._orders)).astype(np.int64)
        return {"success_rate": rate, "action_map": self._orders[chosen]}

    @override
    def accept(self, structure: Mapping[str, Array]) -> Bool:
        return lake_maps.solvable(structure["map"])

    @override
    def enumerate_structures(self) -> tuple[dict[str, Array], Float] | None:
        listed = lake_maps.enumerate_maps(self.size, self.frozen_probability, self.random_goal)
        return None if listed is None else ({"map": listed[0]}, listed[1])

    @override
    def normalize(self, fields: Mapping[str, ArrayLike]) -> Mapping[str, ArrayLike]:
        full: dict[str, ArrayLike] = dict(fields)
        if "desc" in full:
            if "map" in full:
                raise TaskError("a lake is given as map or as desc, not as both")
            full["map"] = full.pop("desc")
        if "map" in full:
            full["map"] = lake_maps.read(full["map"])
        full.setdefault("success_rate", sum(self.success_rates) / 2)
        full.setdefault("action_map", self._orders[0])
        return full

    @override
    def check(self, params: FrozenLakeParams) -> None:
        codes = params.map[0]
        drawing = lake_maps.text(codes)
        if codes[0, 0] != lake_maps.START or np.count_nonzero(codes == lake_maps.START) != 1:
            raise TaskError(f"map must have one start S, at the top left; got\n{drawing}")
        num_goals = np.count_nonzero(codes == lake_maps.GOAL)
        if num_goals != 1:
            raise TaskError(f"map must have exactly one goal G, got {num_goals}:\n{drawing}")
        if not lake_maps.solvable(params.map)[0]:
            raise TaskError(f"map must have a path from S to G that touches no hole H; got\n{drawing}")
        actions, unchanged = params.action_map[0].tolist(), self._orders[0].tolist()
        if sorted(actions) != unchanged:
            raise TaskError(f"action_map={actions} must be a permutation of {unchanged}")
        if not self.remap_actions and actions != unchanged:
            raise TaskError(f"action_map={actions}: with remap_actions=False only {unchanged} is accepted")

    @override
    def kinds(self, params: FrozenLakeParams, states: Int) -> Array:
        return at_states(params.map, states if self._entered is None else self._entered.take(states))

    @override
    def probabilities(self, params: FrozenLakeParams) -> tuple[Float, ...]:
        if not self.is_slippery:
            return super().probabilities(params)
        slip = (_ONE - params.success_rate) * _HALF
        return slip, params.success_rate, slip

    @override
    def effects(self, params: FrozenLakeParams, states: Int, actions: Int) -> Int:
        return at_states(params.action_map, actions)

    def transitions(self, task: Task) -> dict[int, dict[int, list[tuple[float, int, float, bool]]]]:
        """The task in the format of Gymnasium's ``FrozenLakeEnv.P``, to which it is equal for the same lake.

        Returns:
            For each cell and action a list of (probability, next cell, reward, terminated); cells that end an episode
            have the one entry (1.0, cell, 0, True).
        """
        params = self.params_of([task])
        dense = self.dense(params)
        over = self._terminals[params.map.reshape(-1)]
        columns = [column[0].tolist() for column in dense]
        return {
            state: {
                action: [(1.0, state, 0.0, True)]
                if over[state]
                else list(zip(*(column[state][action] for column in columns), strict=True))
                for action in range(len(self._orders[0]))
            }
            for state in range(self.size**2)
        }

    @override
    def describe(self, state: Position, params: FrozenLakeParams) -> str:
        return lake_maps.text(params.map[0], int(state.cell[0])) + "\n"

    @override
    def draw(self, state: Position, params: FrozenLakeParams) -> Array:
        return lake_maps.picture(params.map[0], int(state.cell[0]))


def _success_rates(value: float | Sequence[float], is_slippery: bool) -> tuple[float, float]:
    if not isinstance(value, Sequence | np.ndarray) or isinstance(value, str):
        value = (value, value)
    pair = list(value)
    if len(pair) != 2:
        raise ConfigError(f"success_rate={value!r} is not accepted; accepted is a number or a pair (low, high)")
    low, high = (number("success_rate", bound, 0.0, 1.0) for bound in pair)
    if low > high:
        raise ConfigError(f"success_rate={value!r} is not accepted; in a pair (low, high), low is at most high")
    if is_slippery:
        return low, high
    if (low, high) not in {(1 / 3, 1 / 3), (1.0, 1.0)}:
        raise ConfigError(f"success_rate={value!r} contradicts is_slippery=False; leave it out, or make it 1.0")
    return 1.0, 1.0


def _rates_outside(noise: Float, low: float, high: float) -> Float:
    below, above = max(low, 0.0), max(1.0 - high, 0.0)
    if below + above <= 0.0:
        raise ConfigError(
            "FrozenLake has no ood region here: no success rate is more than 0.1 away from those of training"
        )
    place = noise * (below + above)
    return np.where(place < below, place, np.minimum(high + (below + above - place), 1.0))
