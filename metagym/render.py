"""Raster drawing in plain NumPy: what a family needs to show a state, with no display and no toolkit.

A canvas is a uint8 array (height, width, 3). Coordinates are in pixels, x to the right and y downwards, and
may be fractions: pixel (row i, column j) is the square [j, j + 1] x [i, i + 1]. Primitives draw in place, mix
their colour by the share of each pixel that they cover, and clip at the border. Colours are (red, green,
blue) or a name of `PALETTE`; `alpha` is opacity in [0, 1].
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metagym.errors import ConfigError
from metagym.files import replacing, with_suffix
from metagym.types import Float

__all__ = [
    "PALETTE",
    "Canvas",
    "Color",
    "canvas",
    "draw_arrow",
    "draw_line",
    "draw_text",
    "fill_disc",
    "fill_polygon",
    "fill_rect",
    "fill_ring",
    "hstack",
    "text_size",
    "vstack",
    "write_gif",
]

Canvas: TypeAlias = NDArray[np.uint8]
Color: TypeAlias = str | tuple[int, int, int]

# The last seven are Okabe and Ito's set, told apart by every common kind of colour vision; scene
# colours also differ in lightness from their neighbours on a map.
PALETTE: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "white": (255, 255, 255),
        "paper": (249, 248, 244),
        "grid": (221, 226, 232),
        "grey": (150, 158, 170),
        "wall": (92, 100, 115),
        "ink": (35, 40, 52),
        "black": (0, 0, 0),
        "ice": (212, 234, 247),
        "ice_edge": (168, 206, 230),
        "hole": (30, 58, 95),
        "start": (250, 224, 150),
        "goal": (0, 158, 115),
        "agent": (236, 112, 20),
        "orange": (230, 159, 0),
        "sky": (86, 180, 233),
        "green": (0, 158, 115),
        "yellow": (240, 228, 66),
        "blue": (0, 114, 178),
        "vermillion": (213, 94, 0),
        "purple": (204, 121, 167),
    }
)

_SUBLINES = 5
_GLYPH_HEIGHT, _GLYPH_WIDTH = 7, 5

_SHEET = (
    (
        "ABCDEFGHIJKLMNOP",
        ".###. ####. .#### ####. ##### ##### .#### #...# .###. ..### #...# #.... #...# #...# .###. ####.",
        "#...# #...# #.... #...# #.... #.... #.... #...# ..#.. ...#. #..#. #.... ##.## ##..# #...# #...#",
        "#...# #...# #.... #...# #.... #.... #.... #...# ..#.. ...#. #.#.. #.... #.#.# ##..# #...# #...#",
        "##### ####. #.... #...# ####. ####. #.### ##### ..#.. ...#. ##... #.... #.#.# #.#.# #...# ####.",
        "#...# #...# #.... #...# #.... #.... #...# #...# ..#.. ...#. #.#.. #.... #...# #..## #...# #....",
        "#...# #...# #.... #...# #.... #.... #...# #...# ..#.. #..#. #..#. #.... #...# #..## #...# #....",
        "#...# ####. .#### ####. ##### #.... .###. #...# .###. .##.. #...# ##### #...# #...# .###. #....",
    ),
    (
        "QRSTUVWXYZ012345",
        ".###. ####. .#### ##### #...# #...# #...# #...# #...# ##### .###. ..#.. .###. ####. ...#. #####",
        "#...# #...# #.... ..#.. #...# #...# #...# #...# #...# ....# #...# .##.. #...# ....# ..##. #....",
        "#...# #...# #.... ..#.. #...# #...# #...# .#.#. .#.#. ...#. #..## ..#.. ....# ....# .#.#. ####.",
        "#...# ####. .###. ..#.. #...# #...# #.#.# ..#.. ..#.. ..#.. #.#.# ..#.. ..##. .###. #..#. ....#",
        "#.#.# #.#.. ....# ..#.. #...# .#.#. #.#.# .#.#. ..#.. .#... ##..# ..#.. .#... ....# ##### ....#",
        "#..#. #..#. ....# ..#.. #...# .#.#. ##.## #...# ..#.. #.... #...# ..#.. #.... ....# ...#. #...#",
        ".##.# #...# ####. ..#.. .###. ..#.. #...# #...# ..#.. ##### .###. .###. ##### ####. ...#. .###.",
    ),
    (
        "6789.,:-+=/%()?!",
        ".###. ##### .###. .###. ..... ..... ..... ..... ..... ..... ....# ##..# ..#.. ..#.. .###. ..#..",
        "#.... ....# #...# #...# ..... ..... ..... ..... ..#.. ..... ....# ##..# .#... ...#. #...# ..#..",
        "#.... ...#. #...# #...# ..... ..... ..#.. ..... ..#.. ##### ...#. ...#. .#... ...#. ....# ..#..",
        "####. ..#.. .###. .#### ..... ..... ..... ##### ##### ..... ..#.. ..#.. .#... ...#. ..##. ..#..",
        "#...# ..#.. #...# ....# ..... ..... ..... ..... ..#.. ##### .#... .#... .#... ...#. ..#.. ..#..",
        "#...# .#... #...# ....# ..... ..#.. ..#.. ..... ..#.. ..... #.... #..## .#... ...#. ..... .....",
        ".###. .#... .###. .###. ..#.. .#... ..... ..... ..... ..... #.... #..## ..#.. ..#.. ..#.. ..#..",
    ),
)


def _read_sheet() -> dict[str, NDArray[np.bool_]]:
    glyphs = {" ": np.zeros((_GLYPH_HEIGHT, _GLYPH_WIDTH), np.bool_)}
    for letters, *lines in _SHEET:
        rows = [line.split(" ") for line in lines]
        for column, letter in enumerate(letters):
            glyphs[letter] = np.array([[dot == "#" for dot in row[column]] for row in rows])
    return glyphs


_GLYPHS = _read_sheet()
_UNKNOWN = np.pad(np.zeros((5, 3), np.bool_), 1, constant_values=True)


def _rgb(color: Color) -> tuple[int, int, int]:
    if not isinstance(color, str):
        return color
    if color not in PALETTE:
        raise ConfigError(f"unknown color {color!r}; accepted are (red, green, blue) and {', '.join(PALETTE)}")
    return PALETTE[color]


def canvas(height: int, width: int, color: Color = "paper") -> Canvas:
    """A new canvas of one colour, (height, width, 3) uint8.

    Raises:
        ConfigError: if a side is not positive or the colour is unknown.
    """
    if height <= 0 or width <= 0:
        raise ConfigError(f"a canvas needs a positive height and width in pixels, got {height} x {width}")
    image = np.empty((height, width, 3), np.uint8)
    image[:] = _rgb(color)
    return image


def _window(image: Canvas, x0: float, y0: float, x1: float, y1: float) -> tuple[int, int, int, int]:
    """The pixels that a box touches, clipped: first row, last row + 1, first column, last column + 1."""
    height, width = image.shape[:2]
    top, left = max(int(np.floor(y0)), 0), max(int(np.floor(x0)), 0)
    return top, max(min(int(np.ceil(y1)), height), top), left, max(min(int(np.ceil(x1)), width), left)


def _mix(image: Canvas, window: tuple[int, int, int, int], coverage: Float, color: Color) -> None:
    """Mix a colour into a window by its coverage in [0, 1], (rows, columns)."""
    top, bottom, left, right = window
    part = image[top:bottom, left:right]
    mixed = part + coverage[..., None] * (np.array(_rgb(color), np.float64) - part)
    part[:] = np.rint(mixed).astype(np.uint8)


def _centres(window: tuple[int, int, int, int]) -> tuple[Float, Float]:
    """Pixel centres of a window, x as (1, columns) and y as (rows, 1)."""
    top, bottom, left, right = window
    xs = np.arange(left, right, dtype=np.float64)
    ys = np.arange(top, bottom, dtype=np.float64)
    return xs[None] + 0.5, ys[:, None] + 0.5


def _overlap(start: float, stop: float, first: int, last: int) -> Float:
    """Which share of each pixel first..last - 1 the interval [start, stop] covers, (last - first,)."""
    pixels = np.arange(first, last)
    share: Float = np.clip(np.minimum(stop, pixels + 1) - np.maximum(start, pixels), 0.0, 1.0)
    return share


def fill_rect(
    image: Canvas,
    x: float,
    y: float,
    width: float,
    height: float,
    color: Color,
    *,
    radius: float = 0.0,
    alpha: float = 1.0,
) -> None:
    """A rectangle with its upper left corner at (x, y); its corners are rounded by `radius` pixels."""
    window = _window(image, x, y, x + width, y + height)
    if radius > 0.0:
        radius = min(radius, width / 2, height / 2)
        xs, ys = _centres(window)
        dx = np.maximum(np.abs(xs - (x + width / 2)) - (width / 2 - radius), 0.0)
        dy = np.maximum(np.abs(ys - (y + height / 2)) - (height / 2 - radius), 0.0)
        coverage = np.clip(radius + 0.5 - np.hypot(dx, dy), 0.0, 1.0)
    else:
        top, bottom, left, right = window
        coverage = np.outer(_overlap(y, y + height, top, bottom), _overlap(x, x + width, left, right))
    _mix(image, window, alpha * coverage, color)


def fill_disc(image: Canvas, x: float, y: float, radius: float, color: Color, *, alpha: float = 1.0) -> None:
    """A disc around (x, y), `radius` in pixels, opacity `alpha` in [0, 1]."""
    reach = radius + 0.5
    window = _window(image, x - reach, y - reach, x + reach, y + reach)
    xs, ys = _centres(window)
    _mix(image, window, alpha * np.clip(reach - np.hypot(xs - x, ys - y), 0.0, 1.0), color)


def fill_ring(
    image: Canvas,
    x: float,
    y: float,
    radius: float,
    color: Color,
    *,
    thickness: float = 2.0,
    alpha: float = 1.0,
) -> None:
    """A ring around (x, y); `radius` is that of the middle of its line, which is `thickness` pixels wide."""
    reach = radius + thickness / 2 + 0.5
    window = _window(image, x - reach, y - reach, x + reach, y + reach)
    xs, ys = _centres(window)
    distance = np.abs(np.hypot(xs - x, ys - y) - radius)
    _mix(image, window, alpha * _stroke(distance, thickness), color)


def draw_line(
    image: Canvas,
    x0: float,
    y0: float,
    x1: float,
    y1: float,
    color: Color,
    *,
    thickness: float = 2.0,
    alpha: float = 1.0,
) -> None:
    """A straight line with round ends from (x0, y0) to (x1, y1), `thickness` pixels wide."""
    reach = thickness / 2 + 0.5
    (left, right), (top, bottom) = sorted((x0, x1)), sorted((y0, y1))
    window = _window(image, left - reach, top - reach, right + reach, bottom + reach)
    xs, ys = _centres(window)
    dx, dy = x1 - x0, y1 - y0
    length2 = dx * dx + dy * dy
    along = ((xs - x0) * dx + (ys - y0) * dy) / length2 if length2 > 0.0 else np.zeros((ys.size, xs.size))
    along = np.clip(along, 0.0, 1.0)
    distance = np.hypot(xs - (x0 + along * dx), ys - (y0 + along * dy))
    _mix(image, window, alpha * _stroke(distance, thickness), color)


def _stroke(distance: Float, thickness: float) -> Float:
    """Coverage by a stroke, given the distance of the pixels' centres to its middle; thin strokes fade."""
    return np.clip(thickness / 2 + 0.5 - distance, 0.0, min(thickness, 1.0))


def fill_polygon(image: Canvas, points: ArrayLike, color: Color, *, alpha: float = 1.0) -> None:
    """A polygon that does not cross itself.

    Args:
        image: canvas to draw on.
        points: the corners in order, (K, 2) as (x, y) in pixels, K >= 3.
        color: colour.
        alpha: opacity in [0, 1].

    Raises:
        ConfigError: if the points are not (K, 2) with K >= 3.
    """
    corners = np.asarray(points, dtype=np.float64)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
        raise ConfigError(f"a polygon needs at least three (x, y) points, got shape {corners.shape}")
    window = _window(image, *corners.min(axis=0), *corners.max(axis=0))
    top, bottom, left, right = window
    ys = top + (np.arange((bottom - top) * _SUBLINES) + 0.5) / _SUBLINES
    right_edges = np.arange(left, right) + 1.0
    area = np.zeros((ys.size, right_edges.size))
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        rows = np.flatnonzero((ys >= min(y0, y1)) & (ys < max(y0, y1)))
        if rows.size == 0:
            continue
        # What lies right of a rising edge is added, right of a falling one taken away: the inside remains.
        crossings = x0 + (ys[rows] - y0) * ((x1 - x0) / (y1 - y0))
        area[rows] += np.sign(y1 - y0) * np.clip(right_edges - crossings[:, None], 0.0, 1.0)
    coverage = np.clip(np.abs(area), 0.0, 1.0).reshape(bottom - top, _SUBLINES, right - left).mean(axis=1)
    _mix(image, window, alpha * coverage, color)


def draw_arrow(
    image: Canvas,
    x0: float,
    y0: float,
    x1: float,
    y1: float,
    color: Color,
    *,
    thickness: float = 2.0,
    head: float | None = None,
    alpha: float = 1.0,
) -> None:
    """An arrow from (x0, y0) to its tip (x1, y1); nothing if they coincide.

    Its shaft is `thickness` pixels wide; the head is `head` pixels long (default: four times the
    thickness) and as wide, at most as long as the arrow.
    """
    length = float(np.hypot(x1 - x0, y1 - y0))
    if length == 0.0:
        return
    ux, uy = (x1 - x0) / length, (y1 - y0) / length
    size = min(4.0 * thickness if head is None else head, length)
    half, neck = size / 2, length - size
    # One outline, so that shaft and head do not mix twice where they meet when alpha < 1.
    side = [(0.0, min(thickness / 2, half)), (neck, min(thickness / 2, half)), (neck, half)]
    outline = [*side, (length, 0.0), *((along, -across) for along, across in reversed(side))]
    corners = [(x0 + along * ux - across * uy, y0 + along * uy + across * ux) for along, across in outline]
    fill_polygon(image, corners, color, alpha=alpha)


def text_size(text: str, scale: int = 1) -> tuple[int, int]:
    """Width and height in pixels of a text as `draw_text` sets it."""
    lines = text.split("\n")
    longest = max(len(line) for line in lines)
    return max(longest * (_GLYPH_WIDTH + 1) - 1, 0) * scale, (len(lines) * (_GLYPH_HEIGHT + 2) - 2) * scale


def draw_text(image: Canvas, text: str, x: int, y: int, scale: int = 1, color: Color = "ink") -> None:
    """Letters, digits and ``.,:-+=/%()?!`` in a 5 x 7 font.

    Small letters look like capitals; a character that the font lacks is a box.

    Args:
        image: canvas to draw on.
        text: lines separated by newlines.
        x: left side of the text, pixels.
        y: upper side of the text, pixels.
        scale: pixels per dot of the font.
        color: colour.
    """
    dots = np.ones((scale, scale), np.bool_)
    for row, line in enumerate(text.upper().split("\n")):
        for column, letter in enumerate(line):
            glyph = np.kron(_GLYPHS.get(letter, _UNKNOWN), dots)
            left, top = x + column * (_GLYPH_WIDTH + 1) * scale, y + row * (_GLYPH_HEIGHT + 2) * scale
            window = _window(image, left, top, left + glyph.shape[1], top + glyph.shape[0])
            first, last, start, stop = window
            part = glyph[first - top : last - top, start - left : stop - left]
            image[first:last, start:stop][part] = _rgb(color)


def hstack(frames: Sequence[Canvas], *, gap: int = 8, color: Color = "paper") -> Canvas:
    """Frames side by side, upper sides aligned, `gap` pixels of `color` between them."""
    column = vstack([np.swapaxes(frame, 0, 1) for frame in frames], gap=gap, color=color)
    return np.swapaxes(column, 0, 1).copy()


def vstack(frames: Sequence[Canvas], *, gap: int = 8, color: Color = "paper") -> Canvas:
    """Frames below each other, left sides aligned, `gap` pixels of `color` between them.

    Raises:
        ConfigError: if there is no frame.
    """
    if not frames:
        raise ConfigError("stacking needs at least one frame, got none")
    height = sum(frame.shape[0] for frame in frames) + gap * (len(frames) - 1)
    image = canvas(height, max(frame.shape[1] for frame in frames), color)
    top = 0
    for frame in frames:
        image[top : top + frame.shape[0], : frame.shape[1]] = frame
        top += frame.shape[0] + gap
    return image


def write_gif(path: str | Path, frames: Sequence[Canvas], fps: float = 10.0) -> Path:
    """Write frames as an animated GIF that loops forever; the file appears whole or not at all.

    Args:
        path: where; ``.gif`` is appended if missing.
        frames: at least one canvas, all (height, width, 3) uint8 of one shape.
        fps: frames per second; GIF rounds the time of a frame to 10 ms.

    Returns:
        The path written.

    Raises:
        ConfigError: if there is no frame, shapes differ or `fps` is not positive.
    """
    from PIL import Image

    shapes = {frame.shape for frame in frames}
    if len(shapes) != 1 or fps <= 0.0:
        raise ConfigError(f"a GIF needs frames of one shape and fps > 0, got {sorted(shapes)}, fps {fps}")
    path = with_suffix(path, ".gif")
    first, *rest = [Image.fromarray(frame).quantize(method=Image.Quantize.MEDIANCUT) for frame in frames]
    with replacing(path) as partial:
        first.save(partial, format="GIF", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)
    return path
