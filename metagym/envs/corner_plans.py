"""What knowing the goal is worth to a point that starts near the origin: best returns of ProMP's corner rewards."""

from functools import lru_cache

import numpy as np

from metagym.types import Bool, Float

__all__ = ["best_dense_return", "best_sparse_return", "is_paid"]

_SPACING = 0.025
"""Of the lattice that plans move on; divides the stride, and the radius without reward, metres."""
_CLEARANCE = 24
"""Lattice steps that plans may stray beyond the box of origin and goal."""
_STARTS = 32
"""Starts along a side that dense returns are averaged over."""


def is_paid(position: Float, goal: Float, radius: float) -> Bool:
    """Where progress counts: outside an L1 ball, and in the quarter of the plane whose corner is the goal.

    The corners are the goal and its quarter turns around the origin.

    Args:
        position: metres, (..., 2).
        goal: metres, (..., 2).
        radius: of the ball around the origin, metres; positions on it count.

    Returns:
        (...).
    """
    x, y, goal_x, goal_y = position[..., 0], position[..., 1], goal[..., 0], goal[..., 1]
    facing: Bool = x * goal_x + y * goal_y >= np.abs(x * goal_y - y * goal_x)
    facing &= np.abs(x) + np.abs(y) >= radius
    return facing


def best_dense_return(goal: Float, start: float, stride: float, num_steps: int, *, squared: bool) -> float:
    """The return of closing in on the goal along both axes as fast as one can, which no policy exceeds.

    Args:
        goal: metres, (2,).
        start: half the side of the square that starts are uniform on, metres; averaged over a grid of 32 x 32.
        stride: furthest move along each axis in a step, metres.
        num_steps: of an episode.
        squared: whether the reward is the negative squared distance.
    """
    place = start * ((2 * np.arange(_STARTS) + 1) / _STARTS - 1.0)
    elapsed = stride * np.arange(1, num_steps + 1)[:, None]
    x, y = (np.maximum(np.abs(along - place) - elapsed, 0.0) ** 2 for along in goal)  # (T, starts)
    square = x[:, :, None] + y[:, None, :]
    return -float((square if squared else np.sqrt(square)).mean(axis=(1, 2)).sum())


@lru_cache(maxsize=256)
def best_sparse_return(
    goal: tuple[float, float], start: float, stride: float, num_steps: int, *, radius: float
) -> float:
    """The return of the best plan that moves from point to point of a lattice of 0.025 m, averaged over 16 x 16 starts.

    A plan may earn the same progress again and again: leaving where it is paid costs nothing.

    Args:
        goal: metres.
        start: half the side of the square that starts are uniform on, metres.
        stride: furthest move along each axis in a step, metres.
        num_steps: of an episode.
        radius: of the L1 ball around the origin where nothing is paid, metres.
    """
    reach = round(stride / _SPACING)
    axes = []
    for along in goal:
        first = int(np.floor(min(along, 0.0) / _SPACING)) - _CLEARANCE
        last = int(np.ceil(max(along, 0.0) / _SPACING)) + _CLEARANCE
        axes.append(np.arange(first, last + 1))
    # Rounded, since the border of the ball is paid and must not be lost to the last bit.
    lattice = np.round(np.stack(np.meshgrid(*axes, indexing="ij"), axis=2) * _SPACING, 12)
    target = np.array(goal)
    paid = is_paid(lattice, target, radius - 1e-9)
    distance = np.hypot(*np.moveaxis(lattice - target, 2, 0))
    value = np.zeros(distance.shape)
    for _ in range(num_steps - 1):
        value = np.maximum(distance + _best(np.where(paid, value - distance, -np.inf), reach), _best(value, reach))
    # Starts lie in the middles of the lattice's squares, an even number of points within reach along each axis.
    half = round(start / _SPACING)
    place = (np.arange(-half, half) + 0.5) * _SPACING
    corner = [np.searchsorted(axis, -half - reach + 1) for axis in axes]
    near = tuple(slice(index, index + 2 * half + 2 * reach - 1) for index in corner)
    away = np.hypot(place[:, None] - target[0], place[None, :] - target[1])
    scored = np.where(paid, value - distance, -np.inf)[near]
    best = np.maximum(away + _widest(scored, 2 * reach), _widest(value[near], 2 * reach))
    return float(best.mean())


def _best(value: Float, reach: int) -> Float:
    """Largest value within `reach` lattice steps along each axis, clipped at the border."""
    return _widest(np.pad(value, reach, constant_values=-np.inf), 2 * reach + 1)


def _widest(value: Float, width: int) -> Float:
    """Largest value in each window of `width` x `width`."""
    for axis in (0, 1):
        value = np.lib.stride_tricks.sliding_window_view(value, width, axis=axis).max(axis=-1)
    return value
