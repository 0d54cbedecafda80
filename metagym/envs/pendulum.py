"""Pendulum with hidden physical constants: Gymnasium's Pendulum as a family of tasks."""

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
from metagym.render import canvas, draw_line, fill_disc, fill_ring
from metagym.types import Array, Float

__all__ = ["Pendulum", "PendulumParams", "PendulumState"]

_MAX_SPEED = 8.0
_MAX_TORQUE = 2.0


@dataclass(frozen=True)
class PendulumParams(Params):
    """Columns of N pendulums, each (N,)."""

    g: Float
    """Gravity, m/s²."""
    m: Float
    """Mass of the rod, kg."""
    l: Float  # noqa: E741 (Gymnasium's name)
    """Length of the rod, m."""
    dt: Float
    """Time between two steps, s."""

    @property
    def pull(self) -> Float:
        """Angular acceleration by gravity where the rod is level, 1/s², (N,)."""
        return 3.0 * self.g / (2.0 * self.l)

    @property
    def response(self) -> Float:
        """Angular acceleration by a torque of 1 N m, 1/s², (N,)."""
        return 3.0 / (self.m * (self.l * self.l))


class PendulumState(NamedTuple):
    """Where the rod is."""

    theta: Float
    """Angle from upright, rad, not wrapped, (N,)."""
    theta_dot: Float
    """Angular velocity, rad/s, (N,)."""


class Pendulum(PhysicsFamily[PendulumState, PendulumParams]):
    """Pendulum: swing a rod up and hold it, with too little torque, where gravity, mass, length and time are hidden.

    The equations, rewards and starts are those of Gymnasium's Pendulum-v1. `Pendulum.nominal()` is the task whose
    constants are Gymnasium's.

    ## Task Space

    | Parameter | Shape | Low | High | Unit | Nominal | Meaning |
    |---|---|---|---|---|---|---|
    | g | () | 2 | 20 | m/s² | 10 | gravity |
    | m | () | 0.25 | 3 | kg | 1 | mass of the rod |
    | l | () | 0.4 | 2 | m | 1 | length of the rod |
    | dt | () | 0.02 | 0.1 | s | 0.05 | time between two steps |

    ## Action Space

    `Box(-2.0, 2.0, (1,), float32)`: torque in N m, clipped to these bounds.

    ## Observation Space

    `Box` of shape (3,), float32:

    | Num | Observation | Low | High | Unit |
    |---|---|---|---|---|
    | 0 | cosine of the angle from upright | -1 | 1 | |
    | 1 | sine of the angle from upright | -1 | 1 | |
    | 2 | angular velocity | -8 | 8 | rad/s |

    ## Rewards

    -(angle² + 0.1 velocity² + 0.001 torque²), of the state before the step, with the angle in [-pi, pi) and the torque
    after clipping.

    ## Starting State

    Angle uniform on [-pi, pi], velocity on [-1, 1].

    ## Episode End

    Never terminated. Truncated after `episode_length` steps.

    ## Information

    No keys of its own.

    ## Arguments

    - `episode_length`: steps, 1 to 100,000; 200 as in Pendulum-v1.
    - `compiled`: whether numba compiles the equations; needs `pip install "metagym-rl[compiled]"`. Results are the
      same to the last bit.

    ## Splits

    train and test: the constants are independent and uniform on these intervals; the two are disjoint by a hash of
    all four.

    | Parameter | Low | High |
    |---|---|---|
    | g | 5 | 15 |
    | m | 0.5 | 2 |
    | l | 0.6 | 1.5 |
    | dt | 0.03 | 0.07 |

    ood: one constant, each as likely, is uniform on the part of the task space beyond its training interval, and the
    others are uniform on the whole task space.

    ## Reference Returns

    Optimal: not given; it has no closed form, and depends on the start. Random: not given.

    ## References

    Farama-Foundation/Gymnasium 1.4.0, `gymnasium/envs/classic_control/pendulum.py`. automl/CARL,
    `carl/envs/gymnasium/classic_control/carl_pendulum.py`, varies the same four constants, the largest speed and the
    starts, mostly without an upper bound.

    Differs: from Gymnasium, all is computed in double precision, where Gymnasium under NumPy 2 rounds what the torque
    contributes to single precision if the action is; with actions in double precision, trajectories are equal to the
    last bit. From CARL, the largest speed and the starts are fixed, and the constants are not observed.

    ## Version History

    - v0: first version.
    """

    name = "Pendulum"
    params_type = PendulumParams
    spans = MappingProxyType(
        {
            "g": Span(10.0, (5.0, 15.0), (2.0, 20.0)),
            "m": Span(1.0, (0.5, 2.0), (0.25, 3.0)),
            "l": Span(1.0, (0.6, 1.5), (0.4, 2.0)),
            "dt": Span(0.05, (0.03, 0.07), (0.02, 0.1)),
        }
    )
    num_initial_draws = 2

    def __init__(self, *, episode_length: int = 200, compiled: bool = False) -> None:
        super().__init__()
        self.episode_length = integer("episode_length", episode_length, 1, 100_000)
        self.compiled = flag("compiled", compiled)
        self._move = RowWise(_swing, "ddd", compiled=self.compiled)
        self.action_space = spaces.Box(-_MAX_TORQUE, _MAX_TORQUE, (1,), np.float32)
        bounds = np.array([1.0, 1.0, _MAX_SPEED], np.float32)
        self.observation_space = spaces.Box(-bounds, bounds, dtype=np.float32)

    @override
    def initial(self, params: PendulumParams, noise: Float) -> PendulumState:
        return PendulumState(2.0 * pi * noise[:, 0] - pi, 2.0 * noise[:, 1] - 1.0)

    @override
    def step(self, state: PendulumState, action: Array, params: PendulumParams, noise: Float) -> Step[PendulumState]:
        theta, theta_dot, reward = self._move(
            *state, np.sin(state.theta), action[:, 0].astype(np.float64), params.pull, params.response, params.dt
        )
        return Step(PendulumState(theta, theta_dot), reward, np.zeros(len(theta), np.bool_))

    @override
    def observe(self, state: PendulumState, params: PendulumParams) -> Array:
        return np.array((np.cos(state.theta), np.sin(state.theta), state.theta_dot), np.float32).T

    @override
    def describe(self, state: PendulumState, params: PendulumParams) -> str:
        theta, theta_dot = float(state.theta[0]), float(state.theta_dot[0])
        constants = ", ".join(f"{name} {column[0]:.4g}" for name, column in params.columns().items())
        angle = np.degrees((theta + pi) % (2.0 * pi) - pi)
        return f"{angle:+.1f} degrees from upright, turning at {theta_dot:+.3f} rad/s\n{constants}\n"

    @override
    def draw(self, state: PendulumState, params: PendulumParams) -> Array:
        side, theta = 400, float(state.theta[0])
        scale = side / (2.2 * self.spans["l"].support[1])
        length, middle = scale * float(params.l[0]), side / 2
        image = canvas(side, side)
        fill_ring(image, middle, middle, length, "grid", thickness=2)
        tip = middle - length * np.sin(theta), middle - length * np.cos(theta)
        draw_line(image, middle, middle, *tip, "vermillion", thickness=8.0 + 8.0 * float(params.m[0]))
        fill_disc(image, middle, middle, 4, "ink")
        return image


def _swing(xp: Namespace) -> Callable[..., tuple[Any, ...]]:
    """One step, with Gymnasium's operations in Gymnasium's order."""

    def move(
        theta: Any, theta_dot: Any, sin: Any, torque: Any, pull: Any, response: Any, dt: Any
    ) -> tuple[Any, Any, Any]:
        torque = xp.minimum(xp.maximum(torque, -_MAX_TORQUE), _MAX_TORQUE)
        angle = (theta + pi) % (2.0 * pi) - pi
        cost = angle * angle + 0.1 * (theta_dot * theta_dot) + 0.001 * (torque * torque)
        speed = theta_dot + (pull * sin + response * torque) * dt
        speed = xp.minimum(xp.maximum(speed, -_MAX_SPEED), _MAX_SPEED)
        return theta + speed * dt, speed, -cost

    return move
