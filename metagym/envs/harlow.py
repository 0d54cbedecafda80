"""Harlow's task in one dimension: of two new objects, find out once which one pays, and choose it from then on."""

from dataclasses import dataclass

import numpy as np
from gymnasium import spaces
from typing_extensions import override

from metagym.envs.arguments import integer, number
from metagym.errors import TaskError
from metagym.family import Params, Region
from metagym.render import canvas, draw_line, fill_disc, fill_polygon, fill_rect
from metagym.tabular import Cell, Position, TabularFamily
from metagym.types import Array, Float, Int

__all__ = ["Harlow", "HarlowParams"]

_MAX_ENUMERATED = 2**16
_CELLS, _CENTRE, _OFFSET, _REACH = 17, 8, 3, 4
_LEFT, _RIGHT = _CENTRE - _OFFSET, _CENTRE + _OFFSET
# Where episodes start; two of six shifts of the source are the same.
_STARTS = np.array([[11, 10, 9, 7, 7, 6]])
# States: 0 to 16 the agent's cell while the fixation mark is shown; 17 and 18 the mark has just been reached, the first
# object lying to the left or to the right; then the agent's cell, for either side, while the objects are shown.
_REACHED, _OBJECTS = _CELLS, _CELLS + 2
_NUM_STATES = _OBJECTS + 2 * _CELLS
_BLOCK = np.array(_NUM_STATES)  # a 0-d array, which ufuncs take faster than Python's numbers
_EMPTY, _MARK, _FIRST, _SECOND = range(4)
_PLAIN, _FIXATED, _WRONG, _RIGHT_ONE = range(4)


@dataclass(frozen=True)
class HarlowParams(Params):
    """Columns of N pairs of objects."""

    objects: Int
    """Numbers of two objects in ascending order, (N, 2)."""
    paying: Array
    """Which of the two pays, 0 or 1, (N,) uint8."""


class Harlow(TabularFamily[HarlowParams]):
    """Harlow's task in one dimension: find out which of two objects pays, and choose it wherever it lies.

    A ring of 17 cells turns under the agent, which sees the nine around it. In every episode it looks for the fixation
    mark; there, both objects of the trial appear, at either side by chance, and the first one reached is the choice.
    One choice tells everything about the trial, so a trial is short: six episodes in the source.

    ## Task Space

    | Parameter | Shape | Low | High | Unit | Meaning |
    |---|---|---|---|---|---|
    | objects | (2,) | 0 | 1999 | index | two different objects, in ascending order |
    | paying | () | 0 | 1 | index | which of the two pays |

    Objects of training are those below `num_objects`; there are as many others.

    ## Action Space

    `Discrete(2)`: 0 moves one cell to the left, 1 to the right.

    ## Observation Space

    `Box(-1.0, 1.0, (9,), float32)`:

    | Num | Observation | Low | High | Unit |
    |---|---|---|---|---|
    | 0 | content of the cell 4 to the left | -1 | 1 | code |
    | 1 | 3 to the left | -1 | 1 | code |
    | 2 | 2 to the left | -1 | 1 | code |
    | 3 | 1 to the left | -1 | 1 | code |
    | 4 | of the agent's own cell | -1 | 1 | code |
    | 5 | 1 to the right | -1 | 1 | code |
    | 6 | 2 to the right | -1 | 1 | code |
    | 7 | 3 to the right | -1 | 1 | code |
    | 8 | 4 to the right | -1 | 1 | code |

    0 is an empty cell and 1 the fixation mark. Object k of training is (k + 1) / (num_objects + 1); object num_objects
    + k, of the others, is minus that.

    ## Rewards

    `fixation_reward` on reaching the mark; 1 on reaching the object that pays and -1 on reaching the other one.

    ## Starting State

    The mark is in sight, at 3, 2 or 1 cells to the left or 1 or 2 to the right; 1 to the right is twice as likely as
    each of the others.

    ## Episode End

    Terminated on an object. Truncated after `episode_length` steps.

    ## Information

    `is_success`: whether the object that pays was reached at this step.

    ## Arguments

    - `num_objects`: that training draws from, 3 to 100,000.
    - `fixation_reward`: in [0, 1].
    - `episode_length`: steps, 1 to 100,000. The mark and an object are at most 6 steps away together.

    ## Splits

    train and test: every pair of objects and each one's paying have equal probability; train and test share no pair,
    but objects. With at most 2 ** 16 pairs (362 objects) these are enumerated. ood: pairs of the other objects, which
    look like nothing seen in training.

    ## Reference Returns

    One episode, exact, by backward induction over its steps: optimal 1.2 for a known task, random 0.1623. The best an
    agent can do which must find the paying object out, exact: 0.2 in the first episode, where any choice is a guess and
    teaches all, then 1.2: 6.2 in a trial of six episodes, where the known task pays 7.2.

    ## References

    Harlow 1949, "The Formation of Learning Sets". Wang et al. 2016, "Learning to reinforcement learn", section 3.2.
    BKHMSI/Meta-RL-Harlow, `Harlow_1D/harlow.py`: ring, view, objects, rewards; six trials (episodes here) and 250 steps
    for an episode (a trial here).

    Differs: there the 250 steps are for all six choices together, here 41, a sixth of them, are for each one;
    `Trial(env, steps_per_trial=250)` counts as there. There, later choices start on the object chosen last, three cells
    from the mark; here every one starts as the first does there. There, `obs_length` is 8 and nine cells are seen all
    the same. There, objects are 2 / 1000 to 1001 / 1000: that of 1000 / 1000 is taken for the mark, and a pair may be
    one object twice.

    ## Version History

    - v0: first version.
    """

    name = "Harlow"
    params_type = HarlowParams
    structural = ("objects",)
    has_success = True
    observe_needs_task = True
    num_structure_draws = 2
    num_detail_draws = 1
    num_initial_draws = 1

    def __init__(self, *, num_objects: int = 1000, fixation_reward: float = 0.2, episode_length: int = 41) -> None:
        self.num_objects = integer("num_objects", num_objects, 3, 100_000)
        self.fixation_reward = number("fixation_reward", fixation_reward, 0.0, 1.0)
        self.episode_length = integer("episode_length", episode_length, 1, 100_000)
        self.task_space = spaces.Dict(
            objects=spaces.Box(0, 2 * self.num_objects - 1, (2,), np.int64), paying=spaces.Box(0, 1, (), np.uint8)
        )
        self.observation_space = spaces.Box(-1.0, 1.0, (2 * _REACH + 1,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.cells = (
            Cell(0.0, False, False),
            Cell(self.fixation_reward, False, False),
            Cell(-1.0, True, False),
            Cell(1.0, True, True),
        )
        self.successors = _successors()
        self._kinds = _kinds()
        looks = np.arange(1, self.num_objects + 1) / (self.num_objects + 1)
        self._looks = np.concatenate([looks, -looks]).astype(np.float32)
        ring = _ring()
        sight = (_agent_cells()[:, None] + np.arange(-_REACH, _REACH + 1)) % _CELLS
        seen = ring[np.arange(_NUM_STATES)[:, None], sight]
        self._views = [np.equal(seen, code).astype(np.float32) for code in (_MARK, _FIRST, _SECOND)]
        self._compile()

    # --- tasks -------------------------------------------------------------------------------------------------

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        one = (noise[:, 0] * self.num_objects).astype(np.int64)
        other = (one + 1 + (noise[:, 1] * (self.num_objects - 1)).astype(np.int64)) % self.num_objects
        pair = np.stack([np.minimum(one, other), np.maximum(one, other)], axis=1)
        return {"objects": pair if region == "train" else pair + self.num_objects}

    @override
    def draw_details(self, noise: Float, region: Region) -> dict[str, Array]:
        return {"paying": (noise[:, 0] >= 0.5).astype(np.uint8)}

    @override
    def enumerate_structures(self) -> tuple[dict[str, Array], Float] | None:
        num_pairs = self.num_objects * (self.num_objects - 1) // 2
        if num_pairs > _MAX_ENUMERATED:
            return None
        pairs = np.stack(np.triu_indices(self.num_objects, k=1), axis=1).astype(np.int64)
        return {"objects": pairs}, np.full(num_pairs, 1.0 / num_pairs)

    @override
    def check(self, params: HarlowParams) -> None:
        first, second = params.objects[0].tolist()
        if first >= second:
            raise TaskError(f"objects={[first, second]} must be two different objects in ascending order")

    # --- dynamics ----------------------------------------------------------------------------------------------

    @override
    def kinds(self, params: HarlowParams, states: Int) -> Array:
        block: Int = params.paying[:, None] * _BLOCK
        return self._kinds.take(block + states)

    @override
    def probabilities(self, params: HarlowParams) -> tuple[Float, ...]:
        half = np.full(len(params), 0.5)
        return half, half

    @override
    def starts(self, params: HarlowParams) -> Int:
        return np.broadcast_to(_STARTS, (len(params), _STARTS.shape[1]))

    @override
    def observe(self, state: Position, params: HarlowParams) -> Array:
        mark, first, second = self._views
        looks = self._looks.take(params.objects)
        # What does not lie in a cell adds 0 to it.
        observation: Array = mark.take(state.cell, axis=0)
        for view, look in ((first, looks[:, :1]), (second, looks[:, 1:])):
            shown = view.take(state.cell, axis=0)
            shown *= look
            observation += shown
        return observation

    @override
    def bayes_return(self, num_episodes: int) -> Float:
        distance = np.abs(_STARTS[0] - _CENTRE)
        fixated = np.mean(distance <= self.episode_length)
        chosen = np.mean(distance + _OFFSET <= self.episode_length)
        # A choice is a guess, worth 0, until one was made before; and nothing but a choice tells.
        knows = 1.0 - (1.0 - chosen) ** np.arange(integer("num_episodes", num_episodes, 1, 1_000_000))
        expected: Float = self.fixation_reward * fixated + chosen * knows
        return expected

    # --- pictures ----------------------------------------------------------------------------------------------

    @override
    def describe(self, state: Position, params: HarlowParams) -> str:
        index = int(state.cell[0])
        signs = ".+AB" if params.paying[0] == 0 else ".+BA"
        agent = int(_agent_cells()[index])
        cells = [signs[code] for code in _ring()[index]]
        return "".join(f"[{sign}]" if cell == agent else sign for cell, sign in enumerate(cells)) + " (pays: A)\n"

    @override
    def draw(self, state: Position, params: HarlowParams) -> Array:
        side, left, top = 32, 16, 40
        image = canvas(2 * top + side, 2 * left + side * _CELLS)
        index = int(state.cell[0])
        agent = int(_agent_cells()[index])
        for cell, code in enumerate(_ring()[index].tolist()):
            x, seen = left + side * cell, (cell - agent + _REACH) % _CELLS <= 2 * _REACH
            fill_rect(image, x + 1, top + 1, side - 2, side - 2, "white" if seen else "grid")
            middle_x, middle_y = x + side / 2, top + side / 2
            if code == _MARK:
                draw_line(image, middle_x - 8, middle_y, middle_x + 8, middle_y, "ink", thickness=4)
                draw_line(image, middle_x, middle_y - 8, middle_x, middle_y + 8, "ink", thickness=4)
            elif code != _EMPTY:
                which = code - _FIRST
                if which == params.paying[0]:
                    fill_disc(image, middle_x, middle_y, 15, "goal")
                fill_disc(image, middle_x, middle_y, 11, ("sky", "purple")[which])
            if cell == agent:
                points = [(middle_x, top + side + 4), (x + 6, top + side + 22), (x + side - 6, top + side + 22)]
                fill_polygon(image, points, "agent")
        return image


def _agent_cells() -> Int:
    """The agent's cell in every state, (S,)."""
    ring = np.arange(_CELLS)
    return np.concatenate([ring, [_CENTRE, _CENTRE], ring, ring])


def _ring() -> Int:
    """What lies in every cell in every state, (S, cells)."""
    content = np.full((_NUM_STATES, _CELLS), _EMPTY)
    content[:_REACHED, _CENTRE] = _MARK
    for side, (left, right) in enumerate([(_FIRST, _SECOND), (_SECOND, _FIRST)]):
        block = _OBJECTS + side * _CELLS
        for rows in (slice(_REACHED + side, _REACHED + side + 1), slice(block, block + _CELLS)):
            content[rows, _LEFT], content[rows, _RIGHT] = left, right
    return content


def _successors() -> Int:
    """After each state, action and outcome: the side on which the first object appears, (S, 2, 2)."""
    table = np.empty((_NUM_STATES, 2, 2), dtype=np.int64)
    for state, (action, outcome) in ((state, pair) for state in range(_NUM_STATES) for pair in np.ndindex(2, 2)):
        cell = (int(_agent_cells()[state]) + (1 if action else -1)) % _CELLS
        if state < _REACHED:
            table[state, action, outcome] = _REACHED + outcome if cell == _CENTRE else cell
        else:
            side = state - _REACHED if state < _OBJECTS else (state - _OBJECTS) // _CELLS
            table[state, action, outcome] = _OBJECTS + side * _CELLS + cell
    return table


def _kinds() -> Array:
    """Kind of every state, for each of the two objects that may pay, flattened from (2, S)."""
    states, agents = np.arange(_NUM_STATES), _agent_cells()
    under = _ring()[states, agents]
    table = np.full((2, _NUM_STATES), _PLAIN, dtype=np.uint8)
    table[:, _REACHED:_OBJECTS] = _FIXATED
    for paying, row in enumerate(table):
        row[under >= _FIRST] = _WRONG
        row[under == _FIRST + paying] = _RIGHT_ONE
    return table.reshape(-1)
