"""Acrobot with hidden physical constants: Gymnasium's Acrobot as a family of tasks."""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from typing_extensions import override

from metagym.compiled import Namespace, RowWise
from metagym.envs.arguments import flag, integer
from metagym.envs.physics import PhysicsFamily, Span
from metagym.family import Params, Step
from metagym.render import canvas, draw_line, fill_disc
from metagym.types import Array, Float

__all__ = ["Acrobot", "AcrobotParams", "AcrobotState", "Mechanics"]

_DT = 0.2
"""Time between two steps, s."""
_MAX_SPEEDS = 4.0 * pi, 9.0 * pi


@dataclass(frozen=True)
class AcrobotParams(Params):
    """Columns of N acrobots, each (N,)."""

    link_length_1: Float
    """Length of the upper link, m."""
    link_length_2: Float
    """Length of the lower link, m."""
    link_mass_1: Float
    """Mass of the upper link, kg."""
    link_mass_2: Float
    """Mass of the lower link, kg."""
    link_com_1: Float
    """Where the centre of mass of the upper link lies, as a share of its length from the joint above it."""
    link_com_2: Float
    """The same of the lower link."""
    link_moi: Float
    """Moment of inertia of each link about its centre of mass, kg m²."""
    gravity: Float
    """m/s²."""

    @property
    def mechanics(self) -> "Mechanics":
        """The combinations that the equations of motion are made of."""
        lengths, masses = (self.link_length_1, self.link_length_2), (self.link_mass_1, self.link_mass_2)
        combined = _mechanics(*lengths, *masses, self.link_com_1, self.link_com_2, self.link_moi, self.gravity)
        return Mechanics._make((*combined, self.link_mass_2, self.link_moi))


class Mechanics(NamedTuple):
    """Combinations of an acrobot's constants, each (N,); "lever" is the distance of a centre of mass to its joint."""

    inertia_1: Float
    """Mass 1 times lever 1 squared."""
    arms: Float
    """Length 1 squared plus lever 2 squared."""
    twice_coupling: Float
    """Twice length 1 times lever 2."""
    coupling: Float
    """Length 1 times lever 2."""
    lever_square: Float
    """Lever 2 squared."""
    inertia_2: Float
    """Of the lower link about its joint."""
    pull_1: Float
    """Torque of gravity on the upper joint while the upper link is level and the lower one upright."""
    pull_2: Float
    """Torque of gravity on the lower joint while the lower link is level."""
    mass_coupling: Float
    """Mass 2 times length 1 times lever 2."""
    mass_2: Float
    """Mass of the lower link."""
    moi: Float
    """Moment of inertia of each link about its centre of mass."""


class AcrobotState(NamedTuple):
    """Where the links are."""

    theta_1: Float
    """Angle of the upper link from hanging down, in [-pi, pi], rad, (N,)."""
    theta_2: Float
    """Angle of the lower link from the direction of the upper one, in [-pi, pi], rad, (N,)."""
    theta_1_dot: Float
    """Angular velocity of the upper link, rad/s, (N,)."""
    theta_2_dot: Float
    """Angular velocity of the lower link against the upper one, rad/s, (N,)."""


class Acrobot(PhysicsFamily[AcrobotState, AcrobotParams]):
    """Acrobot: swing two links up by a torque between them, where lengths, masses, inertia and gravity are hidden.

    The equations (those of Sutton and Barto's book), the Runge-Kutta step, rewards and starts are those of Gymnasium's
    Acrobot-v1. `Acrobot.nominal()` is the task whose constants are Gymnasium's.

    ## Task Space

    | Parameter | Shape | Low | High | Unit | Nominal | Meaning |
    |---|---|---|---|---|---|---|
    | link_length_1 | () | 0.5 | 2 | m | 1 | length of the upper link |
    | link_length_2 | () | 0.5 | 2 | m | 1 | length of the lower link |
    | link_mass_1 | () | 0.5 | 2 | kg | 1 | mass of the upper link |
    | link_mass_2 | () | 0.5 | 2 | kg | 1 | mass of the lower link |
    | link_com_1 | () | 0.25 | 0.75 | length | 0.5 | centre of mass of the upper link, from the pivot |
    | link_com_2 | () | 0.25 | 0.75 | length | 0.5 | centre of mass of the lower link, from the joint |
    | link_moi | () | 0.5 | 2 | kg m² | 1 | moment of inertia of each link |
    | gravity | () | 2 | 15 | m/s² | 9.8 | gravity |

    ## Action Space

    `Discrete(3)`: torque of -1, 0 or 1 N m on the joint between the links.

    ## Observation Space

    `Box` of shape (6,), float32. The velocities' bounds are 4 pi and 9 pi in single precision:

    | Num | Observation | Low | High | Unit |
    |---|---|---|---|---|
    | 0 | cosine of the upper angle | -1 | 1 | |
    | 1 | sine of the upper angle | -1 | 1 | |
    | 2 | cosine of the lower angle | -1 | 1 | |
    | 3 | sine of the lower angle | -1 | 1 | |
    | 4 | upper angular velocity | -12.566370964050293 | 12.566370964050293 | rad/s |
    | 5 | lower angular velocity | -28.274333953857422 | 28.274333953857422 | rad/s |

    ## Rewards

    -1 for every step, 0 for the one that reaches the height.

    ## Starting State

    Both angles and velocities uniform on [-0.1, 0.1], hanging down.

    ## Episode End

    Terminated when the free end is higher above the pivot than the upper link is long:
    -length_1 cos(theta_1) - length_2 cos(theta_1 + theta_2) > length_1. Truncated after `episode_length` steps.

    ## Information

    `is_success`: whether this step reached the height.

    ## Arguments

    - `episode_length`: steps, 1 to 100,000; 500 as in Acrobot-v1.
    - `compiled`: whether numba compiles the equations; needs `pip install "metagym-rl[compiled]"`. Results are the
      same to the last bit.

    ## Splits

    train and test: the constants are independent and uniform on these intervals; the two are disjoint by a hash of
    all eight.

    | Parameter | Low | High |
    |---|---|---|
    | link_length_1 | 0.75 | 1.5 |
    | link_length_2 | 0.75 | 1.5 |
    | link_mass_1 | 0.75 | 1.5 |
    | link_mass_2 | 0.75 | 1.5 |
    | link_com_1 | 0.4 | 0.6 |
    | link_com_2 | 0.4 | 0.6 |
    | link_moi | 0.75 | 1.5 |
    | gravity | 5 | 12 |

    ood: one constant, each as likely, is uniform on the part of the task space beyond its training interval, and the
    others are uniform on the whole task space.

    ## Reference Returns

    Optimal: not given; it has no closed form. A torque along the velocity of the lower joint reaches the height within
    500 steps in 99 % of training tasks, after 119 steps on average, and in 91 % of ood tasks. Random: not given.

    ## References

    Sutton 1996, "Generalization in reinforcement learning: successful examples using sparse coarse coding"; Sutton and
    Barto, "Reinforcement Learning: An Introduction"; Farama-Foundation/Gymnasium 1.4.0,
    `gymnasium/envs/classic_control/acrobot.py`. FutureAGI/Xenoverse, `xenoverse/metacontrol/random_acrobot.py`
    (lengths and masses 0.5 to 3, centres of mass 0.25 to 0.75, gravity 1 to 15); automl/CARL,
    `carl/envs/gymnasium/classic_control/carl_acrobot.py` (lengths, masses and inertia 0.1 to 10).

    Differs: from Gymnasium, the height of the free end counts the lengths of the links, which there are 1 in the rule
    for the end whatever they are set to. Centres of mass are shares of the lengths, there metres, so that the lower
    link's length has an effect on the motion; there it has none. From Xenoverse, the height is compared in metres,
    where its rule compares a sum of two cosines with a length, actions are not repeated five times, and the moment of
    inertia is a constant of its own. From CARL, largest velocities and starts are fixed, and the constants are not
    observed.

    ## Version History

    - v0: first version.
    """

    name = "Acrobot"
    params_type = AcrobotParams
    spans = MappingProxyType(
        {
            "link_length_1": Span(1.0, (0.75, 1.5), (0.5, 2.0)),
            "link_length_2": Span(1.0, (0.75, 1.5), (0.5, 2.0)),
            "link_mass_1": Span(1.0, (0.75, 1.5), (0.5, 2.0)),
            "link_mass_2": Span(1.0, (0.75, 1.5), (0.5, 2.0)),
            "link_com_1": Span(0.5, (0.4, 0.6), (0.25, 0.75)),
            "link_com_2": Span(0.5, (0.4, 0.6), (0.25, 0.75)),
            "link_moi": Span(1.0, (0.75, 1.5), (0.5, 2.0)),
            "gravity": Span(9.8, (5.0, 12.0), (2.0, 15.0)),
        }
    )
    has_success = True
    num_initial_draws = 4

    def __init__(self, *, episode_length: int = 500, compiled: bool = False) -> None:
        super().__init__()
        self.episode_length = integer("episode_length", episode_length, 1, 100_000)
        self.compiled = flag("compiled", compiled)
        self._accelerate = RowWise(_equations, "dd", compiled=self.compiled)
        self.action_space = spaces.Discrete(3)
        bounds = np.array([1.0, 1.0, 1.0, 1.0, *_MAX_SPEEDS], np.float32)
        self.observation_space = spaces.Box(-bounds, bounds, dtype=np.float32)

    @override
    def initial(self, params: AcrobotParams, noise: Float) -> AcrobotState:
        start = np.multiply(noise.T, 0.2, order="C") - 0.1
        # Gymnasium's starts are single numbers too.
        return AcrobotState(*start.astype(np.float32).astype(np.float64))

    @override
    def step(self, state: AcrobotState, action: Array, params: AcrobotParams, noise: Float) -> Step[AcrobotState]:
        torque, mechanics = action - 1.0, params.mechanics
        old = np.array(state)  # (4, N)
        first = self._slope(old, torque, mechanics)
        second = self._slope(old + _HALF_STEP * first, torque, mechanics)
        third = self._slope(old + _HALF_STEP * second, torque, mechanics)
        fourth = self._slope(old + _STEP * third, torque, mechanics)
        new = old + _SIXTH_STEP * (first + _TWO * second + _TWO * third + fourth)
        angles = _wrapped(new[:2])
        speeds = np.minimum(np.maximum(new[2:], -_SPEEDS), _SPEEDS)
        height = -params.link_length_1 * np.cos(angles[0]) - params.link_length_2 * np.cos(angles[1] + angles[0])
        arrived = height > params.link_length_1
        return Step(AcrobotState(*angles, *speeds), arrived - 1.0, arrived, arrived.copy())

    def _slope(self, state: Float, torque: Float, mechanics: Mechanics) -> Float:
        """Time derivative of a state, (4, N)."""
        theta_1, theta_2, theta_1_dot, theta_2_dot = state
        cosines = np.cos(np.array((theta_2, theta_1 + theta_2 - _QUARTER_TURN, theta_1 - _QUARTER_TURN)))
        accelerations = self._accelerate(theta_1_dot, theta_2_dot, np.sin(theta_2), *cosines, torque, *mechanics)
        return np.array((theta_1_dot, theta_2_dot, *accelerations))

    @override
    def observe(self, state: AcrobotState, params: AcrobotParams) -> Array:
        first, second, *speeds = state
        return np.array((np.cos(first), np.sin(first), np.cos(second), np.sin(second), *speeds), np.float32).T

    @override
    def describe(self, state: AcrobotState, params: AcrobotParams) -> str:
        first, second, first_dot, second_dot = (float(column[0]) for column in state)
        constants = ", ".join(f"{name} {column[0]:.4g}" for name, column in params.columns().items())
        return (
            f"upper link at {np.degrees(first):+.1f} degrees turning at {first_dot:+.2f} rad/s, "
            f"lower link at {np.degrees(second):+.1f} degrees turning at {second_dot:+.2f} rad/s\n{constants}\n"
        )

    @override
    def draw(self, state: AcrobotState, params: AcrobotParams) -> Array:
        side = 440
        lengths = float(params.link_length_1[0]), float(params.link_length_2[0])
        scale = side / (2.1 * sum(span.support[1] for name, span in self.spans.items() if "length" in name))
        upper = float(state.theta_1[0])
        image, x, y = canvas(side, side), side / 2, side / 2
        draw_line(image, 0, y - scale * lengths[0], side, y - scale * lengths[0], "goal", thickness=2)
        for length, angle, color in zip(
            lengths, (upper, upper + float(state.theta_2[0])), ("blue", "agent"), strict=True
        ):
            end_x, end_y = x + scale * length * float(np.sin(angle)), y + scale * length * float(np.cos(angle))
            draw_line(image, x, y, end_x, end_y, color, thickness=9)
            fill_disc(image, x, y, 6, "ink")
            x, y = end_x, end_y
        return image


_SPEEDS = np.array(_MAX_SPEEDS)[:, None]
# 0-d arrays: ufuncs take them faster than Python's numbers.
_HALF_STEP, _STEP, _SIXTH_STEP = np.array(0.5 * _DT), np.array(_DT), np.array(_DT / 6.0)
_TWO, _QUARTER_TURN, _HALF_TURN = np.array(2.0), np.array(pi / 2.0), np.array(pi)


def _wrapped(angles: Float) -> Float:
    """Angles in [-pi, pi]: one turn off or on as in Gymnasium, so that rounding is the same, and the rest at once."""
    if not np.count_nonzero(np.abs(angles) > _HALF_TURN):
        return angles
    angles = np.where(angles > pi, angles - 2.0 * pi, angles)
    angles = np.where(angles < -pi, angles + 2.0 * pi, angles)
    far = np.abs(angles) > pi
    if far.any():
        angles = np.where(far, (angles + pi) % (2.0 * pi) - pi, angles)
    return angles


def _combinations(xp: Namespace) -> Callable[..., tuple[Any, ...]]:
    """What `Mechanics` holds but for its last two, from the constants in the order of `AcrobotParams`."""
    del xp  # operators are all they need

    def combine(
        length_1: Any, length_2: Any, mass_1: Any, mass_2: Any, com_1: Any, com_2: Any, moi: Any, gravity: Any
    ) -> tuple[Any, ...]:
        lever_1, lever_2 = com_1 * length_1, com_2 * length_2
        return (
            mass_1 * (lever_1 * lever_1),
            length_1 * length_1 + lever_2 * lever_2,
            2.0 * length_1 * lever_2,
            length_1 * lever_2,
            lever_2 * lever_2,
            mass_2 * (lever_2 * lever_2) + moi,
            (mass_1 * lever_1 + mass_2 * length_1) * gravity,
            mass_2 * lever_2 * gravity,
            mass_2 * length_1 * lever_2,
        )

    return combine


_mechanics = RowWise(_combinations, "d" * (len(Mechanics._fields) - 2))


def _equations(xp: Namespace) -> Callable[..., tuple[Any, ...]]:
    """The book's equations of motion, with Gymnasium's operations in Gymnasium's order."""
    del xp  # operators are all they need

    def accelerate(
        theta_1_dot: Any, theta_2_dot: Any, sin_2: Any, cos_2: Any, sin_12: Any, sin_1: Any, torque: Any,
        inertia_1: Any, arms: Any, twice_coupling: Any, coupling: Any, lever_square: Any, inertia_2: Any,
        pull_1: Any, pull_2: Any, mass_coupling: Any, mass_2: Any, moi: Any,
    ) -> tuple[Any, Any]:  # fmt: skip
        d1 = inertia_1 + mass_2 * (arms + twice_coupling * cos_2) + moi + moi
        d2 = mass_2 * (lever_square + coupling * cos_2) + moi
        phi2 = pull_2 * sin_12
        phi1 = (
            -mass_coupling * (theta_2_dot * theta_2_dot) * sin_2
            - 2.0 * mass_coupling * theta_2_dot * theta_1_dot * sin_2
            + pull_1 * sin_1
            + phi2
        )
        share = d2 / d1
        theta_2_acc = (torque + share * phi1 - mass_coupling * (theta_1_dot * theta_1_dot) * sin_2 - phi2) / (
            inertia_2 - d2 * d2 / d1
        )
        return -(d2 * theta_2_acc + phi1) / d1, theta_2_acc

    return accelerate
