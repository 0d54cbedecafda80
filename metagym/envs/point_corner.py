"""Point navigation to one of four corners, with a reward that must be searched for."""

import numpy as np
from gymnasium import spaces
from typing_extensions import override

from metagym.envs.corner_plans import best_dense_return, best_sparse_return, is_paid
from metagym.envs.corners import (
    CORNERS,
    FAR,
    SIDE,
    START,
    STRIDE,
    VIEW,
    CornerParams,
    Corners,
    Place,
    check_radius,
    draw_goals,
    draw_scene,
    pixel,
)
from metagym.family import Region
from metagym.render import canvas, fill_polygon, fill_ring
from metagym.types import Array, Bool, Float

__all__ = ["PointCorner"]


class PointCorner(Corners[CornerParams]):
    """Four corners: the goal is one of four, and the reward is silent near the start and in the wrong quarters.

    ## Task Space

    | Parameter | Shape | Low | High | Unit | Meaning |
    |---|---|---|---|---|---|
    | goal | (2,) | -3 | 3 | m | position of the goal, sqrt(8) from the origin |

    ## Action Space

    `Box(-0.2, 0.2, (2,), float32)`: the move in metres, clipped to these bounds.

    ## Observation Space

    `Box` of shape (2,), float32. The bounds are as far as the point can get in an episode, in whole metres:

    | Num | Observation | Low | High | Unit |
    |---|---|---|---|---|
    | 0 | x | -21 | 21 | m |
    | 1 | y | -21 | 21 | m |

    ## Rewards

    With d the distance to the goal after the move: "dense" -d; "dense_squared" -d²; "sparse" the metres by which the
    move came closer to the goal (negative if it led away), paid where |x| + |y| >= 0.5 after the move and no other
    corner is nearer than the goal, else 0.

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

    There are four training goals, (±2, ±2), equally likely, and they are enumerated: three are for training and one
    for testing. ProMP trains and tests on all four, which is `split=None`. ood: goals uniform on the arcs of the
    circle through the corners that are more than 10 degrees away from every corner; the other "corners" are then the
    goal's quarter turns.

    ## Reference Returns

    Optimal, for an agent that knows the goal, averaged over starts. "dense" -12.88 and "dense_squared" -23.05, from
    closing in along both axes as fast as one can, summed over a grid of 32 x 32 starts. "sparse" 15.30: the best plan
    on a lattice of 0.025 m, by dynamic programming. That is what such plans earn, and below the optimum by at most
    0.01 for goals in the corners: no plan earns more than 15.314, because a step pays at most 0.2 sqrt(2) = c,
    what is paid again was walked back for free at c a step, and at most 54 c are left after a first unpaid step. Going
    straight to the corner earns only 2.62, since the reward can be farmed: the way back into the silent ball around
    the origin costs nothing, and the way out is paid again. Random: "dense_squared", which depends on second moments
    alone, -937; else not given, they have no closed form.

    ## References

    Rothfuss et al. 2019, "ProMP: Proximal Meta-Policy Search"; jonasrothfuss/ProMP,
    `meta_policy_search/envs/point_envs/point_env_2d_corner.py`, with 100 steps.

    Differs: the source holds a rule that ends episodes at coordinates above 3, and does not call it; neither does
    this. Held-out corners and the ood region are additions. Observations are bounded, where the source declares an
    infinite box.

    ## Version History

    - v0: first version.
    """

    name = "PointCorner"
    params_type = CornerParams
    structural = ("goal",)
    num_structure_draws = 1
    radius = 0.5

    def __init__(self, *, reward: str = "sparse", episode_length: int = 100) -> None:
        super().__init__(reward, episode_length)
        self.task_space = spaces.Dict(goal=spaces.Box(-3.0, 3.0, (2,), np.float64))

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        return {"goal": draw_goals(noise[:, 0], region)}

    @override
    def enumerate_structures(self) -> tuple[dict[str, Array], Float]:
        return {"goal": CORNERS.copy()}, np.full(4, 0.25)

    @override
    def check(self, params: CornerParams) -> None:
        check_radius("goal", params.goal[0], FAR)

    @override
    def _pays(self, position: Float, distance: Float, params: CornerParams) -> Bool:
        return is_paid(position, params.goal, self.radius)

    @override
    def optimal_return(self, params: CornerParams) -> Float:
        plan = (START, STRIDE, self.episode_length)
        if self.reward == "sparse":
            goals = params.goal.tolist()
            return np.array([best_sparse_return((x, y), *plan, radius=self.radius) for x, y in goals])
        squared = self.reward == "dense_squared"
        return np.array([best_dense_return(goal, *plan, squared=squared) for goal in params.goal])

    @override
    def random_return(self, params: CornerParams) -> Float | None:
        if self.reward != "dense_squared":
            return None
        # E |p_t - g|² = |g|² + 2 Var(start) + 2 t Var(move): all are centred, and uniform on 0.4 m along each axis.
        variance, num_steps = (2.0 * STRIDE) ** 2 / 12.0, self.episode_length
        spread = 2.0 * variance * (num_steps + num_steps * (num_steps + 1) / 2.0)
        square = params.goal * params.goal
        return -(num_steps * (square[:, 0] + square[:, 1]) + spread)

    @override
    def draw(self, state: Place, params: CornerParams) -> Array:
        image = canvas(SIDE, SIDE)
        if self.reward == "sparse":
            (x, y), far = params.goal[0], 4.0 * VIEW
            right, left = np.array([x + y, y - x]) / FAR, np.array([x - y, x + y]) / FAR
            fill_polygon(image, [pixel(far * place) for place in (np.zeros(2), right, left)], "goal", alpha=0.12)
            ball = self.radius * np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
            fill_polygon(image, [pixel(place) for place in ball], "grid")
        turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
        for corner in (params.goal[0] @ turn, -params.goal[0], turn @ params.goal[0]):
            fill_ring(image, *pixel(corner), 7, "grey")
        draw_scene(image, state.position[0], params.goal[0])
        return image
