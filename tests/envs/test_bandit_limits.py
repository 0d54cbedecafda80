from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from metagym.distributions import TaskDistribution
from metagym.envs import bandit_limits
from metagym.envs.bandit import Bandit
from metagym.envs.bandit_arms import LEVELS, DriftingArms, DriftingParams
from metagym.envs.bandit_limits import (
    drifting_optimum,
    independent_limit,
    informative_limit,
    mirrored_limit,
    uniform_limit,
)
from metagym.errors import ConfigError

# --- published totals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_arms", "num_pulls", "total"),
    [
        (2, 10, 6.0218),
        (2, 20, 12.4313),
        (2, 30, 18.9199),
        (2, 50, 31.9967),
        (2, 100, 64.9184),
        (5, 10, 6.6600),
        (10, 10, 6.7140),
        (50, 10, 6.7140),
    ],
)
def test_independent_arms_pay_what_dynamic_programming_has_found_before(num_arms, num_pulls, total):
    assert sum(independent_limit(num_arms, num_pulls)) == pytest.approx(total, abs=5e-5)


@pytest.mark.slow
def test_two_hundred_pulls_of_two_arms_are_feasible():
    assert sum(independent_limit(2, 200)) == pytest.approx(131.0941, abs=5e-5)


@pytest.mark.parametrize(("variant", "regret"), [("easy", 0.625), ("medium", 1.000), ("hard", 2.312)])
def test_mirrored_arms_cost_the_known_regret(variant, regret):
    assert 100 * LEVELS[variant][1] - sum(mirrored_limit(LEVELS[variant], 100)) == pytest.approx(regret, abs=5e-4)


def test_mirrored_arms_with_a_uniform_mean_cost_the_known_regret():
    assert 75.0 - sum(uniform_limit(100)) == pytest.approx(1.220, abs=0.003)


# --- by other computations -------------------------------------------------------------------------------------------


def independent_by_recursion(num_arms, num_pulls):
    """Best total and the reward of each pull, in exact fractions, over ordered counts."""

    @cache
    def best(counts, left):
        if not left:
            return Fraction(0), ()
        options = []
        for arm, (wins, losses) in enumerate(counts):
            mean = Fraction(wins + 1, wins + losses + 2)
            won = best((*counts[:arm], (wins + 1, losses), *counts[arm + 1 :]), left - 1)
            lost = best((*counts[:arm], (wins, losses + 1), *counts[arm + 1 :]), left - 1)
            later = tuple(mean * a + (1 - mean) * b for a, b in zip(won[1], lost[1], strict=True))
            options.append((mean + mean * won[0] + (1 - mean) * lost[0], (mean, *later)))
        return max(options)

    return best(((0, 0),) * num_arms, num_pulls)


@pytest.mark.parametrize(("num_arms", "num_pulls"), [(2, 1), (2, 2), (2, 7), (3, 4), (3, 5), (4, 3), (4, 5)])
def test_every_pull_of_independent_arms_agrees_with_a_recursion_in_fractions(num_arms, num_pulls):
    total, rewards = independent_by_recursion(num_arms, num_pulls)
    limit = independent_limit(num_arms, num_pulls)
    assert limit == pytest.approx([float(reward) for reward in rewards], abs=1e-12)
    assert sum(limit) == pytest.approx(float(total), abs=1e-12)


def test_two_pulls_of_independent_arms_by_hand():
    # A success (1/2) is followed by the same arm (2/3), a failure by the other (1/2).
    assert independent_limit(2, 2) == pytest.approx((0.5, 0.5 * 2 / 3 + 0.5 * 0.5))


@pytest.mark.parametrize("num_pulls", [3, 12])
def test_blocks_of_two_arms_and_multisets_are_the_same_computation(num_pulls):
    blocks, multisets = bandit_limits._two_arms(num_pulls), bandit_limits._many_arms(2, num_pulls)
    assert blocks == pytest.approx(multisets, abs=1e-12)


def mirrored_by_recursion(belief, update, num_pulls):
    """Best total over both arms; `update(belief)` gives the mean of the first arm and the beliefs after its rewards."""
    if not num_pulls:
        return Fraction(0)
    mean, better, worse = update(belief)
    after = [mirrored_by_recursion(next_, update, num_pulls - 1) for next_ in (better, worse)]
    first = mean + mean * after[0] + (1 - mean) * after[1]
    second = (1 - mean) + (1 - mean) * after[1] + mean * after[0]
    return max(first, second)


@pytest.mark.parametrize("variant", list(LEVELS))
def test_mirrored_arms_agree_with_bayes_rule_pull_by_pull(variant):
    values = [Fraction(value).limit_denominator(20) for value in LEVELS[variant]]

    def update(belief):
        mean = sum(weight * value for weight, value in zip(belief, values, strict=True))
        better = tuple(weight * value / mean for weight, value in zip(belief, values, strict=True))
        worse = tuple(weight * (1 - value) / (1 - mean) for weight, value in zip(belief, values, strict=True))
        return mean, better, worse

    total = mirrored_by_recursion((Fraction(1, 2),) * 2, update, 7)
    assert sum(mirrored_limit(LEVELS[variant], 7)) == pytest.approx(float(total), abs=1e-12)


def test_a_uniform_mirrored_arm_agrees_with_bayes_rule_pull_by_pull():
    def update(belief):
        a, b = belief
        return Fraction(a, a + b), (a + 1, b), (a, b + 1)

    assert sum(uniform_limit(8)) == pytest.approx(float(mirrored_by_recursion((1, 1), update, 8)), abs=1e-12)


@pytest.mark.parametrize("num_pulls", [1, 2, 3, 5])
def test_the_informative_arm_comes_first_by_dynamic_programming(num_pulls):
    @cache
    def best(candidates, left):
        if not left:
            return Fraction(0)
        if len(candidates) == 1:
            return 5 + best(candidates, left - 1)
        count = len(candidates)
        known = best(frozenset([1]), left - 1)
        informative = Fraction(sum(candidates), 10 * count) + known
        tried = [
            Fraction(5 + count - 1, count)
            + known / count
            + Fraction(count - 1, count) * best(candidates - {arm}, left - 1)
            for arm in candidates
        ]
        return max(informative, *tried)

    assert sum(informative_limit(num_pulls)) == pytest.approx(float(best(frozenset(range(1, 11)), num_pulls)))


def test_five_pulls_with_an_informative_arm_make_20_55():
    assert informative_limit(5) == (0.55, 5.0, 5.0, 5.0, 5.0)
    assert sum(informative_limit(5)) == pytest.approx(20.55)


# --- what must hold --------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(1, 9))
def test_limits_lie_between_random_and_known_and_grow_with_arms_and_pulls(num_arms, num_pulls):
    limit = independent_limit(num_arms, num_pulls)
    assert len(limit) == num_pulls
    assert limit[0] == pytest.approx(0.5)
    assert num_pulls * 0.5 - 1e-12 <= sum(limit) <= num_pulls * num_arms / (num_arms + 1)
    assert sum(independent_limit(num_arms + 1, num_pulls)) >= sum(limit) - 1e-12
    # The best of one pull more earns at least what the best of these and a repetition of the last do.
    assert sum(independent_limit(num_arms, num_pulls + 1)) >= sum(limit) + 0.5


def test_what_is_infeasible_is_none():
    assert independent_limit(2, 201) is None
    assert independent_limit(10, 100) is None
    assert independent_limit(3, 25) is None
    assert uniform_limit(20_001) is None
    assert mirrored_limit((0.1, 0.9), 20_001) is None


# --- of families ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keywords", "num_pulls", "total"),
    [
        ({"num_arms": 2}, 100, 64.9184),
        ({"num_arms": 5}, 10, 6.6600),
        ({}, 10, 6.7140),
        ({"variant": "uniform"}, 100, 73.779),
        ({"variant": "easy"}, 100, 89.375),
        ({"variant": "medium"}, 100, 74.000),
        ({"variant": "hard"}, 100, 57.688),
        ({"variant": "informative"}, 5, 20.55),
    ],
)
def test_the_bayes_optimal_agent_earns_what_the_docstring_says(keywords, num_pulls, total):
    rewards = Bandit(**keywords).bayes_return(num_pulls)
    assert rewards.shape == (num_pulls,)
    assert rewards.sum() == pytest.approx(total, abs=6e-4)
    rewards[:] = 0.0  # a copy: the next is whole again
    assert Bandit(**keywords).bayes_return(num_pulls).sum() > 0.0


def test_the_bayes_optimum_is_none_where_it_is_infeasible_and_wants_a_number_of_episodes():
    for keywords in ({}, {"reward": "gaussian", "num_arms": 2}, {"variant": "restless"}):
        assert Bandit(**keywords).bayes_return(100) is None
    with pytest.raises(ConfigError, match="num_episodes="):
        Bandit().bayes_return(0)


# --- drifting arms ---------------------------------------------------------------------------------------------------


def test_drifting_arms_average_three_quarters_over_uniform_starts():
    starts = (np.arange(4000) + 0.5) / 4000
    for volatility in (0.01, 0.02, 0.2, 0.5):
        best = drifting_optimum(starts, np.full(4000, volatility), 100)
        assert best.mean() == pytest.approx(75.0, abs=1e-4)


def test_one_pull_of_drifting_arms_is_the_better_of_the_two():
    starts = np.array([0.0, 0.3, 0.5, 1.0])
    assert drifting_optimum(starts, np.full(4, 0.01), 1) == pytest.approx([1.0, 0.7, 0.5, 1.0])


@pytest.mark.parametrize(("start", "volatility"), [(0.5, 0.01), (0.5, 0.02), (1.0, 0.02), (0.1, 0.2), (0.9, 0.5)])
def test_the_drifting_optimum_is_what_the_walk_gives_on_average(start, volatility):
    num_rows, arms = 4000, DriftingArms()
    params = DriftingParams(np.full(num_rows, start), np.full(num_rows, volatility))
    rng = np.random.default_rng(3)
    state, total = arms.initial(params, num_rows), np.zeros(num_rows)
    for _ in range(100):
        total += arms.means(state, params).max(axis=1)
        state, _ = arms.pull(state, np.zeros(num_rows, np.int64), params, rng.random((num_rows, 2)))
    expected = drifting_optimum(params.first_mean[:1], params.volatility[:1], 100)[0]
    assert total.mean() == pytest.approx(expected, abs=4 * total.std() / np.sqrt(num_rows))


def _drift_kernel(volatility, num_cells):
    """Probabilities of going from the middle of one cell of [0, 1] into another, in one reflected step."""
    edges = np.arange(num_cells + 1) / num_cells
    middle = (np.arange(num_cells)[:, None] + 0.5) / num_cells
    kernel = np.zeros((num_cells, num_cells))
    for image in range(-6, 7):
        kernel += np.diff(stats.norm.cdf((edges + 2 * image - middle) / volatility), axis=1)
        kernel += np.diff(stats.norm.cdf((2 * image - edges[::-1] - middle) / volatility), axis=1)[:, ::-1]
    return kernel


@pytest.mark.slow
def test_an_agent_that_filters_earns_what_the_docstring_says_of_restless_bandits():
    family = Bandit(variant="restless")
    num_rows, num_cells = 10_000, 50
    rng = np.random.default_rng(0)
    params = TaskDistribution(family).draw(rng.integers(0, 2**64, num_rows, np.uint64))[0]
    kernels = [_drift_kernel(volatility, num_cells) for volatility in (0.02, 0.2)]
    middle = (np.arange(num_cells) + 0.5) / num_cells
    belief = np.full((2, num_rows, num_cells), 0.5 / num_cells)
    state, expected, earned = family.initial(params, np.empty((num_rows, 0))), np.zeros(num_rows), np.zeros(num_rows)
    for _ in range(100):
        first = belief.sum(axis=0) @ middle
        expected += np.maximum(first, 1.0 - first)
        arm = (first < 0.5).astype(np.int64)
        state, reward, *_ = family.step(state, arm, params, rng.random((num_rows, 2)))
        earned += reward
        better = (reward == 1.0) == (arm == 0)
        belief = belief * np.where(better[:, None], middle, 1.0 - middle)
        belief /= belief.sum(axis=(0, 2))[:, None]
        belief = np.stack([part @ kernel for part, kernel in zip(belief, kernels, strict=True)])
    for total in (expected, earned):
        assert total.mean() == pytest.approx(68.44, abs=4 * total.std() / np.sqrt(num_rows))
