"""Point navigation out of two round walls with gaps, to a goal in a corner."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from gymnasium import spaces
from typing_extensions import override

from metagym.envs.corners import (
    FAR,
    SIDE,
    VIEW,
    CornerParams,
    Corners,
    Place,
    check_radius,
    draw_goals,
    draw_scene,
    length,
    pixel,
    unit_vectors,
)
from metagym.family import Region, Step
from metagym.render import canvas, draw_line, fill_ring
from metagym.types import Array, Bool, Float

__all__ = ["PointWalls", "PointWallsParams"]


@dataclass(frozen=True)
class PointWallsParams(CornerParams):
    """Columns of N goals and pairs of gaps."""

    gap_1: Float
    """Middle of the gap in the inner wall, on the circle of radius 1 m, (N, 2)."""
    gap_2: Float
    """Middle of the gap in the outer wall, on the circle of radius 2 m, (N, 2)."""


class PointWalls(Corners[PointWallsParams]):
    """Two walls: round walls of radius 1 m and 2 m, each with one gap, hold the point back from a goal in a corner.

    ## Task Space

    | Parameter | Shape | Low | High | Unit | Meaning |
    |---|---|---|---|---|---|
    | goal | (2,) | -3 | 3 | m | position of the goal, sqrt(8) from the origin |
    | gap_1 | (2,) | -1 | 1 | m | middle of the gap in the inner wall, 1 from the origin |
    | gap_2 | (2,) | -2 | 2 | m | middle of the gap in the outer wall, 2 from the origin |

    ## Action Space

    `Box(-0.2, 0.2, (2,), float32)`: the move in metres, clipped to these bounds. A move outwards through a wall is
    held back at it, unless it ends within 1 m of the middle of the gap. Walls do not hold back the way in.

    ## Observation Space

    `Box` of shape (2,), float32. The bounds are as far as the point can get in an episode, in whole metres:

    | Num | Observation | Low | High | Unit |
    |---|---|---|---|---|
    | 0 | x | -21 | 21 | m |
    | 1 | y | -21 | 21 | m |

    ## Rewards

    With d the distance to the goal where the move would end if there were no walls: "dense" -d; "dense_squared" -d²;
    "sparse" the metres by which the move, without walls, comes closer to the goal if d < 2, else 0.

    ## Starting State

    Uniform on [-0.2, 0.2]².

    ## Episode End

    Never terminated. Truncated after `episode_length` steps.

    ## Information

    No keys of its own: success is not defined.

    ## Arguments

    - `reward`: "sparse", "dense" or "dense_squared".
    - `episode_length`: steps, 1 to 100,000.

    ## Splits

    Goals (±2, ±2), equally likely, and gaps uniform on their circles. train and test are disjoint by a hash of goal
    and gaps; both hold all four goals. ood: goals uniform on the arcs of the circle through the corners that are more
    than 10 degrees away from every corner; gaps as in training.

    ## Reference Returns

    Not given: the best way through two gaps has no closed form. That of the same task without walls, -12.88 with
    "dense" and -23.05 with "dense_squared" (`PointCorner`), is out of reach.

    ## References

    Rothfuss et al. 2019, "ProMP: Proximal Meta-Policy Search"; jonasrothfuss/ProMP,
    `meta_policy_search/envs/point_envs/point_env_2d_walls.py`, with 100 steps.

    Differs: where sparse rewards are not paid, the source returns None instead of 0. It holds a rule that ends
    episodes at coordinates above 3, and does not call it; neither does this. The ood region is an addition.
    Observations are bounded, where the source declares an infinite box.

    ## Version History

    - v0: first version.
    """

    name = "PointWalls"
    params_type = PointWallsParams
    structural = ("goal", "gap_1", "gap_2")
    num_structure_draws = 3
    radius = 2.0

    def __init__(self, *, reward: str = "dense", episode_length: int = 100) -> None:
        super().__init__(reward, episode_length)
        self.task_space = spaces.Dict(
            goal=spaces.Box(-3.0, 3.0, (2,), np.float64),
            gap_1=spaces.Box(-1.0, 1.0, (2,), np.float64),
            gap_2=spaces.Box(-2.0, 2.0, (2,), np.float64),
        )

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        gaps = unit_vectors(2.0 * np.pi * noise[:, 1]), unit_vectors(2.0 * np.pi * noise[:, 2])
        return {"goal": draw_goals(noise[:, 0], region), "gap_1": gaps[0], "gap_2": 2.0 * gaps[1]}

    @override
    def check(self, params: PointWallsParams) -> None:
        for field, radius in (("goal", FAR), ("gap_1", 1.0), ("gap_2", 2.0)):
            check_radius(field, params.columns()[field][0], radius)

    @override
    def _pays(self, position: Float, distance: Float, params: PointWallsParams) -> Bool:
        near: Bool = distance < self.radius
        return near

    @override
    def step(self, state: Place, action: Array, params: PointWallsParams, noise: Float) -> Step[Place]:
        free = super().step(state, action, params, noise)
        position, before = free.state.position, length(state.position)
        after = length(position)
        for radius, gap in ((1.0, params.gap_1), (2.0, params.gap_2)):
            held = (before < radius) & (after > radius) & (length(position - gap) > 1.0)
            # The source's 1e-6 puts the point just inside the wall. A step is too short to reach both walls.
            position = np.where(held[:, None], position / (after / radius + 1e-6)[:, None], position)
        return free._replace(state=Place(position))

    @override
    def draw(self, state: Place, params: PointWallsParams) -> Array:
        image = canvas(SIDE, SIDE)
        centre, scale = pixel(np.zeros(2)), SIDE / (2.0 * VIEW)
        for radius, gap in ((1.0, params.gap_1[0]), (2.0, params.gap_2[0])):
            # Where the chord to the gap's middle is longer than 1 m.
            half = 2.0 * np.arcsin(0.5 / radius)
            turn = np.arctan2(gap[1], gap[0]) + np.linspace(half, 2.0 * np.pi - half, 97)
            fill_ring(image, *centre, radius * scale, "grid", thickness=2)
            arc = [pixel(place) for place in radius * unit_vectors(turn)]
            for start, end in pairwise(arc):
                draw_line(image, *start, *end, "wall", thickness=5)
        draw_scene(image, state.position[0], params.goal[0])
        return image
