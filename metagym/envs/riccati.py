"""The best controllers of N linear systems with quadratic costs, and the largest actions that they take.

Systems are x' = A x + B u + w with two states and one input; a step costs |x'|² + r u².
"""

import numpy as np

from metagym.types import Float

__all__ = ["product", "riccati", "worst_action"]


def riccati(state_matrix: Float, input_matrix: Float, price: float, num_steps: int) -> tuple[Float, Float]:
    """The best feedback of each step, and what states cost under it, by the Riccati recursion.

    With S the cost of what follows, counted with the state itself: S_T = I and
    S_t = I + A'S A - k k' (r + B'S B), k = A'S B / (r + B'S B), S taken at t + 1. The best action is u_t = -k_t'x_t.

    Args:
        state_matrix: A, (N, 2, 2).
        input_matrix: B, (N, 2, 1).
        price: r.
        num_steps: T, the actions of an episode.

    Returns:
        Gains k_0..k_{T-1}, (T, N, 2), and costs S_0..S_T, (T + 1, N, 2, 2).
    """
    a, b = state_matrix, input_matrix
    turned_a, turned_b = a.swapaxes(1, 2), b.swapaxes(1, 2)
    gains = np.empty((num_steps, len(a), 2))
    costs = np.empty((num_steps + 1, len(a), 2, 2))
    costs[num_steps] = np.eye(2)
    for step in reversed(range(num_steps)):
        cost = costs[step + 1]
        along = product(cost, b)
        weight = price + product(turned_b, along)
        gain = product(turned_a, along) / weight
        rest = product(turned_a, product(cost, a)) - weight * product(gain, gain.swapaxes(1, 2))
        costs[step] = np.eye(2) + 0.5 * (rest + rest.swapaxes(1, 2))
        gains[step] = gain[:, :, 0]
    return gains, costs


def worst_action(state_matrix: Float, input_matrix: Float, gains: Float, noise: float) -> Float:
    """The largest action that linear feedback ever takes from starts in [-1, 1]² under noise in [-noise, noise]².

    Actions are linear in the start and the disturbances, each of which lies in a square: the largest value is the sum
    of the absolute coefficients, each times its half-width.

    Args:
        state_matrix: A, (N, 2, 2).
        input_matrix: B, (N, 2, 1).
        gains: k of each step, (T, N, 2).
        noise: half the width of the disturbance.

    Returns:
        max |u| over the T steps, (N,).
    """
    largest = np.zeros(len(state_matrix))
    # Columns: what each coordinate of the start, and of each disturbance, has become.
    reach = np.broadcast_to(np.eye(2), state_matrix.shape)
    disturbance = np.broadcast_to(noise * np.eye(2), state_matrix.shape)
    for gain in gains:
        action = product(gain[:, None], reach)
        largest = np.maximum(largest, np.abs(action[:, 0]).sum(axis=1))
        moved = product(state_matrix, reach) - product(input_matrix, action)
        reach = np.concatenate([moved, disturbance], axis=2)
    return largest


def product(left: Float, right: Float) -> Float:
    """Matrix products of N pairs, (N, I, J) and (N, J, K) with J of 1 or 2: sums whose order does not depend on N."""
    result: Float = left[:, :, :1] * right[:, :1]
    if left.shape[2] == 2:
        result = result + left[:, :, 1:] * right[:, 1:]
    return result
