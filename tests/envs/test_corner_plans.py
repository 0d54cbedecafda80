import numpy as np
import pytest

from metagym.envs.corner_plans import best_dense_return, best_sparse_return, is_paid

CORNER = (2.0, 2.0)
PACE = 0.2 * 2**0.5
"""Most that one step pays."""


def _sparse(num_steps, goal=CORNER, start=0.2):
    return best_sparse_return(goal, start, 0.2, num_steps, radius=0.5)


def _starts(width, half=0.2):
    place = half * ((2 * np.arange(width) + 1) / width - 1.0)
    return np.stack(np.meshgrid(place, place), axis=2).reshape(-1, 2)


@pytest.mark.parametrize(
    ("place", "paid"),
    [
        ([0.25, 0.25], True),
        ([0.25, 0.2499], False),  # inside the ball of |x| + |y| < 0.5
        ([0.5, 0.0], True),  # as near to (2, -2), which does not matter
        ([0.5, -0.01], False),  # nearer to (2, -2)
        ([-0.01, 3.0], False),
        ([3.0, 3.0], True),
    ],
)
def test_where_progress_is_paid(place, paid):
    assert is_paid(np.array(place), np.array(CORNER), 0.5) == paid
    assert is_paid(-np.array(place), -np.array(CORNER), 0.5) == paid


@pytest.mark.parametrize("squared", [False, True])
def test_the_dense_return_of_two_steps_by_hand(squared):
    # From the origin, which a square of size 0 is: (0.1, 0.4) leaves (0, 0.2), then nothing.
    value = best_dense_return(np.array([0.1, 0.4]), 0.0, 0.2, 2, squared=squared)
    assert value == pytest.approx(-0.04 if squared else -0.2)


def test_one_sparse_step_is_the_best_of_many_tried():
    starts, moves = _starts(16), _starts(81)
    moved = starts[:, None] + moves
    gain = np.hypot(*(starts - CORNER).T)[:, None] - np.hypot(*np.moveaxis(moved - CORNER, 2, 0))
    best = np.where(is_paid(moved, np.array(CORNER), 0.5), gain, 0.0).max(axis=1).mean()
    # The lattice holds fewer points than were tried, and the tried ones miss the furthest moves.
    assert _sparse(1) == pytest.approx(best, abs=0.005)


@pytest.mark.parametrize("num_steps", [1, 3, 10, 40, 100])
def test_no_plan_is_paid_more_than_the_bound(num_steps):
    # p paid steps bring at most PACE each, and at most what is left of the way at first and after unpaid steps.
    paid = np.arange(num_steps + 1)
    way = np.hypot(*(_starts(16) - CORNER).T)[:, None]
    bound = np.minimum(PACE * paid, way + PACE * (num_steps - paid)).max(axis=1).mean()
    assert _sparse(num_steps) <= bound


def test_a_hundred_steps_earn_the_documented_amount_and_almost_the_bound():
    starts = _starts(400)
    can_be_paid_at_once = starts.sum(axis=1) >= 0.1
    better = np.minimum(55 * PACE, np.hypot(*(starts - CORNER).T) + 45 * PACE)
    bound = np.where(can_be_paid_at_once, np.maximum(54 * PACE, better), 54 * PACE).mean()
    assert bound == pytest.approx(15.314, abs=5e-4)
    assert _sparse(100) == pytest.approx(15.305, abs=5e-4)
    assert bound - 0.01 < _sparse(100) < bound


def test_all_corners_are_worth_the_same():
    assert [_sparse(20, goal) for goal in ((2.0, -2.0), (-2.0, 2.0), (-2.0, -2.0))] == pytest.approx([_sparse(20)] * 3)


def test_more_steps_are_worth_more():
    values = [_sparse(num_steps, (8**0.5, 0.0)) for num_steps in (1, 2, 5, 20)]
    assert values == sorted(values)
    assert 0.0 < values[0] < values[-1]
