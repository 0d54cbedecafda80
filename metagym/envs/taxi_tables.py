"""The tables of taxis, shared by all layouts: what the effects of actions lead to, and which action has which.

A state of the grid is numbered as Gymnasium does, ((row * 5 + column) * 5 + passenger) * 4 + destination, below 500.
With a fickle passenger there is a second copy of these, in which the passenger will still change destination. After
them come states that are left as soon as they are entered, and tell why: one "illegal" state for each, and one
"delivered" state for each of 25 cells and 4 destinations.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from metagym.types import Array, Int

__all__ = ["NUM_GRID", "TaxiTables", "build"]

NUM_GRID = 500
_SOUTH, _NORTH, _EAST, _WEST, _STAY, _ILLEGAL, _PICKUP, _DELIVER, _DROP = 0, 4, 8, 9, 10, 11, 12, 13, 14
_NUM_EFFECTS = 18
_IN_TAXI = 4
_WALL_EAST, _WALL_WEST = 1, 2
_STEPS = {_SOUTH: (1, 0), _NORTH: (-1, 0), _EAST: (0, 1), _WEST: (0, -1)}
_SIDES = {_SOUTH: (_EAST, _WEST), _NORTH: (_WEST, _EAST), _EAST: (_NORTH, _SOUTH), _WEST: (_SOUTH, _NORTH)}
"""Left and right of where the taxi heads."""


class TaxiTables(NamedTuple):
    """What a `Taxi` steps; all arrays read-only, S states."""

    successors: Int
    """(S, 18, K): south and north, four times each for the walls beside the taxi; east; west; staying; an illegal
    action; picking up; delivering; setting down at each of four stands."""
    leads: Int
    """Where entering a state leaves the taxi, (3, S)."""
    kinds: Array
    """0 of the grid, 1 illegal, 2 delivered, (S,) uint8."""
    observations: Int
    """Number of the state of the grid that is seen, (S,)."""
    cell: Array
    """Where the taxi is, (S,) uint8."""
    errand: Int
    """Passenger * 4 + destination, (S,)."""
    starts: Int
    """States in which episodes start, each as likely, (M,)."""
    effects: Int
    """Effect of an action, by the stand where the taxi is (0 none), errand, walls beside it and action, flat."""


@lru_cache(maxsize=4)
def build(is_rainy: bool, fickle_passenger: bool) -> TaxiTables:
    """The tables of one kind of weather and passenger."""
    num_copies = 2 if fickle_passenger else 1
    num_base = num_copies * NUM_GRID
    num_states = 2 * num_base + 100
    states = np.arange(num_states)
    cell, errand = states[:num_base] % NUM_GRID // 20, states[:num_base] % 20
    delivered = np.arange(25).repeat(4) * 20 + np.tile(np.arange(4), 25) * 5
    home = np.concatenate([states[:num_base], states[:num_base], delivered])
    num_outcomes = (3 if is_rainy else 1) * (3 if fickle_passenger else 1)
    successors = np.tile(states[:, None, None], (1, _NUM_EFFECTS, num_outcomes))
    for state in range(num_base):
        for effect in range(_NUM_EFFECTS):
            successors[state, effect] = _outcomes(state, effect, num_base, is_rainy, fickle_passenger)
    grid = np.arange(NUM_GRID)
    passenger, destination = grid // 4 % 5, grid % 4
    starts = grid[(passenger != _IN_TAXI) & (passenger != destination)]
    if fickle_passenger:  # three in ten
        starts = np.concatenate([np.tile(starts, 7), np.tile(starts + NUM_GRID, 3)])
    tables = TaxiTables(
        successors=successors,
        leads=np.tile(home, (3, 1)),
        kinds=np.repeat(np.arange(3, dtype=np.uint8), [num_base, num_base, 100]),
        observations=home % NUM_GRID,
        cell=np.concatenate([cell, cell, delivered // 20]).astype(np.uint8),
        errand=np.concatenate([errand, errand, delivered % 20]),
        starts=starts,
        effects=_effects(),
    )
    for table in tables:
        table.setflags(write=False)
    return tables


def _outcomes(state: int, effect: int, num_base: int, is_rainy: bool, fickle_passenger: bool) -> list[int]:
    """Where an effect leads from a state of the grid: as many states as there are outcomes."""
    copy, rest = divmod(state, NUM_GRID)
    cell, errand = divmod(rest, 20)
    passenger, destination = divmod(errand, 4)
    num_changes = 3 if fickle_passenger else 1
    if effect > _STAY:
        new = {
            _ILLEGAL: num_base + state,
            _PICKUP: state + 4 * (_IN_TAXI - passenger),
            _DELIVER: 2 * num_base + cell * 4 + destination,
        }.get(effect, state + 4 * (effect - _DROP - passenger))
        return [new] * (num_changes * (3 if is_rainy else 1))
    found = []
    for place in _places(cell, effect, is_rainy):
        if copy and passenger == _IN_TAXI and place != cell:
            others = [other for other in range(4) if other != destination]
            found += [place * 20 + passenger * 4 + other for other in others]
        else:
            found += [copy * NUM_GRID + place * 20 + errand] * num_changes
    return found


def _places(cell: int, effect: int, is_rainy: bool) -> list[int]:
    """Cells that a move may lead to: ahead; in the rain also left and right, unless the way ahead is blocked."""
    if effect == _STAY:
        heading, walls = _STAY, 0
    else:
        heading, walls = (_SOUTH, effect) if effect < _NORTH else (effect, 0)
        if _NORTH <= effect < _EAST:
            heading, walls = _NORTH, effect - _NORTH
    ahead = _next_cell(cell, heading, 0)
    if not is_rainy:
        return [ahead]
    if ahead == cell:
        return [cell] * 3
    return [ahead, *(_next_cell(cell, side, walls) for side in _SIDES[heading])]


def _next_cell(cell: int, heading: int, walls: int) -> int:
    blocked = (heading == _EAST and walls & _WALL_EAST) or (heading == _WEST and walls & _WALL_WEST)
    if heading == _STAY or blocked:
        return cell
    row, column = divmod(cell, 5)
    down, right = _STEPS[heading]
    inside = 0 <= row + down < 5 and 0 <= column + right < 5
    return cell + 5 * down + right if inside else cell


def _effects() -> Int:
    """Effect by stand here (0 none, else its number + 1), passenger, destination, walls and action, flat."""
    table = np.empty((5, 5, 4, 4, 6), dtype=np.int64)
    walls = np.arange(4)
    table[..., 0] = _SOUTH + walls
    table[..., 1] = _NORTH + walls
    table[..., 2] = np.where(walls & _WALL_EAST, _STAY, _EAST)
    table[..., 3] = np.where(walls & _WALL_WEST, _STAY, _WEST)
    table[..., 4:] = _ILLEGAL
    for stand in range(4):
        table[stand + 1, stand, :, :, 4] = _PICKUP
        table[stand + 1, _IN_TAXI, :, :, 5] = _DROP + stand
        table[stand + 1, _IN_TAXI, stand, :, 5] = _DELIVER
    return table.reshape(-1)
