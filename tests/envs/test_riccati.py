import numpy as np
import pytest
from scipy.linalg import solve_discrete_are
from scipy.optimize import minimize

from metagym.envs.riccati import product, riccati, worst_action

PRICE = 0.1


def _systems(num_systems, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num_systems, 2, 2)) * 0.6, rng.normal(size=(num_systems, 2, 1))


def test_in_a_long_episode_the_gain_is_that_of_the_algebraic_riccati_equation():
    a, b = _systems(20)
    gains, costs = riccati(a, b, PRICE, 600)
    for row in range(20):
        solution = solve_discrete_are(a[row], b[row], np.eye(2), PRICE * np.eye(1))
        along = b[row].T @ solution
        gain = np.linalg.solve(PRICE + along @ b[row], along @ a[row])[0]
        assert costs[0, row] == pytest.approx(solution, rel=1e-8, abs=1e-8)
        assert gains[0, row] == pytest.approx(gain, rel=1e-8, abs=1e-8)


def test_without_noise_the_cost_is_the_least_of_all_sequences_of_actions():
    systems = _systems(5, seed=1)
    gains, costs = riccati(*systems, PRICE, 4)
    start = np.array([0.7, -0.4])
    for row, (a, b) in enumerate(zip(*systems, strict=True)):

        def cost(actions, a=a, b=b):
            x, total = start, 0.0
            for u in actions:
                x = a @ x + b[:, 0] * u
                total += x @ x + PRICE * u * u
            return total

        best = minimize(cost, np.zeros(4), method="BFGS", options={"gtol": 1e-9})
        assert start @ (costs[0, row] - np.eye(2)) @ start == pytest.approx(best.fun, rel=1e-7)
        assert -gains[0, row] @ start == pytest.approx(best.x[0], abs=1e-5)


def test_one_step_by_hand():
    # u = -k'x with k = A'B / (r + B'B): here k = (0.5, 0.25) / 1.1.
    gains, costs = riccati(np.array([[[0.5, 0.25], [0.0, 1.0]]]), np.array([[[1.0], [0.0]]]), PRICE, 1)
    assert gains[0, 0] == pytest.approx([0.5 / 1.1, 0.25 / 1.1])
    moved = np.array([[0.5, 0.25], [0.0, 1.0]])
    assert costs[0, 0] == pytest.approx(np.eye(2) + moved.T @ moved - np.outer([0.5, 0.25], [0.5, 0.25]) / 1.1)
    assert costs[1, 0].tolist() == np.eye(2).tolist()


def test_the_worst_action_is_reached_by_the_worst_start_and_noise():
    a, b = _systems(200)
    gains, _ = riccati(a, b, PRICE, 2)
    found = np.zeros(200)
    for corner in np.array(np.meshgrid([-1, 1], [-1, 1], [-0.1, 0.1], [-0.1, 0.1])).reshape(4, -1).T:
        x = np.tile(corner[:2], (200, 1))
        first = -(gains[0] * x).sum(axis=1)
        x = np.einsum("nij,nj->ni", a, x) + b[:, :, 0] * first[:, None] + corner[2:]
        second = -(gains[1] * x).sum(axis=1)
        found = np.maximum(found, np.maximum(np.abs(first), np.abs(second)))
    assert worst_action(a, b, gains, 0.1) == pytest.approx(found)


@pytest.mark.parametrize("shapes", [((2, 2), (2, 2)), ((2, 1), (1, 2)), ((1, 2), (2, 5))])
def test_products_are_those_of_matrices_whatever_the_number_of_rows(shapes):
    rng = np.random.default_rng(0)
    left, right = (rng.normal(size=(7, *shape)) for shape in shapes)
    whole = product(left, right)
    assert whole == pytest.approx(left @ right)
    assert all(
        product(left[row : row + 1], right[row : row + 1])[0].tobytes() == whole[row].tobytes() for row in range(7)
    )
