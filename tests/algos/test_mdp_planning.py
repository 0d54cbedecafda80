"""Counting against loops, planning against recursion, optimism against a linear programme, draws against moments."""

import numpy as np
import pytest
from scipy.optimize import linprog

from metagym.algos.mdp_planning import (
    Counts,
    Episode,
    backward_induction,
    best_actions,
    extended_value_iteration,
    recorded,
    sampled_transitions,
)


def _process(rng, num_rows, num_states=4, num_actions=3):
    rewards = rng.normal(1.0, 1.0, (num_rows, num_states, num_actions))
    transitions = rng.dirichlet(np.ones(num_states), (num_rows, num_states, num_actions))
    return rewards, np.ascontiguousarray(np.moveaxis(transitions, 3, 1))


# --- counting --------------------------------------------------------------------------------------------------------


def test_counts_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    shape, length = (5, 6), np.array([6, 6, 3, 0, 6])
    states, actions, rewards = rng.integers(4, size=shape), rng.integers(3, size=shape), rng.normal(size=shape)
    before = Counts(rng.integers(5, size=(5, 4, 3)), rng.normal(size=(5, 4, 3)), rng.integers(5, size=(5, 4, 4, 3)))
    kept = [array.copy() for array in before]
    finished = np.array([True, True, True, True, False])
    after = recorded(before, Episode(states, actions, rewards, length), finished, np.array([0, 1, 0, 0, 0], np.bool_))
    expected = [array.copy() for array in before]
    for array in expected:
        array[1] = 0
    for row in np.flatnonzero(finished):
        for step in range(length[row]):
            here = (row, states[row, step], actions[row, step])
            expected[0][here] += 1
            expected[1][here] += rewards[row, step]
            if step + 1 < length[row]:
                expected[2][row, states[row, step + 1], here[1], here[2]] += 1
    for found, wanted, old, copy in zip(after, expected, before, kept, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-13)
        assert np.array_equal(old, copy)


# --- planning --------------------------------------------------------------------------------------------------------


def test_values_are_those_of_recursion():
    rewards, transitions = _process(np.random.default_rng(1), 2)
    values = backward_induction(rewards, transitions, 4)

    def worth(row, step, state, action):
        after = 0.0
        if step < 3:
            for following in range(4):
                best = max(worth(row, step + 1, following, other) for other in range(3))
                after += transitions[row, following, state, action] * best
        return rewards[row, state, action] + after

    for row, step, state, action in ((0, 3, 2, 1), (0, 2, 1, 0), (1, 1, 3, 2), (1, 0, 0, 0)):
        assert values[row, step, state, action] == pytest.approx(worth(row, step, state, action), rel=1e-12)


def test_a_bonus_counts_for_every_step_that_follows():
    rewards, transitions = np.zeros((1, 1, 2)), np.ones((1, 1, 1, 2))
    values = backward_induction(rewards, transitions, 3, bonus=np.array([[[1.0, 5.0]]]))
    # With 0, 1 and 2 steps that follow: 0; 1 or 5; 2 or 10, plus the best of what follows.
    assert values[0, :, 0].tolist() == [[7.0, 15.0], [1.0, 5.0], [0.0, 0.0]]


def _optimistic(probabilities, values, radius):
    """Highest expected value within an L1 distance, as a linear programme over probabilities and deviations."""
    size = len(values)
    identity = np.eye(size)
    bounds = np.block([[identity, -identity], [-identity, -identity], [np.zeros((1, size)), np.ones((1, size))]])
    limits = np.concatenate([probabilities, -probabilities, [radius]])
    total = np.concatenate([np.ones(size), np.zeros(size)])[None]
    found = linprog(np.concatenate([-values, np.zeros(size)]), bounds, limits, total, [1.0], bounds=(0.0, None))
    return -found.fun


def test_optimism_is_a_linear_programme():
    rng = np.random.default_rng(2)
    rewards, transitions = _process(rng, 3)
    radius = rng.uniform(0.0, 2.5, rewards.shape)
    values = extended_value_iteration(rewards, transitions, radius, 3)
    np.testing.assert_allclose(values[:, 2], rewards)
    for row in range(3):
        for step in (1, 0):
            after = values[row, step + 1].max(axis=1)
            for state in range(4):
                for action in range(3):
                    best = _optimistic(transitions[row, :, state, action], after, radius[row, state, action])
                    expected = rewards[row, state, action] + best
                    assert values[row, step, state, action] == pytest.approx(expected, rel=1e-9)


def _in_place(rewards, transitions, radius, horizon):
    """One process, planned by moving probabilities in place where there is room, element by element."""
    chances = np.moveaxis(transitions, 0, 2).copy()
    after, values = np.zeros(len(rewards)), np.zeros((horizon, *rewards.shape))
    for step in reversed(range(horizon)):
        order = np.argsort(after, kind="stable")
        for state, action in np.ndindex(rewards.shape):
            one, extra = chances[state, action], 0.5 * radius[state, action]
            if one[order[-1]] + extra > 1.0:
                one = np.eye(len(one))[order[-1]]
            else:
                one[order[-1]] += extra
                for worst in order:
                    taken = min(extra, one[worst])
                    one[worst] -= taken
                    extra -= taken
            values[step, state, action] = rewards[state, action] + one @ after
        after = values[step].max(axis=1)
    return values


def test_cumulative_optimism_is_planning_in_place():
    rng = np.random.default_rng(3)
    rewards, transitions = _process(rng, 6)
    radius = rng.uniform(0.0, 0.8, rewards.shape)
    kept = transitions.copy()
    found = extended_value_iteration(rewards, transitions, radius, 5, cumulative=True)
    assert np.array_equal(transitions, kept)
    for row in range(6):
        np.testing.assert_allclose(found[row], _in_place(rewards[row], transitions[row], radius[row], 5), rtol=1e-12)
    once = extended_value_iteration(rewards, transitions, radius, 5)
    np.testing.assert_allclose(found[:, 4], once[:, 4], rtol=1e-12)  # nothing was moved before
    assert (np.abs(found - once)[:, 0] > 0.1).any()


def test_without_room_optimism_is_planning_and_with_all_of_it_the_best_state():
    rewards, transitions = _process(np.random.default_rng(4), 5)
    known = backward_induction(rewards, transitions, 6)
    for cumulative in (False, True):
        none = extended_value_iteration(rewards, transitions, np.zeros_like(rewards), 6, cumulative=cumulative)
        np.testing.assert_allclose(none, known, rtol=1e-12)
        full = extended_value_iteration(rewards, transitions, np.full_like(rewards, 2.0), 6, cumulative=cumulative)
        best = rewards.max(axis=(1, 2))[:, None, None]
        for step in range(6):
            np.testing.assert_allclose(full[:, step], rewards + (5 - step) * best, rtol=1e-12)


@pytest.mark.parametrize("num_rows", [1, 2, 7])
def test_rows_are_planned_alone_to_the_bit(num_rows):
    rng = np.random.default_rng(5)
    rewards, transitions = _process(rng, 64, 10, 5)
    radius = rng.uniform(0.0, 1.0, rewards.shape)
    for plan in (
        lambda rows: backward_induction(rewards[rows], transitions[rows], 10, bonus=radius[rows]),
        lambda rows: extended_value_iteration(rewards[rows], transitions[rows], radius[rows], 10),
        lambda rows: extended_value_iteration(rewards[rows], transitions[rows], radius[rows], 10, cumulative=True),
    ):
        assert np.array_equal(plan(slice(None))[:num_rows], plan(slice(num_rows)))


# --- draws -----------------------------------------------------------------------------------------------------------


def test_drawn_transitions_have_the_moments_of_the_dirichlet_distribution():
    weights = np.array([0.5, 2.0, 4.5])
    drawn = sampled_transitions(
        np.broadcast_to(weights[None, :, None, None], (20_000, 3, 1, 1)), np.random.default_rng(0)
    )
    mean = weights / 7.0
    np.testing.assert_allclose(drawn.sum(axis=1), 1.0)
    np.testing.assert_allclose(drawn.mean(axis=0).ravel(), mean, atol=0.006)
    np.testing.assert_allclose(drawn.var(axis=0).ravel(), mean * (1 - mean) / 8.0, atol=0.001)


def test_equally_good_actions_are_equally_likely():
    values = np.tile([[1.0, 3.0, 3.0, 0.0, 3.0]], (9000, 1))
    chosen = np.bincount(best_actions(values, np.random.default_rng(0)), minlength=5)
    assert chosen[[0, 3]].tolist() == [0, 0]
    np.testing.assert_allclose(chosen[[1, 2, 4]] / 9000, 1 / 3, atol=0.02)
    assert (best_actions(values, None) == 1).all()
    apart = np.random.default_rng(1).normal(size=(50, 4))
    assert best_actions(apart, np.random.default_rng(0)).tolist() == apart.argmax(axis=1).tolist()
