"""Layouts of taxi grids, 5 x 5: spelling, picture, proposals, and which of them let the taxi go everywhere."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from metagym.errors import TaskError
from metagym.family import Region
from metagym.render import Canvas, canvas, draw_line, draw_text, fill_disc, fill_rect, fill_ring, text_size
from metagym.types import Array, Bool, Float, Int

__all__ = ["BORDER", "INNER", "NAMES", "NOMINAL", "connected", "picture", "propose", "read", "text"]

NAMES = "RGYB"
NOMINAL = (
    "+---------+",
    "|R: | : :G|",
    "| : | : : |",
    "| : : : : |",
    "| | : | : |",
    "|Y| : |B: |",
    "+---------+",
)
"""Gymnasium's map."""
_CELLS = np.arange(25).reshape(5, 5)
INNER: Int = _CELLS[1:4, 1:4].ravel()
BORDER: Int = np.setdiff1d(_CELLS, INNER)
_COLORS = ("vermillion", "green", "yellow", "blue")
_SIDE = 80


def read(desc: ArrayLike) -> dict[str, Array]:
    """Stands and walls of a map spelled as Gymnasium's `MAP` is: seven rows of eleven characters.

    Raises:
        TaskError: if it is no such map, or a stand is missing or there twice.
    """
    try:
        rows = np.atleast_1d(np.asarray(desc, dtype=np.str_))
        lines = ["".join(np.atleast_1d(row)) for row in rows]
    except (TypeError, ValueError) as error:
        raise TaskError(f"desc={desc!r} must be 7 rows of 11 characters, like Gymnasium's map") from error
    drawing = "\n".join(lines)
    if [len(line) for line in lines] != [11] * 7:
        raise TaskError(f"desc must be 7 rows of 11 characters, like Gymnasium's map; got\n{drawing}")
    cells = "".join(line[1::2] for line in lines[1:-1])
    borders = "".join(line[2:-1:2] for line in lines[1:-1])
    frame = all(line[0] + line[-1] == "||" for line in lines[1:-1]) and lines[0] == lines[-1] == NOMINAL[0]
    if not frame or sorted(cells.replace(" ", "")) != sorted(NAMES) or set(borders) - set(":|"):
        raise TaskError(f"desc must hold R, G, Y and B once, and : or | between the cells of a row; got\n{drawing}")
    walls = np.array([border == "|" for border in borders], dtype=np.uint8).reshape(5, 4)
    return {"stands": np.array([cells.index(name) for name in NAMES], dtype=np.uint8), "walls": walls}


def text(layout: Mapping[str, Array]) -> list[str]:
    """A layout, `stands` (4,) and `walls` (5, 4), in Gymnasium's spelling: seven rows."""
    names = [" "] * 25
    for name, cell in zip(NAMES, layout["stands"].tolist(), strict=True):
        names[cell] = name
    lines = [NOMINAL[0]]
    for row, walls in enumerate(layout["walls"].tolist()):
        borders = ["|", *("|" if wall else ":" for wall in walls)]
        cells = names[5 * row : 5 * row + 5]
        lines.append("".join(border + cell for border, cell in zip(borders, cells, strict=True)) + "|")
    return [*lines, NOMINAL[0]]


def connected(walls: Array) -> Bool:
    """Where the taxi can get from every cell to every other, (n,): no two columns are walled off from each other.

    Args:
        walls: (n, 5, 4); columns are open from top to bottom, since walls stand between columns only.
    """
    return np.asarray((walls == 0).any(axis=1).all(axis=1))


def propose(noise: Float, wall_probability: float, region: Region) -> dict[str, Array]:
    """Layouts with walls independent of each other; not all of them are connected.

    Args:
        noise: uniforms, (n, 24).
        wall_probability: of each of the 20 places between two cells of a row.
        region: "train": four different stands on the border of the grid; "ood": in its inner 3 x 3 cells.

    Returns:
        `stands` (n, 4) and `walls` (n, 5, 4), uint8.
    """
    cells = BORDER if region == "train" else INNER
    rows = np.arange(len(noise))
    order = np.tile(cells.astype(np.uint8), (len(noise), 1))
    for stand in range(4):
        chosen = stand + (noise[:, stand] * (len(cells) - stand)).astype(np.int64)
        swapped = order[rows, chosen]
        order[rows, chosen] = order[:, stand]
        order[:, stand] = swapped
    walls = (noise[:, 4:] < wall_probability).astype(np.uint8).reshape(-1, 5, 4)
    return {"stands": order[:, :4].copy(), "walls": walls}


def picture(layout: Mapping[str, Array], taxi: int, passenger: int, destination: int) -> Canvas:
    """A layout seen from above.

    Args:
        layout: `stands` (4,) and `walls` (5, 4).
        taxi: its cell.
        passenger: the stand where the passenger waits, or 4 inside the taxi.
        destination: the stand to go to.
    """
    image = canvas(5 * _SIDE, 5 * _SIDE, "grid")
    for cell in range(25):
        row, column = divmod(cell, 5)
        fill_rect(image, column * _SIDE + 1, row * _SIDE + 1, _SIDE - 2, _SIDE - 2, "paper")
    stands = layout["stands"].tolist()
    for name, cell, color in zip(NAMES, stands, _COLORS, strict=True):
        row, column = divmod(cell, 5)
        fill_rect(image, column * _SIDE + 4, row * _SIDE + 4, _SIDE - 8, _SIDE - 8, color, radius=8, alpha=0.6)
        width, height = text_size(name, 3)
        draw_text(image, name, column * _SIDE + _SIDE - 10 - width, row * _SIDE + _SIDE - 10 - height, 3)
    for row, column in np.argwhere(layout["walls"]).tolist():
        edge, top = (column + 1) * _SIDE, row * _SIDE
        draw_line(image, edge, top, edge, top + _SIDE, "ink", thickness=8)
    fill_ring(image, *_middle(stands[destination]), 0.42 * _SIDE, "purple", thickness=5)
    x, y = _middle(taxi)
    fill_rect(image, x - 22, y - 14, 44, 28, "white", radius=8)
    fill_rect(image, x - 20, y - 12, 40, 24, "agent", radius=6)
    if passenger < 4:
        x, y = (place - 22 for place in _middle(stands[passenger]))
    fill_disc(image, x, y, 10, "white")
    fill_disc(image, x, y, 8, "ink")
    return image


def _middle(cell: int) -> tuple[float, float]:
    row, column = divmod(cell, 5)
    return (column + 0.5) * _SIDE, (row + 0.5) * _SIDE
