"""Pictures of MuJoCo's bodies in plain NumPy: parallel projections of capsules and balls, with no OpenGL."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from typing_extensions import Self

from metagym.render import canvas, draw_line, fill_disc
from metagym.types import Array, Float

__all__ = ["View", "sketch"]

_SIDE = 400
_ELEMENTS = {2: 0.0, 3: 1.0, 5: 1.0}
"""Drawn types of geoms (ball, capsule, cylinder), and whether they are long."""


@dataclass(frozen=True)
class View:
    """A parallel projection.

    Attributes:
        azimuth: direction in which one looks, degrees from x towards y; 90 shows x to the right.
        elevation: how far from above one looks, degrees.
        scale: pixels per metre.
        height: metres above the ground that lie in the middle of the picture.
        follows: whether the picture moves with the body.
        centre: x and y of the middle of the picture, metres.
    """

    azimuth: float
    elevation: float
    scale: float
    height: float
    follows: bool = True
    centre: tuple[float, float] = (0.0, 0.0)

    def following(self, position: ArrayLike) -> Self:
        """The view with `position` (x, y, z) in its middle, or as it is."""
        x, y, _ = np.asarray(position, np.float64).tolist()
        return replace(self, centre=(x, y)) if self.follows else self

    def axes(self) -> Float:
        """Rightwards, upwards and towards the observer, as rows, (3, 3)."""
        turn, tilt = np.deg2rad(self.azimuth), np.deg2rad(self.elevation)
        ahead = np.array([np.cos(turn) * np.cos(tilt), np.sin(turn) * np.cos(tilt), -np.sin(tilt)])
        right = np.array([np.sin(turn), -np.cos(turn), 0.0])
        return np.stack([right, np.cross(right, ahead), -ahead])

    def place(self, points: ArrayLike) -> Float:
        """Pixels and depth of points in metres, (K, 3) to (K, 3); what is nearer has the larger depth."""
        seen: Float = (np.asarray(points, np.float64) - [*self.centre, self.height]).dot(self.axes().T)
        return seen * [self.scale, -self.scale, 1.0] + [_SIDE / 2, _SIDE / 2, 0.0]

    def spot(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a point on the ground."""
        right, down, _ = self.place([[x, y, 0.0]])[0].tolist()
        return right, down


def sketch(model: Any, data: Any, view: View, decorate: Callable[[Array], object]) -> Array:
    """A picture of the bodies in `data`, over the ground with a line for each metre.

    Args:
        model: MuJoCo's.
        data: with positions computed.
        view: from where.
        decorate: draws on the ground, before the bodies.

    Returns:
        uint8 (400, 400, 3).
    """
    image = canvas(_SIDE, _SIDE)
    _draw_ground(image, view)
    decorate(image)
    kinds = model.geom_type.tolist()
    drawn = [index for index, kind in enumerate(kinds) if kind in _ELEMENTS and model.geom_bodyid[index] > 0]
    half = np.array([model.geom_size[index, 1] * _ELEMENTS[kinds[index]] for index in drawn])
    # A geom is as long as it is along its own z axis.
    along = data.geom_xmat[drawn].reshape(-1, 3, 3)[:, :, 2] * half[:, None]
    first, second = view.place(data.geom_xpos[drawn] - along), view.place(data.geom_xpos[drawn] + along)
    for part in np.argsort(first[:, 2] + second[:, 2]).tolist():
        width = 2.0 * view.scale * float(model.geom_size[drawn[part], 0])
        (x0, y0, _), (x1, y1, _) = first[part].tolist(), second[part].tolist()
        draw_line(image, x0, y0, x1, y1, "ink", thickness=width + 3.0)
        color = "agent" if model.geom_bodyid[drawn[part]] == 1 else "orange"
        draw_line(image, x0, y0, x1, y1, color, thickness=width)
    return image


def _draw_ground(image: Array, view: View) -> None:
    reach = int(np.ceil(_SIDE / view.scale)) + 1
    middle_x, middle_y = (round(value) for value in view.centre)
    if view.elevation == 0.0:
        _, level = view.spot(0.0, 0.0)
        draw_line(image, 0.0, level, _SIDE, level, "wall", thickness=2)
        for x in range(middle_x - reach, middle_x + reach + 1):
            right, _ = view.spot(float(x), 0.0)
            draw_line(image, right, level, right, level + 10.0, "wall", thickness=2)
            if x == 0:
                fill_disc(image, right, level + 18.0, 4.0, "wall")
        return
    for offset in range(-reach, reach + 1):
        x, y = middle_x + offset, middle_y + offset
        draw_line(image, *view.spot(x, middle_y - reach), *view.spot(x, middle_y + reach), "grid")
        draw_line(image, *view.spot(middle_x - reach, y), *view.spot(middle_x + reach, y), "grid")
