"""What families of points and corners share: goals, starts, moves, rewards, pictures."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeVar

import numpy as np
from gymnasium import spaces
from typing_extensions import override

from metagym.envs.arguments import choice_of, integer
from metagym.errors import TaskError
from metagym.family import Family, Params, Region, Step
from metagym.render import Canvas, fill_disc
from metagym.types import Array, Bool, Float

__all__ = [
    "CORNERS",
    "FAR",
    "SIDE",
    "START",
    "STRIDE",
    "VIEW",
    "CornerParams",
    "Corners",
    "Place",
    "check_radius",
    "draw_goals",
    "draw_scene",
    "length",
    "pixel",
    "unit_vectors",
]

CORNERS = np.array([[-2.0, -2.0], [2.0, -2.0], [-2.0, 2.0], [2.0, 2.0]])
FAR = 8.0**0.5
"""Distance of every goal from the origin, metres."""
STRIDE = 0.2
"""Furthest move along each axis in one step, metres."""
START = 0.2
"""Half the side of the square that starts are uniform on, metres."""
SIDE, VIEW = 400, 3.4
"""Of pictures: pixels along a side, and metres from the middle to a side."""
_REWARDS = ("sparse", "dense", "dense_squared")


@dataclass(frozen=True)
class CornerParams(Params):
    """Columns of N goals."""

    goal: Float
    """Position of the goal, 2.83 m from the origin, (N, 2)."""


class Place(NamedTuple):
    """Where the point is."""

    position: Float
    """Metres, (N, 2)."""


ParamsT = TypeVar("ParamsT", bound=CornerParams)


class Corners(Family[Place, ParamsT]):
    """A point that starts near the origin, and a goal in a corner.

    Args:
        reward: "sparse", "dense" or "dense_squared".
        episode_length: steps, 1 to 100,000.
    """

    initial_needs_task = False
    observe_needs_task = False
    num_initial_draws = 2
    radius: ClassVar[float]
    """Sparse rewards: of the L1 ball around the origin in which there are none, or of the disc around the goal."""

    def __init__(self, reward: str, episode_length: int) -> None:
        self.reward = choice_of("reward", reward, _REWARDS)
        self.episode_length = integer("episode_length", episode_length, 1, 100_000)
        limit = float(np.ceil(START + STRIDE * self.episode_length))
        self.action_space = spaces.Box(-STRIDE, STRIDE, (2,), np.float32)
        self.observation_space = spaces.Box(-limit, limit, (2,), np.float32)

    @override
    def initial(self, params: ParamsT, noise: Float) -> Place:
        return Place(START * (2.0 * noise - 1.0))

    @override
    def step(self, state: Place, action: Array, params: ParamsT, noise: Float) -> Step[Place]:
        # In double precision first: the single 0.2 is a little more than 0.2.
        move = np.minimum(np.maximum(action.astype(np.float64), -STRIDE), STRIDE)
        position = state.position + move
        distance = length(position - params.goal)
        if self.reward == "dense":
            reward = -distance
        elif self.reward == "dense_squared":
            reward = -distance * distance
        else:
            progress = length(state.position - params.goal) - distance
            reward = np.where(self._pays(position, distance, params), progress, 0.0)
        return Step(Place(position), reward, np.zeros(len(reward), np.bool_))

    @abstractmethod
    def _pays(self, position: Float, distance: Float, params: ParamsT) -> Bool:
        """Whether sparse rewards are paid at a position, (N,); `distance` is that to the goal, (N,)."""

    @override
    def observe(self, state: Place, params: ParamsT) -> Array:
        return state.position.astype(np.float32)

    @override
    def describe(self, state: Place, params: ParamsT) -> str:
        (x, y), (goal_x, goal_y) = state.position[0].tolist(), params.goal[0].tolist()
        distance = float(np.hypot(x - goal_x, y - goal_y))
        return f"at ({x:+.3f}, {y:+.3f}), goal ({goal_x:+.3f}, {goal_y:+.3f}), distance {distance:.3f} m\n"


def length(vectors: Float) -> Float:
    """Euclidean lengths of vectors (n, 2), (n,)."""
    square = vectors * vectors
    length: Float = np.sqrt(square[:, 0] + square[:, 1])
    return length


def unit_vectors(angle: Float) -> Float:
    """Vectors of length 1 at angles in radians (n,), (n, 2)."""
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def draw_goals(noise: Float, region: Region) -> Float:
    """One of the four corners, or a point between them, from a uniform each, (n, 2)."""
    quarter = np.floor(4.0 * noise)
    if region == "train":
        return CORNERS[quarter.astype(np.int64)]
    between = 55.0 + 70.0 * (4.0 * noise - quarter)
    return FAR * unit_vectors(np.deg2rad(90.0 * quarter + between))


def check_radius(name: str, place: Float, radius: float) -> None:
    """Refuse a place (2,) that is not `radius` metres from the origin.

    Raises:
        TaskError: naming the field, its distance and what is accepted.
    """
    distance = float(np.hypot(*place))
    if abs(distance - radius) > 1e-6:
        raise TaskError(f"{name}={place.tolist()} is {distance} from the origin; accepted is {radius:.6g}")


def pixel(place: Float) -> tuple[float, float]:
    """Where a place (2,), in metres, is on a picture of `SIDE` pixels: x and y."""
    scale = SIDE / (2.0 * VIEW)
    return SIDE / 2 + scale * float(place[0]), SIDE / 2 - scale * float(place[1])


def draw_scene(image: Canvas, position: Float, goal: Float) -> None:
    """Goal and point, each (2,) in metres, on a canvas of `SIDE` pixels."""
    fill_disc(image, *pixel(goal), 7, "goal")
    x, y = np.clip(pixel(position), 8.0, SIDE - 8.0)  # at the border if it has left the picture
    fill_disc(image, x, y, 8, "white")
    fill_disc(image, x, y, 6, "agent")
