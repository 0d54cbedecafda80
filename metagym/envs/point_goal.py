"""Point navigation: find a hidden goal on a plane, from the reward alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
from gymnasium import spaces
from typing_extensions import override

from metagym.envs.arguments import choice_of, integer
from metagym.family import Family, Params, Region, Step
from metagym.render import canvas, draw_line, fill_disc
from metagym.types import Array, Float

__all__ = ["VARIANTS", "Point", "PointGoal", "PointGoalParams", "Variant"]

_STRIDE = 0.1
"""Furthest move along each axis in one step, metres, in every variant."""
_NEAR = 0.01
"""The episode ends where both coordinates are closer to the goal's than this, metres."""
_RADIUS = 0.2
"""Of the disc around the goal in which sparse rewards are paid, metres."""
_GRID = 128


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The constants in which published versions of this task differ."""

    goals: Literal["square", "semicircle"]
    extent: float
    """Half the side of the square, or the radius of the half circle, metres."""
    episode_length: int
    start_low: tuple[float, float] = (0.0, 0.0)
    start_high: tuple[float, float] = (0.0, 0.0)
    action_limit: float = _STRIDE
    """Action that moves by 0.1 m."""
    reward: Literal["distance", "closeness", "presence"] = "distance"
    ends_at_goal: bool = False


VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "maml": Variant(goals="square", extent=0.5, episode_length=100, ends_at_goal=True),
        "promp": Variant(goals="square", extent=2.0, episode_length=100, ends_at_goal=True),
        "pearl": Variant(goals="square", extent=1.0, episode_length=20, start_low=(-1.0, -1.0), start_high=(1.0, 1.0)),
        "pearl_sparse": Variant(goals="semicircle", extent=1.0, episode_length=20, reward="closeness"),
        "varibad_sparse": Variant(
            goals="semicircle", extent=1.0, episode_length=100, action_limit=1.0, reward="closeness"
        ),
        "semicircle": Variant(
            goals="semicircle",
            extent=1.0,
            episode_length=60,
            start_low=(-1.5, -0.5),
            start_high=(1.5, 1.5),
            reward="presence",
        ),
    }
)


@dataclass(frozen=True)
class PointGoalParams(Params):
    """Columns of N goals."""

    goal: Float
    """Position of the goal, metres, (N, 2)."""


class Point(NamedTuple):
    """Where the point is."""

    position: Float
    """Metres, (N, 2)."""


class PointGoal(Family[Point, PointGoalParams]):
    """Point navigation: a point on a plane must find a goal that it does not see, from the reward alone.

    ## Task Space

    | Parameter | Shape | Low | High | Unit | Meaning |
    |---|---|---|---|---|---|
    | goal | (2,) | -1 | 1 | m | position of the goal |

    The bounds are twice the half-width of the variant's square, or the radius of its circle.

    ## Action Space

    `Box(-0.1, 0.1, (2,), float32)`: the move in metres, clipped to these bounds. With `variant="varibad_sparse"`,
    `Box(-1, 1, (2,), float32)`, in tenths of a metre.

    ## Observation Space

    `Box` of shape (2,), float32. The bounds are as far as the point can get in an episode:

    | Num | Observation | Low | High | Unit |
    |---|---|---|---|---|
    | 0 | x | -10 | 10 | m |
    | 1 | y | -10 | 10 | m |

    ## Rewards

    With d the distance to the goal after the move: "maml", "promp" and "pearl" -d; "pearl_sparse" and
    "varibad_sparse" 1 - d if d <= 0.2, else 0; "semicircle" 1 if d <= 0.2, else 0.

    ## Starting State

    The origin; uniform on [-1, 1]² in "pearl", and on [-1.5, 1.5] x [-0.5, 1.5] in "semicircle".

    ## Episode End

    "maml" and "promp": terminated when both coordinates are within 0.01 of the goal's. Truncated after
    `episode_length` steps.

    ## Information

    `is_success`, in all variants but "pearl": whether this step ended at the goal ("maml", "promp"), or within the
    distance of 0.2 in which rewards are paid. "pearl" defines no success.

    ## Arguments

    - `variant`: one of the published versions below. Every move is at most 0.1 m along each axis.
    - `episode_length`: steps, 1 to 100,000; by default the variant's.

    | Variant | Start | Goals | Steps | Reward | Source |
    |---|---|---|---|---|---|
    | maml | origin | uniform on [-0.5, 0.5]² | 100 | -d | MAML |
    | promp | origin | uniform on [-2, 2]² | 100 | -d | ProMP |
    | pearl | uniform on [-1, 1]² | uniform on [-1, 1]² | 20 | -d | PEARL |
    | pearl_sparse | origin | upper unit half circle | 20 | 1 - d within 0.2 | PEARL |
    | varibad_sparse | origin | upper unit half circle | 100 | 1 - d within 0.2 | variBAD |
    | semicircle | uniform on a rectangle | upper unit half circle | 60 | 1 within 0.2 | BOReL |

    ## Splits

    train and test: goals as in the table, uniform in angle on the half circle; disjoint by a hash of the goal. ood:
    uniform on the square of twice the half-width without the training square; for half circles, the lower half.

    ## Reference Returns

    Optimal, for an agent that knows the goal: moving straight to the goal's x and y, each as fast as it goes, makes
    the distance after every step as small as it can be; rewards never rise with distance, and ending early only saves
    negative ones, so no policy does better. The return of that is summed in closed form, and is exact for variants
    that start at the origin; for "pearl" and "semicircle" it is averaged over a grid of 128 x 128 starts, which is
    within 0.001 and 0.02 of the integral. Averaged over training goals: "maml" -0.506 (standing still: -38.26),
    "promp" -10.23, "pearl" -5.19, "pearl_sparse" 13.38, "varibad_sparse" 93.38, "semicircle" 51.82. Random: not
    given, it has no closed form.

    ## References

    MAML: Finn et al. 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", section 5.3;
    cbfinn/maml_rl, `point_env_randgoal.py`, and tristandeleu/pytorch-maml-rl, `maml_rl/envs/navigation.py`.
    ProMP: Rothfuss et al. 2019; jonasrothfuss/ProMP, `point_env_2d_v2.py`.
    PEARL: Rakelly et al. 2019; katerakelly/oyster, `rlkit/envs/point_robot.py`.
    variBAD: Zintgraf et al. 2020; lmzintgraf/varibad, `environments/navigation/point_robot.py`.
    BOReL: Dorfman et al. 2021; Rondorf/BOReL, `environments/toy_navigation/point_robot.py`, as also used by
    twni2016/pomdp-baselines.

    Differs: "maml" follows the released code, not the paper, which states the negative squared distance. "promp"
    ends at the goal, where ProMP's code ends near the origin, whatever the goal. "pearl", "pearl_sparse" and
    "semicircle" clip actions, which the sources leave to their wrappers, and draw goals afresh where the sources keep
    a finite set of them (100, cut 80 to 20); "pearl_sparse" always pays the sparse reward, where PEARL meta-trains on
    -d. Observations are bounded, where the sources declare infinite boxes.

    ## Version History

    - v0: first version.
    """

    name = "PointGoal"
    params_type = PointGoalParams
    structural = ("goal",)
    initial_needs_task = False
    num_structure_draws = 2

    def __init__(self, *, variant: str = "maml", episode_length: int | None = None) -> None:
        self.variant = choice_of("variant", variant, list(VARIANTS))
        self.constants = constants = VARIANTS[self.variant]
        if episode_length is None:
            self.episode_length = constants.episode_length
        else:
            self.episode_length = integer("episode_length", episode_length, 1, 100_000)
        self.has_success = constants.ends_at_goal or constants.reward != "distance"
        self._start_low = np.array(constants.start_low)
        self._start_width = np.array(constants.start_high) - self._start_low
        self.num_initial_draws = 2 if self._start_width.any() else 0
        reach = _STRIDE * self.episode_length
        limit = constants.action_limit
        support = 2.0 * constants.extent if constants.goals == "square" else constants.extent
        self._longest_way = int(np.ceil((support + np.abs(constants.start_high).max()) / _STRIDE)) + 1
        self.task_space = spaces.Dict(goal=spaces.Box(-support, support, (2,), np.float64))
        self.action_space = spaces.Box(-limit, limit, (2,), np.float32)
        self.observation_space = spaces.Box(
            (self._start_low - reach).astype(np.float32),
            (np.array(constants.start_high) + reach).astype(np.float32),
            dtype=np.float32,
        )

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        extent = self.constants.extent
        if self.constants.goals == "semicircle":
            turn = noise[:, 0] if region == "train" else noise[:, 0] - 1.0
            return {"goal": extent * _unit_vectors(np.pi * turn)}
        return {"goal": extent * (2.0 * noise - 1.0 if region == "train" else _square_frame(noise))}

    @override
    def initial(self, params: PointGoalParams, noise: Float) -> Point:
        if not self.num_initial_draws:
            return Point(np.zeros((len(noise), 2)))
        return Point(self._start_low + self._start_width * noise)

    @override
    def step(self, state: Point, action: Array, params: PointGoalParams, noise: Float) -> Step[Point]:
        limit = self.constants.action_limit
        # In double precision first: the single 0.1 is a little more than 0.1.
        move = np.minimum(np.maximum(action.astype(np.float64), -limit), limit)
        position = state.position + move * (_STRIDE / limit)
        offset = position - params.goal
        square = offset * offset
        distance = np.sqrt(square[:, 0] + square[:, 1])
        if self.constants.ends_at_goal:
            near = np.abs(offset) < _NEAR
            arrived = near[:, 0] & near[:, 1]
            return Step(Point(position), -distance, arrived, arrived.copy())
        success = distance <= _RADIUS if self.has_success else None
        return Step(Point(position), self._reward(distance), np.zeros(len(distance), np.bool_), success)

    def _reward(self, distance: Float) -> Float:
        if self.constants.reward == "distance":
            return -distance
        inside = distance <= _RADIUS
        return inside * (1.0 - distance) if self.constants.reward == "closeness" else inside.astype(np.float64)

    @override
    def observe(self, state: Point, params: PointGoalParams) -> Array:
        return state.position.astype(np.float32)

    @override
    def optimal_return(self, params: PointGoalParams) -> Float:
        if not self.num_initial_draws:
            return self._best_return(np.abs(params.goal))
        place = (np.arange(_GRID) + 0.5) / _GRID
        starts = self._start_low + self._start_width * np.stack(np.meshgrid(place, place), axis=2).reshape(-1, 2)
        return np.array([self._best_return(np.abs(goal - starts)).mean() for goal in params.goal])

    def _best_return(self, offset: Float) -> Float:
        """Largest return from `offset` = abs(goal - start), (N, 2): each axis closes in by 0.1 m a step, (N,)."""
        total, running = np.zeros(len(offset)), np.ones(len(offset), dtype=np.bool_)
        for elapsed in range(1, min(self.episode_length, self._longest_way) + 1):
            rest = np.maximum(offset - _STRIDE * elapsed, 0.0)
            total += running * self._reward(np.sqrt(rest[:, 0] ** 2 + rest[:, 1] ** 2))
            if self.constants.ends_at_goal:
                running &= ~((rest[:, 0] < _NEAR) & (rest[:, 1] < _NEAR))
        at_goal = max(self.episode_length - self._longest_way, 0) * self._reward(np.zeros(1))
        return total + running * at_goal

    @override
    def describe(self, state: Point, params: PointGoalParams) -> str:
        (x, y), (goal_x, goal_y) = state.position[0].tolist(), params.goal[0].tolist()
        distance = float(np.hypot(x - goal_x, y - goal_y))
        return f"at ({x:+.3f}, {y:+.3f}), goal ({goal_x:+.3f}, {goal_y:+.3f}), distance {distance:.3f} m\n"

    @override
    def draw(self, state: Point, params: PointGoalParams) -> Array:
        side, constants = 400, self.constants
        half = 1.15 * max(2.0 * constants.extent, *constants.start_high)
        pixels = side / (2.0 * half)

        def place(point: Float) -> tuple[float, float]:
            return side / 2 + pixels * float(point[0]), side / 2 - pixels * float(point[1])

        image = canvas(side, side)
        for start, end in pairwise(_outline(constants)):
            draw_line(image, *place(start), *place(end), "grid", thickness=3)
        if constants.reward != "distance":
            fill_disc(image, *place(params.goal[0]), _RADIUS * pixels, "goal", alpha=0.25)
        fill_disc(image, *place(params.goal[0]), 7, "goal")
        fill_disc(image, *place(state.position[0]), 8, "white")
        fill_disc(image, *place(state.position[0]), 6, "agent")
        return image


def _unit_vectors(angle: Float) -> Float:
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _square_frame(noise: Float) -> Float:
    """Points uniform on [-2, 2]² without [-1, 1]², (n, 2): one of four 3 x 1 strips around the hole, then a place."""
    quarter = np.floor(4.0 * noise[:, 0])
    along = 3.0 * (4.0 * noise[:, 0] - quarter) - 2.0
    across = np.maximum(2.0 - noise[:, 1], np.nextafter(1.0, 2.0))
    horizontal, sign = (quarter < 2.0), np.where(quarter % 2.0 == 0.0, 1.0, -1.0)
    return np.stack([np.where(horizontal, along, -across), np.where(horizontal, across, along)], axis=1) * sign[:, None]


def _outline(constants: Variant) -> Float:
    """Around or along where training goals lie: points joined by lines, metres, (K, 2)."""
    if constants.goals == "semicircle":
        return constants.extent * _unit_vectors(np.linspace(0.0, np.pi, 65))
    return constants.extent * np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0]])
