"""Linear-quadratic regulation: hold an unknown linear system near the origin. The optimum is known in closed form."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from gymnasium import spaces
from typing_extensions import override

from metagym.envs.arguments import integer, number
from metagym.envs.riccati import product, riccati, worst_action
from metagym.errors import TaskError
from metagym.family import Family, Params, Region, Step
from metagym.render import canvas, draw_arrow, draw_line, fill_disc
from metagym.types import Array, Bool, Float

__all__ = ["LQR", "LQRParams", "LinearState"]

_LARGEST_STRETCH = 1.15
"""Largest spectral norm of the state matrix, reached in "ood"."""
_LARGEST_INPUT = 1.5
_LIMIT = 6.0
_PRICE = 0.1
"""Of an action, against 1 for the state."""
_CONTROLLABLE = 0.5
_ROUNDING = 1.0 + 1e-9


@dataclass(frozen=True)
class LQRParams(Params):
    """Columns of N linear systems x' = A x + B u + w."""

    state_matrix: Float
    """A, (N, 2, 2)."""
    input_matrix: Float
    """B, (N, 2, 1)."""


class LinearState(NamedTuple):
    """Where the system is."""

    position: Float
    """x, (N, 2)."""


class LQR(Family[LinearState, LQRParams]):
    """Linear-quadratic regulation: a noisy linear system of two states must be held near the origin by one input.

    The system is not known. Its best controller is: a linear feedback, from the Riccati recursion.

    ## Task Space

    | Parameter | Shape | Low | High | Unit | Meaning |
    |---|---|---|---|---|---|
    | state_matrix | (2, 2) | -1.15 | 1.15 | - | A of x' = A x + B u + w |
    | input_matrix | (2, 1) | -1.5 | 1.5 | - | B of the same |

    A task must also have singular values of A up to 1.15, B no longer than 1.5, and a best controller whose action
    stays within [-6, 6] whatever the noise does; others are refused.

    ## Action Space

    `Box(-6, 6, (1,), float32)`: the input u, clipped to these bounds. The clip never binds the best controller, so that
    the optimum is that of the problem without bounds: when a task is set, the largest action over all starts and noises
    is computed exactly; over the tasks that can be drawn, the largest that a global search found is 3.2 in training and
    5.1 in "ood" (3.4 and 5.1 with the longest episodes and the most noise). In the median task it is 0.94.

    ## Observation Space

    `Box` of shape (2,), float32: the state x. The bounds hold for every policy and every task:

    | Num | Observation | Low | High | Unit |
    |---|---|---|---|---|
    | 0 | x1 | -959.6267700195312 | 959.6267700195312 | - |
    | 1 | x2 | -959.6267700195312 | 959.6267700195312 | - |

    A controlled state stays around 1.

    ## Rewards

    -(x1² + x2² + 0.1 u²), with the state after the step.

    ## Starting State

    Uniform on [-1, 1]².

    ## Episode End

    Never terminated; truncated after `episode_length` steps.

    ## Information

    None but those of all families.

    ## Arguments

    - `noise`: the disturbance w is uniform on [-noise, noise]², 0 to 0.2; 0.1 by default.
    - `episode_length`: steps, 1 to 100; 20 by default.

    ## Splits

    A = U diag(s1, s2) V, with U and V rotations by uniform angles, s1 uniform on [0.5, 1] and |s2| uniform on
    [0.5, 1] with either sign: no state grows by itself. B points in a uniform direction and is uniform on [0.5, 1.5]
    in length. Systems that are hard to control are drawn again: |det(B, A B)| must be at least 0.5 |B|². train and
    test: disjoint by a hash of A and B. ood: s1 uniform on (1, 1.15], the rest as in training:
    the state may grow.

    ## Reference Returns

    Optimal, for an agent that knows the system: exact, from the Riccati recursion over the episode and the covariances
    of start and noise. On average -0.462 in training, -0.663 in "ood". Random: exact, from the covariance of the state
    under uniform actions; -750 and -2,700. Doing nothing earns -1.91 in training.

    ## References

    The linear-quadratic regulator: Kalman 1960, "Contributions to the theory of optimal control". As a benchmark of
    reinforcement learning: Fazel et al. 2018, "Global convergence of policy gradient methods for the linear quadratic
    regulator"; of meta-learning: Toso et al. 2024, "Meta-learning linear quadratic regulators: a policy gradient MAML
    approach for model-free LQR".

    Differs: those study distances to a nominal system, long or infinite horizons, and publish no distribution of
    systems to draw from; the one above is ours. The noise is uniform, not normal, so that all states are bounded: the
    optimum depends on its covariance alone.

    ## Version History

    - v0: first version.
    """

    name = "LQR"
    params_type = LQRParams
    structural = ("state_matrix", "input_matrix")
    initial_needs_task = False
    observe_needs_task = False
    num_structure_draws = 7
    num_initial_draws = 2

    def __init__(self, *, noise: float = 0.1, episode_length: int = 20) -> None:
        self.noise = number("noise", noise, 0.0, 0.2)
        self.episode_length = integer("episode_length", episode_length, 1, 100)
        self.num_step_draws = 2 if self.noise > 0.0 else 0
        self.task_space = spaces.Dict(
            state_matrix=spaces.Box(-_LARGEST_STRETCH, _LARGEST_STRETCH, (2, 2), np.float64),
            input_matrix=spaces.Box(-_LARGEST_INPUT, _LARGEST_INPUT, (2, 1), np.float64),
        )
        self.action_space = spaces.Box(-_LIMIT, _LIMIT, (1,), np.float32)
        furthest = 2.0**0.5
        for _ in range(self.episode_length):
            furthest = _LARGEST_STRETCH * furthest + _LARGEST_INPUT * _LIMIT + 2.0**0.5 * self.noise
        bound = np.nextafter(np.float32(furthest * (1.0 + 1e-6)), np.float32(np.inf))
        self.observation_space = spaces.Box(-bound, bound, (2,), np.float32)

    # --- tasks -------------------------------------------------------------------------------------------------

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        if region == "train":
            largest = 1.0 - 0.5 * noise[:, 0]
        else:
            largest = np.maximum(_LARGEST_STRETCH - 0.15 * noise[:, 0], np.nextafter(1.0, 2.0))
        size = 0.5 + 0.5 * noise[:, 1]
        other = np.where(noise[:, 2] < 0.5, size, -size)
        before, after, heading = (np.ascontiguousarray(2.0 * np.pi * noise[:, column]) for column in (3, 4, 5))
        c, s, d, t = np.cos(after), np.sin(after), np.cos(before), np.sin(before)
        entries = (
            largest * c * d - other * s * t,
            -largest * c * t - other * s * d,
            largest * s * d + other * c * t,
            other * c * d - largest * s * t,
        )
        length = 0.5 + noise[:, 6]
        inputs = (length * np.cos(heading), length * np.sin(heading))
        return {
            "state_matrix": np.stack(entries, axis=1).reshape(-1, 2, 2),
            "input_matrix": np.stack(inputs, axis=1).reshape(-1, 2, 1),
        }

    @override
    def accept(self, structure: Mapping[str, Array]) -> Bool:
        b = structure["input_matrix"]
        moved = product(structure["state_matrix"], b)[:, :, 0]
        b1, b2 = b[:, 0, 0], b[:, 1, 0]
        enough: Bool = np.abs(b1 * moved[:, 1] - b2 * moved[:, 0]) >= _CONTROLLABLE * (b1 * b1 + b2 * b2)
        return enough

    @override
    def check(self, params: LQRParams) -> None:
        stretch = float(np.linalg.norm(params.state_matrix[0], 2))
        if stretch > _LARGEST_STRETCH * _ROUNDING:
            raise TaskError(f"state_matrix has a singular value of {stretch}; accepted are up to {_LARGEST_STRETCH}")
        length = float(np.linalg.norm(params.input_matrix[0]))
        if length > _LARGEST_INPUT * _ROUNDING:
            raise TaskError(f"input_matrix has length {length}; accepted are up to {_LARGEST_INPUT}")
        action = float(self.worst_action(params)[0])
        if action > _LIMIT:
            raise TaskError(
                f"the best controller of this state_matrix and input_matrix needs actions up to {action:.3g}; "
                f"accepted are tasks that need up to {_LIMIT}"
            )

    # --- dynamics ----------------------------------------------------------------------------------------------

    @override
    def initial(self, params: LQRParams, noise: Float) -> LinearState:
        return LinearState(2.0 * noise - 1.0)

    @override
    def step(self, state: LinearState, action: Array, params: LQRParams, noise: Float) -> Step[LinearState]:
        x1, x2 = state.position[:, 0], state.position[:, 1]
        u = np.minimum(np.maximum(action[:, 0].astype(np.float64), -_LIMIT), _LIMIT)
        # Sums written out: an `einsum` may fuse products and sums, or not, depending on N.
        a, b = params.state_matrix, params.input_matrix
        position = np.empty((len(u), 2))
        position[:, 0] = a[:, 0, 0] * x1 + a[:, 0, 1] * x2 + b[:, 0, 0] * u
        position[:, 1] = a[:, 1, 0] * x1 + a[:, 1, 1] * x2 + b[:, 1, 0] * u
        if self.num_step_draws:
            position += (2.0 * self.noise) * noise
            position -= self.noise
        square = position * position
        reward = -(square[:, 0] + square[:, 1] + _PRICE * (u * u))
        return Step(LinearState(position), reward, np.zeros(len(u), np.bool_))

    @override
    def observe(self, state: LinearState, params: LQRParams) -> Array:
        return state.position.astype(np.float32)

    # --- the best controller -----------------------------------------------------------------------------------

    def gains(self, params: LQRParams) -> Float:
        """The best feedback k of each step, u = -k'x, (T, N, 2)."""
        return self._solve(params)[0]

    def worst_action(self, params: LQRParams) -> Float:
        """The largest action that the best controller ever takes, over all starts and all noises, (N,)."""
        return worst_action(params.state_matrix, params.input_matrix, self.gains(params), self.noise)

    def _solve(self, params: LQRParams) -> tuple[Float, Float]:
        return riccati(params.state_matrix, params.input_matrix, _PRICE, self.episode_length)

    # --- limits ------------------------------------------------------------------------------------------------

    @override
    def optimal_return(self, params: LQRParams) -> Float:
        costs = self._solve(params)[1]
        traces = costs[:, :, 0, 0] + costs[:, :, 1, 1]
        start = (traces[0] - 2.0) / 3.0
        total = np.zeros(len(params))
        for trace in traces[1:]:
            total += trace
        optimum: Float = -(start + total * (self.noise**2 / 3.0))
        return optimum

    @override
    def random_return(self, params: LQRParams) -> Float:
        a, b = params.state_matrix, params.input_matrix
        drive = product(b, b.swapaxes(1, 2)) * (_LIMIT**2 / 3.0) + np.eye(2) * (self.noise**2 / 3.0)
        spread = np.broadcast_to(np.eye(2) / 3.0, a.shape)
        total = np.zeros(len(params))
        for _ in range(self.episode_length):
            spread = product(product(a, spread), a.swapaxes(1, 2)) + drive
            total -= spread[:, 0, 0] + spread[:, 1, 1] + _PRICE * _LIMIT**2 / 3.0
        return total

    # --- pictures ----------------------------------------------------------------------------------------------

    @override
    def describe(self, state: LinearState, params: LQRParams) -> str:
        (x1, x2), a, b = state.position[0].tolist(), params.state_matrix[0].tolist(), params.input_matrix[0].tolist()
        system = f"A ({a[0][0]:+.3f} {a[0][1]:+.3f}; {a[1][0]:+.3f} {a[1][1]:+.3f}), B ({b[0][0]:+.3f}, {b[1][0]:+.3f})"
        return f"x ({x1:+.3f}, {x2:+.3f}), {system}\n"

    @override
    def draw(self, state: LinearState, params: LQRParams) -> Array:
        side, pixels = 400, 80.0

        def place(point: Float) -> tuple[float, float]:
            x1, x2 = np.clip(side / 2 + pixels * point * [1.0, -1.0], 8.0, side - 8.0).tolist()
            return x1, x2

        image = canvas(side, side)
        draw_line(image, 0, side / 2, side, side / 2, "grid")
        draw_line(image, side / 2, 0, side / 2, side, "grid")
        for start in np.stack(np.meshgrid(np.linspace(-2.0, 2.0, 9), np.linspace(-2.0, 2.0, 9)), axis=2).reshape(-1, 2):
            drift = params.state_matrix[0].dot(start) - start
            draw_arrow(image, *place(start), *place(start + 0.3 * drift), "grey", thickness=1.5, head=6)
        position, push = state.position[0], 0.5 * params.input_matrix[0, :, 0]
        draw_line(image, *place(position - push), *place(position + push), "blue", thickness=3)
        fill_disc(image, *place(np.zeros(2)), 5, "goal")
        fill_disc(image, *place(position), 8, "white")
        fill_disc(image, *place(position), 6, "agent")
        return image
