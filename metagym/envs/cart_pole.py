"""Cart-pole with hidden physical constants: Gymnasium's CartPole as a family of tasks."""

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
from metagym.render import canvas, draw_line, fill_disc, fill_rect
from metagym.types import Array, Float

__all__ = ["CartPole", "CartPoleParams", "CartPoleState"]

X_LIMIT = 2.4
"""The episode ends where the cart is farther from the middle, m."""
THETA_LIMIT = 12 * 2 * pi / 360
"""The episode ends where the pole leans farther, rad."""
_VERIFIED_STEPS = 500
_PICTURE_HALF_WIDTH = 3.0


@dataclass(frozen=True)
class CartPoleParams(Params):
    """Columns of N cart-poles, each (N,)."""

    gravity: Float
    """m/s²."""
    masscart: Float
    """Mass of the cart, kg."""
    masspole: Float
    """Mass of the pole, kg."""
    length: Float
    """Half the length of the pole, m."""
    force_mag: Float
    """Force of a push, N."""
    tau: Float
    """Time between two steps, s."""

    @property
    def total_mass(self) -> Float:
        """Of cart and pole, kg, (N,)."""
        return self.masscart + self.masspole

    @property
    def polemass_length(self) -> Float:
        """Mass of the pole times half its length, kg m, (N,)."""
        return self.masspole * self.length


class CartPoleState(NamedTuple):
    """Where the cart and the pole are."""

    x: Float
    """Position of the cart, m, (N,)."""
    x_dot: Float
    """Velocity of the cart, m/s, (N,)."""
    theta: Float
    """Angle of the pole from upright, rad, (N,)."""
    theta_dot: Float
    """Angular velocity of the pole, rad/s, (N,)."""


class CartPole(PhysicsFamily[CartPoleState, CartPoleParams]):
    """Cart-pole: balance a pole on a cart whose masses, length, force, gravity and time step are hidden.

    The equations, rewards, ends and starts are those of Gymnasium's CartPole-v1. `CartPole.nominal()` is the task
    whose constants are Gymnasium's; on it, trajectories equal Gymnasium's to the last bit.

    ## Task Space

    | Parameter | Shape | Low | High | Unit | Nominal | Meaning |
    |---|---|---|---|---|---|---|
    | gravity | () | 2 | 18 | m/s² | 9.8 | gravity |
    | masscart | () | 0.4 | 2.5 | kg | 1 | mass of the cart |
    | masspole | () | 0.02 | 0.4 | kg | 0.1 | mass of the pole |
    | length | () | 0.2 | 1.5 | m | 0.5 | half the length of the pole |
    | force_mag | () | 5 | 15 | N | 10 | force of a push |
    | tau | () | 0.01 | 0.03 | s | 0.02 | time between two steps |

    ## Action Space

    `Discrete(2)`: 0 pushes the cart to the left, 1 to the right.

    ## Observation Space

    `Box` of shape (4,), float32:

    | Num | Observation | Low | High | Unit |
    |---|---|---|---|---|
    | 0 | position of the cart | -4.5 | 4.5 | m |
    | 1 | velocity of the cart | -64 | 64 | m/s |
    | 2 | angle of the pole from upright | -1.25 | 1.25 | rad |
    | 3 | angular velocity of the pole | -40 | 40 | rad/s |

    The bounds hold for every task of the space, whatever the actions: inside the limits of an episode accelerations
    are bounded by a and distances by d, so that speeds stay below a tau + sqrt(v0² + 2 a d), and one last step leads
    out of the limits. The largest such values over the space are 4.02, 60.6, 0.992 and 35.7.

    ## Rewards

    1 for every step, the last one included. With `sutton_barto_reward`, -1 for the step that ends the episode by
    termination and 0 for all others.

    ## Starting State

    All four numbers uniform on [-0.05, 0.05].

    ## Episode End

    Terminated when the cart is beyond 2.4 m or the pole beyond 12°, on either side. Truncated after `episode_length`
    steps.

    ## Information

    No keys of its own.

    ## Arguments

    - `sutton_barto_reward`: the rewards of Barto, Sutton and Anderson.
    - `episode_length`: steps, 1 to 100,000; 500 as in CartPole-v1.
    - `compiled`: whether numba compiles the equations; needs `pip install "metagym-rl[compiled]"`. Results are the
      same to the last bit.

    ## Splits

    train and test: the constants are independent and uniform on these intervals; the two are disjoint by a hash of
    all six.

    | Parameter | Low | High |
    |---|---|---|
    | gravity | 5 | 15 |
    | masscart | 0.5 | 2 |
    | masspole | 0.05 | 0.2 |
    | length | 0.25 | 1 |
    | force_mag | 7.5 | 12.5 |
    | tau | 0.015 | 0.025 |

    ood: one constant, each as likely, is uniform on the part of the task space beyond its training interval, and the
    others are uniform on the whole task space.

    ## Reference Returns

    Optimal, for an agent that knows the constants: `episode_length`, or 0 with `sutton_barto_reward`. No return can
    be larger. That it is reached for every task of the space is verified numerically, not proven: pushing towards the
    side that a linear-quadratic regulator asks for keeps the pole up for all 500 steps, on all 64 corners of the task
    space and on tasks drawn from inside, from the corners of the box of starts and from starts drawn inside it. Not
    given for episodes of more than 500 steps. Random: not given, it has no closed form.

    ## References

    Barto, Sutton and Anderson 1983, "Neuronlike adaptive elements that can solve difficult learning control problems";
    Farama-Foundation/Gymnasium 1.4.0, `gymnasium/envs/classic_control/cartpole.py`. Families of cart-poles:
    FutureAGI/Xenoverse, `xenoverse/metacontrol` (gravity 1 to 11, masscart 0.5 to 2, masspole 0.05 to 0.2, length
    0.25 to 1); automl/CARL, `carl/envs/gymnasium/classic_control/carl_cartpole.py` (the same six constants, partly
    without an upper bound).

    Differs: from Gymnasium, velocities have finite bounds, and stepping on after the end is undefined rather than
    worth 0. From Xenoverse, gravity is around its nominal value, force and time step vary as well, and starts are
    Gymnasium's. From CARL, all intervals are finite, training and test tasks are told apart, and the constants are not
    observed.

    ## Version History

    - v0: first version.
    """

    name = "CartPole"
    params_type = CartPoleParams
    spans = MappingProxyType(
        {
            "gravity": Span(9.8, (5.0, 15.0), (2.0, 18.0)),
            "masscart": Span(1.0, (0.5, 2.0), (0.4, 2.5)),
            "masspole": Span(0.1, (0.05, 0.2), (0.02, 0.4)),
            "length": Span(0.5, (0.25, 1.0), (0.2, 1.5)),
            "force_mag": Span(10.0, (7.5, 12.5), (5.0, 15.0)),
            "tau": Span(0.02, (0.015, 0.025), (0.01, 0.03)),
        }
    )
    num_initial_draws = 4

    def __init__(self, *, sutton_barto_reward: bool = False, episode_length: int = 500, compiled: bool = False) -> None:
        super().__init__()
        self.sutton_barto_reward = flag("sutton_barto_reward", sutton_barto_reward)
        self.episode_length = integer("episode_length", episode_length, 1, 100_000)
        self.compiled = flag("compiled", compiled)
        self._move = RowWise(_euler, "dddd?", compiled=self.compiled)
        self.action_space = spaces.Discrete(2)
        bounds = np.array([4.5, 64.0, 1.25, 40.0], np.float32)
        self.observation_space = spaces.Box(-bounds, bounds, dtype=np.float32)

    @override
    def initial(self, params: CartPoleParams, noise: Float) -> CartPoleState:
        start = np.multiply(noise.T, 0.1, order="C")  # whole columns side by side
        start -= 0.05
        return CartPoleState(*start)

    @override
    def step(self, state: CartPoleState, action: Array, params: CartPoleParams, noise: Float) -> Step[CartPoleState]:
        theta = state.theta
        *moved, terminated = self._move(
            *state, np.sin(theta), np.cos(theta), action, params.gravity, params.masspole, params.length,
            params.force_mag, params.tau, params.total_mass, params.polemass_length,
        )  # fmt: skip
        if self.sutton_barto_reward:
            return Step(CartPoleState(*moved), 0.0 - terminated, terminated)
        reward = np.empty(len(theta))
        reward.fill(1.0)  # in a third of the time of np.ones
        return Step(CartPoleState(*moved), reward, terminated)

    @override
    def observe(self, state: CartPoleState, params: CartPoleParams) -> Array:
        return np.array(state, np.float32).T

    @override
    def optimal_return(self, params: CartPoleParams) -> Float | None:
        if self.episode_length > _VERIFIED_STEPS:
            return None
        return np.full(len(params), 0.0 if self.sutton_barto_reward else float(self.episode_length))

    @override
    def describe(self, state: CartPoleState, params: CartPoleParams) -> str:
        x, x_dot, theta, theta_dot = (float(column[0]) for column in state)
        constants = ", ".join(f"{name} {column[0]:.4g}" for name, column in params.columns().items())
        return (
            f"cart at {x:+.3f} m moving at {x_dot:+.3f} m/s, pole at {np.degrees(theta):+.2f} degrees "
            f"turning at {np.degrees(theta_dot):+.2f} degrees/s\n{constants}\n"
        )

    @override
    def draw(self, state: CartPoleState, params: CartPoleParams) -> Array:
        height, width, ground = 380, 600, 340
        scale = width / (2.0 * _PICTURE_HALF_WIDTH)
        image = canvas(height, width)
        draw_line(image, 0, ground, width, ground, "grey", thickness=2)
        for limit in (-X_LIMIT, X_LIMIT):
            mark = width / 2 + scale * limit
            draw_line(image, mark, ground - 8, mark, ground + 8, "wall", thickness=3)
        x = width / 2 + scale * float(state.x[0])
        half = 14.0 + 6.0 * float(params.masscart[0])
        fill_rect(image, x - half, ground - 26, 2 * half, 26, "blue", radius=4)
        pole, thickness = 2.0 * scale * float(params.length[0]), 4.0 + 30.0 * float(params.masspole[0])
        theta = float(state.theta[0])
        tip = x + pole * np.sin(theta), ground - 20 - pole * np.cos(theta)
        draw_line(image, x, ground - 20, *tip, "agent", thickness=thickness)
        fill_disc(image, x, ground - 20, 4, "ink")
        return image


def _euler(xp: Namespace) -> Callable[..., tuple[Any, ...]]:
    """One step of Euler's method, with Gymnasium's operations in Gymnasium's order, so that rounding is the same."""
    del xp  # operators are all it needs

    def move(
        x: Any, x_dot: Any, theta: Any, theta_dot: Any, sin: Any, cos: Any, action: Any, gravity: Any, masspole: Any,
        length: Any, force_mag: Any, tau: Any, total_mass: Any, polemass_length: Any,
    ) -> tuple[Any, ...]:  # fmt: skip
        force = (2 * action - 1) * force_mag
        temp = (force + polemass_length * (theta_dot * theta_dot) * sin) / total_mass
        theta_acc = (gravity * sin - cos * temp) / (length * (4.0 / 3.0 - masspole * (cos * cos) / total_mass))
        x_acc = temp - polemass_length * theta_acc * cos / total_mass
        x = x + tau * x_dot
        theta = theta + tau * theta_dot
        fallen = (abs(x) > X_LIMIT) | (abs(theta) > THETA_LIMIT)
        return x, x_dot + tau * x_acc, theta, theta_dot + tau * theta_acc, fallen

    return move
