"""Classical bandit agents: indices by hand, probabilities by integration, and the value of greed by recursion."""

from functools import cache

import numpy as np
import pytest
import torch as th
from scipy import integrate, stats

from metagym.algos.bandit_agents import (
    UCB1,
    EpsilonGreedyBandit,
    GreedyBandit,
    OptimisticThompsonSampling,
    ThompsonSampling,
    ucb1_indices,
)
from metagym.errors import ConfigError
from metagym.evaluation import evaluate

ALL = (UCB1, EpsilonGreedyBandit, GreedyBandit, OptimisticThompsonSampling, ThompsonSampling)


def _agent(kind, num_arms=3, **options):
    return kind(env="MetaBandit-v0", env_kwargs={"num_arms": num_arms}, episodes_per_trial=5, **options)


def _observations(agent, arms, rewards):
    shown = np.zeros((len(arms), *agent.observation_space.shape), np.float32)
    shown[:, [0, -1]] = 1.0
    shown[np.arange(len(arms)), 1 + np.array(arms)] = 1.0
    shown[:, -2] = rewards
    return shown


def _rows(counts, num_rows):
    return np.repeat(np.array([counts]), num_rows, axis=0)


# --- counting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
def test_it_counts_successes_and_failures_of_every_row(kind):
    agent, rng = _agent(kind), np.random.default_rng(0)
    state, wins, losses = None, np.zeros((4, 3), int), np.zeros((4, 3), int)
    _, state = agent.predict(np.zeros((4, *agent.observation_space.shape), np.float32))
    for _ in range(30):
        arms, rewards = rng.integers(3, size=4), rng.integers(2, size=4)
        kept = [part.copy() for part in state]
        _, later = agent.predict(_observations(agent, arms, rewards), state, np.zeros(4, np.bool_))
        assert all(np.array_equal(one, other) for one, other in zip(kept, state, strict=True))
        state = later
        np.add.at(wins, (np.arange(4), arms), rewards)
        np.add.at(losses, (np.arange(4), arms), 1 - rewards)
        assert state[0].tolist() == wins.tolist()
        assert state[1].tolist() == losses.tolist()
    _, state = agent.predict(_observations(agent, [0] * 4, [1] * 4), state, np.array([True, False, True, False]))
    assert [part.sum(axis=1).tolist() for part in state] == [
        [0, wins[1].sum() + 1, 0, wins[3].sum() + 1],
        [0, losses[1].sum(), 0, losses[3].sum()],
    ]


@pytest.mark.parametrize("kind", [UCB1, GreedyBandit])
def test_rows_decide_alone(kind):
    agent, rng = _agent(kind, 5), np.random.default_rng(1)
    wins, losses = rng.integers(6, size=(2, 64, 5))
    together = agent.arms(wins, losses, False)
    for size in (1, 2, 7):
        assert agent.arms(wins[:size], losses[:size], False).tolist() == together[:size].tolist()
    assert agent.arms(wins[::-1], losses[::-1], False).tolist() == together[::-1].tolist()


# --- decisions -------------------------------------------------------------------------------------------------------


def test_indices_of_ucb1_by_hand():
    wins, losses = np.array([[1, 0, 0]]), np.array([[1, 1, 0]])
    found = ucb1_indices(wins, losses, 0.5)
    log_time = np.log(3)
    expected = [
        1 / 2 + 0.5 * np.sqrt(2 * log_time / 4),
        1 / 3 + 0.5 * np.sqrt(2 * log_time / 3),
        1 / 2 + 0.5 * np.sqrt(2 * log_time / 2),
    ]
    np.testing.assert_allclose(found[0], expected, rtol=1e-14)
    assert _agent(UCB1, exploration=0.5).arms(wins, losses, False).tolist() == [2]
    assert ucb1_indices(np.zeros((1, 3), int), np.zeros((1, 3), int), 1.0).tolist() == [[0.5, 0.5, 0.5]]


def test_ucb1_without_exploration_is_greedy():
    wins, losses = np.random.default_rng(2).integers(9, size=(2, 200, 3))
    greedy = _agent(GreedyBandit).arms(wins, losses, False)
    assert _agent(UCB1, exploration=0.0).arms(wins, losses, False).tolist() == greedy.tolist()
    assert greedy[0] == np.argmax((wins[0] + 1) / (wins[0] + losses[0] + 2))


def _value_of_greed(num_arms, num_pulls):
    """Exact expected reward of the greedy agent, by recursion over its counts."""

    @cache
    def value(counts, left):
        if left == 0:
            return 0.0
        means = [(wins + 1) / (wins + losses + 2) for wins, losses in counts]
        arm = int(np.argmax(means))
        (wins, losses), total = counts[arm], 0.0
        for chance, after in ((means[arm], (wins + 1, losses)), (1 - means[arm], (wins, losses + 1))):
            total += chance * value((*counts[:arm], after, *counts[arm + 1 :]), left - 1)
        return means[arm] + total

    return value(((0, 0),) * num_arms, num_pulls)


def test_greed_is_worth_what_recursion_says():
    curve = evaluate(
        _agent(GreedyBandit, 5), "MetaBandit-v0", split=None, n_tasks=4000, episodes=10, env_kwargs={"num_arms": 5}
    )
    regret = 10 * curve.optimal - curve.scores[0].sum(axis=1)
    error = regret.std() / np.sqrt(4000)
    assert curve.settings["kind"] == "memory"
    assert 10 * 5 / 6 - regret.mean() == pytest.approx(_value_of_greed(5, 10), abs=4 * error)
    assert _value_of_greed(5, 10) == pytest.approx(6.569, abs=0.01)  # published: 6.6


def test_epsilon_greedy_explores_as_often_as_it_says():
    agent = _agent(EpsilonGreedyBandit, epsilon=0.3, seed=0)
    arms = agent.arms(_rows([0, 5, 0], 20_000), _rows([5, 0, 5], 20_000), False)
    shares = np.bincount(arms, minlength=3) / 20_000
    np.testing.assert_allclose(shares, [0.1, 0.8, 0.1], atol=0.012)
    assert (agent.arms(_rows([0, 5, 0], 50), _rows([5, 0, 5], 50), True) == 1).all()
    assert np.bincount(_agent(EpsilonGreedyBandit, epsilon=1.0).arms(*_rows([9, 0, 0], 9_000)[None].repeat(2, 0), False)
                       ).min() > 2_700  # fmt: skip


def test_thompson_sampling_pulls_arms_as_often_as_they_may_be_the_best():
    th.manual_seed(0)
    arms = _agent(ThompsonSampling, 2).arms(_rows([2, 0], 40_000), _rows([1, 0], 40_000), False)
    better, _ = integrate.quad(lambda mean: stats.beta(3, 2).pdf(mean) * mean, 0.0, 1.0)
    assert better == pytest.approx(0.6)
    assert np.mean(arms == 0) == pytest.approx(better, abs=4 * np.sqrt(0.24 / 40_000))


def _share_of_first(agent, wins, losses, num_rows=40_000):
    return np.mean(agent.arms(_rows(wins, num_rows), _rows(losses, num_rows), False) == 0)


def test_one_draw_of_the_optimistic_kind_is_thompson_sampling():
    th.manual_seed(1)
    share = _share_of_first(_agent(OptimisticThompsonSampling, 2, num_samples=1), [2, 0], [1, 0])
    assert share == pytest.approx(0.6, abs=0.01)


def test_of_several_draws_the_likeliest_decides():
    th.manual_seed(2)
    share = _share_of_first(_agent(OptimisticThompsonSampling, 2, num_samples=3), [3, 0], [1, 1])
    rng = np.random.default_rng(3)
    draws = np.stack([rng.beta(4, 2, (3, 40_000)), rng.beta(1, 2, (3, 40_000))], axis=-1)
    density = stats.beta(4, 2).pdf(draws[..., 0]) * stats.beta(1, 2).pdf(draws[..., 1])
    likeliest = draws[density.argmax(axis=0), np.arange(40_000)]
    assert share == pytest.approx(np.mean(likeliest[:, 0] > likeliest[:, 1]), abs=0.012)


def test_many_draws_come_near_to_the_mode():
    share = _share_of_first(_agent(OptimisticThompsonSampling, 2, num_samples=200, seed=0), [6, 3], [3, 6], 500)
    assert share > 0.95
    assert _share_of_first(_agent(ThompsonSampling, 2, seed=0), [6, 3], [3, 6]) < 0.92


def test_draws_at_the_bounds_have_a_density():
    agent = _agent(OptimisticThompsonSampling, 2, num_samples=5, seed=0)
    with np.errstate(all="raise"):
        agent.arms(_rows([0, 500], 200), _rows([500, 0], 200), False)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (UCB1, {"exploration": -0.1}),
        (EpsilonGreedyBandit, {"epsilon": 1.5}),
        (OptimisticThompsonSampling, {"num_samples": 0}),
    ],
)
def test_what_is_out_of_range_is_refused(kind, options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))}="):
        _agent(kind, **options)


@pytest.mark.parametrize("kwargs", [{"reward": "gaussian"}, {"variant": "easy"}])
def test_other_bandits_are_refused(kwargs):
    with pytest.raises(ConfigError, match="variant='independent'"):
        UCB1(env="MetaBandit-v0", episodes_per_trial=5, env_kwargs=kwargs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options", "published"),
    [(UCB1, {"exploration": 0.2}, 82.4), (GreedyBandit, {}, 77.1), (ThompsonSampling, {}, 76.7)],
)
def test_a_hundred_pulls_of_ten_arms_are_worth_what_was_published(kind, options, published):
    agent = _agent(kind, 10, **options)
    curve = evaluate(agent, "MetaBandit-v0", n_tasks=4000, episodes=100, env_kwargs={"num_arms": 10})
    total = curve.scores[0].sum(axis=1)
    assert total.mean() == pytest.approx(published, abs=3 * total.std() * np.sqrt(1 / 4000 + 1 / 1000))
