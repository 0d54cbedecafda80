"""Square grids of cells: how one moves on them, how a cell is named, and what they look like."""

from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np
from numpy.typing import ArrayLike

from metagym.errors import TaskError
from metagym.render import Canvas, Color, canvas, fill_disc, fill_rect
from metagym.types import Int

__all__ = ["MOVES", "ORDERS", "cell_at", "check_order", "coordinates", "neighbours", "picture", "text"]

MOVES = ((0, 0), (-1, 0), (0, 1), (1, 0), (0, -1))
"""What dark rooms' moves add to row and column: stay, up, right, down, left."""
ORDERS = np.array(list(permutations(range(len(MOVES)))), dtype=np.uint8)
"""All orders in which actions can have these moves, (120, 5); the first leaves them as they are."""
ORDERS.setflags(write=False)


def coordinates(size: int) -> Int:
    """First and second coordinate of each cell, (size ** 2, 2); cell c lies at divmod(c, size)."""
    return np.stack(np.divmod(np.arange(size * size), size), axis=1)


def neighbours(size: int, moves: Sequence[tuple[int, int]]) -> Int:
    """The cell that each move leads to; walls hold back.

    Args:
        size: cells along a side.
        moves: what each of A moves adds to the two coordinates.

    Returns:
        Cells, (size ** 2, A).
    """
    place = coordinates(size)[:, None, :] + np.array(moves)
    first, second = np.moveaxis(np.clip(place, 0, size - 1), 2, 0)
    cells: Int = first * size + second
    return cells


def cell_at(name: str, value: ArrayLike, size: int) -> ArrayLike:
    """The number of a cell that is given by its two coordinates; anything else is returned as it came.

    Args:
        name: the field that names a cell.
        value: its number, or its coordinates.
        size: cells along a side.

    Raises:
        TaskError: if two numbers are given that are not the coordinates of a cell.
    """
    try:
        place = np.asarray(value)
    except ValueError:
        return value
    if place.shape != (2,) or place.dtype.kind not in "iuf":
        return value
    if not np.all((place >= 0) & (place < size) & (place % 1 == 0)):
        raise TaskError(
            f"{name}={place.tolist()} lies outside the grid; accepted are two coordinates from 0 to {size - 1}, "
            f"or the number of a cell"
        )
    return int(place[0]) * size + int(place[1])


def check_order(action_map: Sequence[int]) -> None:
    """Refuse an order of moves that lacks one of them.

    Raises:
        TaskError: if it is not in `ORDERS`.
    """
    if sorted(action_map) != list(range(len(MOVES))):
        raise TaskError(f"action_map={list(action_map)} must be a permutation of {list(range(len(MOVES)))}")


def text(letters: Mapping[int, str], size: int, agent: int, *, upwards: bool = False) -> str:
    """A grid as rows of text: a dot for an empty cell, the cell of the agent in brackets.

    Args:
        letters: what is written into cells, by number.
        size: cells along a side.
        agent: number of the agent's cell.
        upwards: whether coordinates are x to the right and y up, instead of row down and column to the right.
    """
    lines = []
    for row in _layout(size, upwards).tolist():
        marks = ((letters.get(cell, "."), cell == agent) for cell in row)
        lines.append("".join(f"[{mark}]" if here else f" {mark} " for mark, here in marks).rstrip())
    return "\n".join(lines) + "\n"


def picture(marks: Mapping[int, Color], size: int, agent: int, *, upwards: bool = False) -> Canvas:
    """A grid seen from above, with the agent as a disc.

    Args:
        marks: colours of cells, by number; the others are white.
        size: cells along a side.
        agent: number of the agent's cell.
        upwards: as in `text`.
    """
    side = max(16, min(64, 432 // size))
    gap = max(1.0, side / 36)
    image = canvas(side * size, side * size, "grid")
    for place, cell in enumerate(_layout(size, upwards).ravel().tolist()):
        row, column = divmod(place, size)
        x, y = column * side, row * side
        width = side - 2 * gap
        fill_rect(image, x + gap, y + gap, width, width, marks.get(cell, "white"), radius=side / 10)
        if cell == agent:
            fill_disc(image, x + side / 2, y + side / 2, 0.31 * side, "white")
            fill_disc(image, x + side / 2, y + side / 2, 0.26 * side, "agent")
    return image


def _layout(size: int, upwards: bool) -> Int:
    """Cells as they lie on paper, (size, size), the top row first."""
    cells = np.arange(size * size).reshape(size, size)
    return np.ascontiguousarray(cells.T[::-1]) if upwards else cells
