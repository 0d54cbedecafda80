"""Maps with cliffs: spelling, picture, proposals, enumeration, and which of them have a way to the goal."""

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from metagym.envs import lake_maps
from metagym.render import Canvas, canvas, draw_line, draw_text, fill_disc, fill_polygon, fill_rect
from metagym.types import Array, Bool, Float, Int

__all__ = [
    "CLIFF",
    "FLOOR",
    "GOAL",
    "LETTERS",
    "START",
    "enumerate_maps",
    "goal_cells",
    "picture",
    "propose",
    "read",
    "solvable",
    "text",
]

LETTERS = "SFCG"
START, FLOOR, CLIFF, GOAL = (np.uint8(code) for code in range(4))
_MAX_ENUMERATED = 2**16


def read(value: ArrayLike) -> ArrayLike:
    """Codes of a map given as text, (rows, columns) uint8, in any spelling that `lake_maps.read` accepts.

    Raises:
        TaskError: if rows differ in length or hold letters other than `LETTERS`.
    """
    return lake_maps.read(value, LETTERS)


def text(codes: Array, agent: int | None = None) -> str:
    """One map, (height, width), in letters; the cell numbered `agent` in brackets."""
    width = codes.shape[1]
    cells = [
        f"[{LETTERS[code]}]" if cell == agent else f" {LETTERS[code]} "
        for cell, code in enumerate(codes.ravel().tolist())
    ]
    return "\n".join("".join(cells[row : row + width]).rstrip() for row in range(0, len(cells), width))


def goal_cells(height: int, width: int, *, random_goal: bool, on_top: bool) -> Int:
    """Cells where the goal may be: the top row, or any below it but the start, or the bottom right one alone, (M,)."""
    if on_top:
        return np.arange(width)
    if random_goal:
        below = np.arange(width, height * width)
        allowed: Int = below[below != (height - 1) * width]
        return allowed
    return np.array([height * width - 1])


def propose(noise: Float, height: int, width: int, cliff_probability: float, goals: Int) -> Array:
    """Maps whose cells are cliff independently of each other, with the goal in one of `goals` (M,).

    The start is the bottom left cell. Not all maps have a way to the goal.

    Args:
        noise: uniforms, (n, height * width).
        height: rows.
        width: columns.
        cliff_probability: of each cell that is neither start nor goal.
        goals: cells where the goal may be, all as likely.

    Returns:
        Codes, (n, height, width) uint8.
    """
    start = (height - 1) * width
    cells = np.where(noise < cliff_probability, CLIFF, FLOOR)
    cells[np.arange(len(noise)), goals[(noise[:, start] * len(goals)).astype(np.int64)]] = GOAL
    cells[:, start] = START
    return cells.reshape(-1, height, width)


@lru_cache(maxsize=8)
def enumerate_maps(height: int, width: int, cliff_probability: float, random_goal: bool) -> tuple[Array, Float] | None:
    """Every map of training with a way to the goal, (M, height, width), and its probability among these, (M,).

    Both are read-only. None if there are more than 2 ** 16 maps to look at.
    """
    goals = goal_cells(height, width, random_goal=random_goal, on_top=False)
    num_cells, start = height * width, (height - 1) * width
    num_free = num_cells - 2
    if len(goals) << num_free > _MAX_ENUMERATED:
        return None
    cliffs = np.arange(2**num_free)[:, None] >> np.arange(num_free) & 1
    cells = np.full((len(goals), len(cliffs), num_cells), START)
    for row, goal in enumerate(goals.tolist()):
        cells[row][:, [cell for cell in range(num_cells) if cell not in {start, goal}]] = FLOOR + cliffs
        cells[row, :, goal] = GOAL
    maps = cells.reshape(-1, height, width)
    num_cliffs = np.tile(cliffs.sum(axis=1), len(goals))
    weights = cliff_probability**num_cliffs * (1.0 - cliff_probability) ** (num_free - num_cliffs)
    possible = solvable(maps) & (weights > 0.0)
    maps, weights = maps[possible], weights[possible] / weights[possible].sum()
    maps.setflags(write=False)
    weights.setflags(write=False)
    return maps, weights


def solvable(maps: Array) -> Bool:
    """Which maps have a way from the bottom left cell to the goal that enters no cliff, (n,).

    Args:
        maps: codes, (n, height, width).
    """
    num_maps, height, width = maps.shape
    side = max(height, width)
    # A lake with the start at the top left, the cliffs its holes, and more of these to make it square.
    lakes = np.full((num_maps, side, side), lake_maps.HOLE)
    lakes[:, :height, :width] = maps[:, ::-1]
    return lake_maps.solvable(lakes)


def picture(codes: Array, agent: int) -> Canvas:
    """One map, (height, width), seen from above, with the agent in the cell of that number."""
    height, width = codes.shape
    side = max(24, min(64, 768 // max(height, width)))
    image = canvas(side * height, side * width, "grid")
    for cell, code in enumerate(codes.ravel().tolist()):
        _draw_cell(image, side, cell % width * side, cell // width * side, code)
    row, column = divmod(agent, width)
    x, y = (column + 0.5) * side, (row + 0.5) * side
    fill_disc(image, x, y, 0.27 * side, "white")
    fill_disc(image, x, y, 0.23 * side, "agent")
    return image


def _draw_cell(image: Canvas, side: int, x: float, y: float, code: int) -> None:
    gap = max(1.0, side / 36)
    color = {int(START): "start", int(CLIFF): "hole"}.get(code, "paper")
    fill_rect(image, x + gap, y + gap, side - 2 * gap, side - 2 * gap, color, radius=side / 8)
    if code == CLIFF:
        for share in (0.3, 0.5, 0.7):
            draw_line(image, x + 0.25 * side, y + share * side, x + 0.75 * side, y + share * side, "grey", thickness=1)
    elif code == START:
        draw_text(image, "S", int(x + 3 * gap), int(y + 3 * gap), max(1, side // 24), "grey")
    elif code == GOAL:
        pole, top = x + 0.34 * side, y + 0.18 * side
        fill_polygon(image, [(pole, top), (x + 0.78 * side, y + 0.34 * side), (pole, y + 0.5 * side)], "goal")
        draw_line(image, pole, top, pole, y + 0.82 * side, "ink", thickness=max(2.0, side / 24))
