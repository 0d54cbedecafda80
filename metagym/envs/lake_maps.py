"""Maps of frozen lakes: spelling, picture, proposals, enumeration, which have a path to the goal, and moves on them."""

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from metagym.errors import TaskError
from metagym.render import Canvas, canvas, draw_line, draw_text, fill_disc, fill_polygon, fill_rect
from metagym.types import Array, Bool, Float, Int, Keys

__all__ = [
    "FROZEN",
    "GOAL",
    "HOLE",
    "LETTERS",
    "START",
    "enumerate_maps",
    "picture",
    "propose",
    "read",
    "solvable",
    "successors",
    "text",
    "tries",
]

LETTERS = "SFHG"
START, FROZEN, HOLE, GOAL = (np.uint8(code) for code in range(4))
_MAX_ENUMERATED = 2**16


def read(value: ArrayLike, letters: str = LETTERS) -> ArrayLike:
    """Codes of a map spelled in letters, as Gymnasium's `desc` is; anything but text is returned as it came.

    Args:
        value: rows as strings, or single letters in rows and columns, as `str` or `bytes`.
        letters: those that there are, in the order of their codes.

    Returns:
        Indices into `letters`, (rows, columns) uint8.

    Raises:
        TaskError: if rows differ in length or hold other letters.
    """
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "SU":
            return value
        rows = ["".join(np.atleast_1d(row)) for row in np.atleast_1d(array.astype(np.str_))]
    except ValueError as error:
        raise TaskError(f"map={value!r} is neither rows of text nor rows of codes") from error
    if len({len(row) for row in rows}) != 1 or not set("".join(rows)) <= set(letters):
        raise TaskError(f"map={rows!r} must be rows of equal length made of the letters {', '.join(letters)}")
    return np.array([[letters.index(letter) for letter in row] for row in rows], dtype=np.uint8)


def text(codes: Array, agent: int | None = None) -> str:
    """One map, (rows, columns), in letters; the cell numbered `agent` in brackets."""
    size = codes.shape[1]
    cells = [
        f"[{LETTERS[code]}]" if cell == agent else f" {LETTERS[code]} "
        for cell, code in enumerate(codes.ravel().tolist())
    ]
    return "\n".join("".join(cells[row : row + size]).rstrip() for row in range(0, len(cells), size))


def picture(codes: Array, agent: int) -> Canvas:
    """One map, (size, size), seen from above, with the agent in the cell of that number."""
    size = len(codes)
    side = max(24, min(72, 512 // size))
    image = canvas(side * size, side * size, "ice_edge")
    for cell, code in enumerate(codes.ravel().tolist()):
        _draw_cell(image, side, cell % size * side, cell // size * side, code)
    row, column = divmod(agent, size)
    x, y = (column + 0.5) * side, (row + 0.5) * side
    fill_disc(image, x, y, 0.27 * side, "white")
    fill_disc(image, x, y, 0.23 * side, "agent")
    return image


def _draw_cell(image: Canvas, side: int, x: float, y: float, code: int) -> None:
    gap = max(1.0, side / 36)
    fill_rect(image, x + gap, y + gap, side - 2 * gap, side - 2 * gap, "ice", radius=side / 8)
    centre = (x + 0.5 * side, y + 0.5 * side)
    if code == HOLE:
        fill_disc(image, *centre, 0.36 * side, "ice_edge")
        fill_disc(image, *centre, 0.32 * side, "hole")
    elif code == START:
        fill_rect(image, x + gap, y + gap, side - 2 * gap, side - 2 * gap, "start", radius=side / 8)
        scale = max(1, side // 24)
        draw_text(image, "S", int(x + 3 * gap), int(y + 3 * gap), scale, "grey")
    elif code == GOAL:
        pole, top = x + 0.34 * side, y + 0.18 * side
        flag_points = [(pole, top), (x + 0.78 * side, y + 0.34 * side), (pole, y + 0.5 * side)]
        fill_polygon(image, flag_points, "goal")
        draw_line(image, pole, top, pole, y + 0.82 * side, "ink", thickness=max(2.0, side / 24))


def propose(noise: Float, size: int, frozen_probability: float, *, random_goal: bool) -> Array:
    """Maps whose cells are frozen or holes independently of each other; not all of them have a path.

    Args:
        noise: uniforms; size ** 2 - 2 a map, or size ** 2 with `random_goal`, (n, ...).
        size: cells along a side.
        frozen_probability: of each cell that is neither start nor goal.
        random_goal: goal uniform over the cells other than the start, instead of at the bottom right.

    Returns:
        Codes, (n, size, size) uint8.
    """
    num_maps, num_cells = len(noise), size * size
    cells = np.empty((num_maps, num_cells), dtype=np.uint8)
    cells[:, 0] = START
    if random_goal:
        np.subtract(HOLE, noise[:, 1:] < frozen_probability, out=cells[:, 1:])
        goal = 1 + (noise[:, 0] * (num_cells - 1)).astype(np.int64)
        cells[np.arange(num_maps), goal] = GOAL
    else:
        np.subtract(HOLE, noise < frozen_probability, out=cells[:, 1:-1])
        cells[:, -1] = GOAL
    return cells.reshape(num_maps, size, size)


@lru_cache(maxsize=8)
def enumerate_maps(size: int, frozen_probability: float, random_goal: bool) -> tuple[Array, Float] | None:
    """Every map with a path to the goal, (M, size, size), and its probability among these, (M,), both read-only.

    None if there are more than 2 ** 16 maps to look at.
    """
    num_cells, num_free = size * size, size * size - 2
    goals = range(1, num_cells) if random_goal else range(num_cells - 1, num_cells)
    if len(goals) << num_free > _MAX_ENUMERATED:
        return None
    holes = np.arange(2**num_free)[:, None] >> np.arange(num_free) & 1
    cells = np.full((len(goals), len(holes), num_cells), START)
    for row, goal in enumerate(goals):
        cells[row][:, [cell for cell in range(1, num_cells) if cell != goal]] = FROZEN + holes
        cells[row, :, goal] = GOAL
    maps = cells.reshape(-1, size, size)
    num_holes = np.tile(holes.sum(axis=1), len(goals))
    weights = frozen_probability ** (num_free - num_holes) * (1.0 - frozen_probability) ** num_holes
    possible = solvable(maps) & (weights > 0.0)
    maps, weights = maps[possible], weights[possible] / weights[possible].sum()
    maps.setflags(write=False)
    weights.setflags(write=False)
    return maps, weights


def solvable(maps: Array) -> Bool:
    """Which maps have a path from the top left cell to the goal that touches no hole, (n,).

    A map is a board of size ** 2 bits in one or more 64-bit words, and all boards are flooded at once.

    Args:
        maps: codes, (n, size, size), size at most 63.
    """
    num_maps, size = maps.shape[:2]
    cells = maps.reshape(num_maps, -1)
    column = np.arange(size * size) % size
    free = _boards(cells != HOLE)
    # A step to the right must not arrive in the first column of the next row, nor one to the left in the last.
    free_right = free & _boards(column[None] != 0)
    free_left = free & _boards(column[None] != size - 1)
    one, down = np.uint64(1), np.uint64(size)
    reached = np.zeros_like(free)
    reached[0] = one
    settled = False
    while not settled:
        before = reached.copy()
        _flood_up(reached, free_right, one)
        _flood_up(reached, free, down)
        _flood_down(reached, free_left, one)
        _flood_down(reached, free, down)
        settled = np.array_equal(before, reached)
    found: Bool = ((reached & _boards(cells == GOAL)) != 0).any(axis=0)
    return found


def _boards(cells: Bool) -> Keys:
    """Boards of n maps, (words, n); cell c of a map, (n, cells), is bit c % 64 of word c // 64."""
    packed = np.packbits(cells, axis=1, bitorder="little")
    padding = -packed.shape[1] % 8
    if padding:
        packed = np.concatenate([packed, np.zeros((len(packed), padding), np.uint8)], axis=1)
    return np.ascontiguousarray(packed.view("<u8").astype(np.uint64, copy=False).T)


def _flood_up(reached: Keys, free: Keys, shift: np.uint64) -> None:
    moved = reached << shift
    if len(reached) > 1:
        moved[1:] |= reached[:-1] >> (np.uint64(64) - shift)
    moved &= free
    reached |= moved


def _flood_down(reached: Keys, free: Keys, shift: np.uint64) -> None:
    moved = reached >> shift
    if len(reached) > 1:
        moved[:-1] |= reached[1:] << (np.uint64(64) - shift)
    moved &= free
    reached |= moved


def _neighbours(size: int) -> Int:
    """The cells to the left, below, to the right and above of each cell, or that cell at a wall, (size ** 2, 4)."""
    row, column = np.divmod(np.arange(size * size), size)
    left, right = np.maximum(column - 1, 0), np.minimum(column + 1, size - 1)
    up, down = np.maximum(row - 1, 0), np.minimum(row + 1, size - 1)
    return np.stack([row * size + left, down * size + column, row * size + right, up * size + column], axis=1)


def successors(size: int, is_slippery: bool, can_stay: bool) -> Int:
    """Where moves lead: K = 3 outcomes in Gymnasium's order (one side, ahead, the other side), or only ahead.

    Returns:
        Cells, (size ** 2, 4, K), or (size ** 2, 5, K) with a last move that stays.
    """
    turns = [-1, 0, 1] if is_slippery else [0]
    cells = np.stack([np.roll(_neighbours(size), -turn, axis=1) for turn in turns], axis=2)
    if not can_stay:
        return cells
    stays = np.broadcast_to(np.arange(size * size)[:, None, None], (size * size, 1, len(turns)))
    return np.concatenate([cells, stays], axis=1)


def tries(size: int, is_slippery: bool, can_stay: bool) -> tuple[Int, Int, Int]:
    """Moves by way of states that know where the agent came from, so that it can be put back there.

    State c < S = size ** 2 is to be in cell c; S + 4 * c + d is to try to leave it in direction d.

    Returns:
        Where moves lead, (5 * S, 4 or 5, K); the cell that each state enters and the one it comes from, (5 * S,) each.
    """
    num_cells = size * size
    cells = np.arange(num_cells)
    turns = [-1, 0, 1] if is_slippery else [0]
    directions = (np.arange(4)[:, None] + turns) % 4
    leaving = num_cells + 4 * cells[:, None, None] + directions
    if can_stay:
        leaving = np.concatenate([leaving, np.broadcast_to(cells[:, None, None], (num_cells, 1, len(turns)))], axis=1)
    entered = np.concatenate([cells, _neighbours(size).ravel()])
    return leaving[entered], entered, np.concatenate([cells, np.repeat(cells, 4)])
