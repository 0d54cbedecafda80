"""Tasks that are a direction on the ground: how they are drawn and what they look like."""

from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from metagym.envs.mujoco.sketch import View
from metagym.errors import ConfigError, TaskError
from metagym.family import Params, Region
from metagym.render import draw_arrow
from metagym.types import Array, Float

__all__ = [
    "DIRECTIONS",
    "UNSPLIT",
    "DirectionParams",
    "angle_space",
    "check_angle",
    "draw_angles",
    "draw_direction",
    "list_angles",
    "progress",
]

DIRECTIONS = ("circle", "half_circle", "forward_backward")
UNSPLIT = "forwards and backwards are all there is, and both are for training; use split='train'"
"""Why there is no test part of two directions."""


@dataclass(frozen=True)
class DirectionParams(Params):
    """Columns of N directions."""

    angle: Float
    """Radians from x towards y, (N,)."""


def angle_space() -> spaces.Dict:
    """The task space of directions."""
    return spaces.Dict(angle=spaces.Box(0.0, 2.0 * np.pi, (), np.float64))


def draw_angles(directions: str, noise: Float, region: Region, family: str) -> dict[str, Array]:
    """Directions from one uniform each, (N, 1).

    Raises:
        ConfigError: for the region "ood" of directions that are all there are.
    """
    if region == "ood" and directions != "half_circle":
        raise ConfigError(
            f"{family} with directions={directions!r} has no ood region: training holds all directions; "
            "accepted is directions='half_circle', whose ood is the other half"
        )
    uniform = noise[:, 0]
    if directions == "forward_backward":
        return {"angle": np.where(uniform < 0.5, 0.0, np.pi)}
    if directions == "circle":
        return {"angle": 2.0 * np.pi * uniform}
    if region == "train":
        return {"angle": np.pi * uniform}
    return {"angle": np.maximum(np.pi * (2.0 - uniform), np.nextafter(np.pi, 4.0))}


def check_angle(directions: str, params: DirectionParams) -> None:
    """Refuse a task (N = 1) that is neither forwards nor backwards, where there are no others.

    Raises:
        TaskError: naming the angle.
    """
    angle = float(params.angle[0])
    if directions == "forward_backward" and angle not in {0.0, np.pi}:
        raise TaskError(f"angle={angle} is not accepted with directions='forward_backward'; accepted are 0 and {np.pi}")


def list_angles(directions: str) -> tuple[dict[str, Array], Float] | None:
    """The tasks with their probabilities, where there are two."""
    if directions != "forward_backward":
        return None
    return {"angle": np.array([0.0, np.pi])}, np.full(2, 0.5)


def progress(move: Float, params: DirectionParams) -> Float:
    """How far moves (N, 2) go in the directions of the tasks, (N,)."""
    forward: Float = move[:, 0] * np.cos(params.angle) + move[:, 1] * np.sin(params.angle)
    return forward


def draw_direction(image: Array, view: View, params: DirectionParams) -> str:
    """An arrow on the ground, and its angle in words."""
    angle = float(params.angle[0])
    x, y = view.centre
    c, s = float(np.cos(angle)), float(np.sin(angle))
    near, far = 40.0 / view.scale, 180.0 / view.scale
    start, end = view.spot(x + near * c, y + near * s), view.spot(x + far * c, y + far * s)
    draw_arrow(image, *start, *end, "goal", thickness=6)
    return f"direction {np.rad2deg(angle):.1f} degrees"
