"""Point navigation in a wind that is not seen, to a goal that never moves."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from gymnasium import spaces
from typing_extensions import override

from metagym.envs.arguments import integer
from metagym.family import Family, Params, Region, Step
from metagym.render import canvas, draw_arrow, fill_disc
from metagym.types import Array, Float

__all__ = ["Drifter", "PointWind", "PointWindParams"]

_GOAL = np.array([0.0, 1.0])
_RADIUS = 0.03
"""Of the disc around the goal in which rewards are paid, metres."""
_STRIDE = 0.1
"""Furthest move along each axis in one step, metres."""
_WIND, _OOD_WIND = 0.08, 0.1
"""Strongest wind along each axis, metres a step."""


@dataclass(frozen=True)
class PointWindParams(Params):
    """Columns of N winds."""

    wind: Float
    """What is added to every move, metres, (N, 2)."""


class Drifter(NamedTuple):
    """Where the point is."""

    position: Float
    """Metres, (N, 2)."""


class PointWind(Family[Drifter, PointWindParams]):
    """A point must get to a goal and stay there, in a wind that it does not see but drifts with.

    ## Task Space

    | Parameter | Shape | Low | High | Unit | Meaning |
    |---|---|---|---|---|---|
    | wind | (2,) | -0.1 | 0.1 | m | what is added to the position in every step |

    ## Action Space

    `Box(-0.1, 0.1, (2,), float32)`: the move in metres, clipped to these bounds.

    ## Observation Space

    `Box` of shape (2,), float32. The bounds are as far as the point can get in an episode:

    | Num | Observation | Low | High | Unit |
    |---|---|---|---|---|
    | 0 | x | -15 | 15 | m |
    | 1 | y | -15 | 15 | m |

    ## Rewards

    1 for every step that ends within 0.03 m of the goal, which is at (0, 1) in all tasks and not observed; else 0.

    ## Starting State

    The origin.

    ## Episode End

    Never terminated. Truncated after `episode_length` steps.

    ## Information

    `is_success`: whether this step ended within the disc around the goal.

    ## Arguments

    - `episode_length`: steps, 1 to 100,000. In the source, one episode is all there is of a trial.

    ## Splits

    train and test: winds uniform on [-0.08, 0.08]², disjoint by a hash of the wind. ood: uniform on [-0.1, 0.1]²
    without that square. Every one of these winds can be held against; where one blows down at 0.087 or more, the goal
    is too far for an episode of 75 steps.

    ## Reference Returns

    Exact. Optimal, for an agent that knows the wind (w_x, w_y): holding x = 0 and going up by 0.1 + w_y a step, it is
    in the disc after n = ceil(0.97 / (0.1 + w_y)) steps, no policy is there sooner, and it can stay: 76 - n of 75
    steps are paid. Averaged over training winds 62.19. The Bayes-optimal agent, which knows the goal but not the
    wind, earns as much: its first move is straight up, the move it then sees tells the wind, and six steps are
    enough to be blown aside by 0.08 and come back. Random: not given, it has no closed form.

    ## References

    Ni et al. 2022, "Recurrent Model-Free RL Can Be a Strong Baseline for Many POMDPs"; twni2016/pomdp-baselines,
    `envs/meta/toy_navigation/wind.py` and `configs/meta/wind/rnn.yml`.

    Differs: winds are drawn afresh, where the source keeps a finite set, 40 to train and 20 to evaluate. Actions are
    clipped here, where the source relies on policies that stay within bounds. Observations are bounded, where the
    source declares an infinite box. The ood region is an addition.

    ## Version History

    - v0: first version.
    """

    name = "PointWind"
    params_type = PointWindParams
    structural = ("wind",)
    has_success = True
    initial_needs_task = False
    observe_needs_task = False
    num_structure_draws = 2

    def __init__(self, *, episode_length: int = 75) -> None:
        self.episode_length = integer("episode_length", episode_length, 1, 100_000)
        reach = (_STRIDE + _OOD_WIND) * self.episode_length
        self.task_space = spaces.Dict(wind=spaces.Box(-_OOD_WIND, _OOD_WIND, (2,), np.float64))
        self.action_space = spaces.Box(-_STRIDE, _STRIDE, (2,), np.float32)
        self.observation_space = spaces.Box(-reach, reach, (2,), np.float32)

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        if region == "train":
            return {"wind": _WIND * (2.0 * noise - 1.0)}
        # The frame around the training square is four equal strips, each a turn of the upper one.
        turn, thickness = np.floor(4.0 * noise[:, :1]), _OOD_WIND - _WIND
        along = (_OOD_WIND + _WIND) * (4.0 * noise[:, :1] - turn) - _OOD_WIND
        across = np.maximum(_OOD_WIND - thickness * noise[:, 1:], np.nextafter(_WIND, 1.0))
        upper = np.where(turn % 2.0 == 0.0, np.hstack([along, across]), np.hstack([across, -along]))
        return {"wind": np.where(turn < 2.0, upper, -upper)}

    @override
    def initial(self, params: PointWindParams, noise: Float) -> Drifter:
        return Drifter(np.zeros((len(noise), 2)))

    @override
    def step(self, state: Drifter, action: Array, params: PointWindParams, noise: Float) -> Step[Drifter]:
        # In double precision first: the single 0.1 is a little more than 0.1.
        position = np.minimum(np.maximum(action.astype(np.float64), -_STRIDE), _STRIDE)
        position += params.wind
        position += state.position
        offset = position - _GOAL
        offset *= offset
        success = offset[:, 0] + offset[:, 1] <= _RADIUS * _RADIUS
        return Step(Drifter(position), success.astype(np.float64), np.zeros(len(success), np.bool_), success)

    @override
    def observe(self, state: Drifter, params: PointWindParams) -> Array:
        return state.position.astype(np.float32)

    @override
    def optimal_return(self, params: PointWindParams) -> Float:
        with np.errstate(divide="ignore"):
            num_steps = np.ceil((_GOAL[1] - _RADIUS) / (_STRIDE + params.wind[:, 1]))
        paid: Float = np.maximum(self.episode_length + 1.0 - num_steps, 0.0)
        return paid

    @override
    def bayes_return(self, num_episodes: int) -> Float:
        way = _GOAL[1] - _RADIUS
        first = int(np.ceil(way / (_STRIDE + _WIND)))
        num_steps = np.arange(first, self.episode_length + 1)
        # In the disc after at most n steps: w_y is at least way / n - 0.1.
        arrived = np.clip((_WIND + _STRIDE - way / num_steps) / (2.0 * _WIND), 0.0, 1.0)
        return np.full(num_episodes, arrived.sum())

    @override
    def describe(self, state: Drifter, params: PointWindParams) -> str:
        (x, y), (wind_x, wind_y) = state.position[0].tolist(), params.wind[0].tolist()
        distance = float(np.hypot(x, y - 1.0))
        return f"at ({x:+.3f}, {y:+.3f}), wind ({wind_x:+.3f}, {wind_y:+.3f}), {distance:.3f} m from the goal\n"

    @override
    def draw(self, state: Drifter, params: PointWindParams) -> Array:
        side, pixels, middle = 400, 220.0, 310.0
        image = canvas(side, side)
        for y in np.arange(40.0, side, 80.0):
            for x in np.arange(40.0, side, 80.0):
                push = 4.0 * pixels * params.wind[0]
                tail, tip = (x - push[0] / 2, y + push[1] / 2), (x + push[0] / 2, y - push[1] / 2)
                draw_arrow(image, *tail, *tip, "sky", thickness=2, head=10, alpha=0.6)
        fill_disc(image, side / 2, middle - pixels, _RADIUS * pixels, "goal")
        place = side / 2 + pixels * state.position[0, 0], middle - pixels * state.position[0, 1]
        x, y = np.clip(place, 8.0, side - 8.0)  # at the border if it has left the picture
        fill_disc(image, x, y, 8, "white")
        fill_disc(image, x, y, 6, "agent")
        return image
