import numpy as np
import pytest
from scipy import stats

from metagym.envs.bandit_arms import (
    LEVELS,
    DriftingArms,
    DriftingParams,
    InformativeArms,
    InformativeParams,
    MirroredArms,
    MirroredParams,
    Pull,
    Walk,
)

HALF = 0.5
ONE_SIGMA = 0.8413447460685429  # the standard normal distribution function at 1


def _none(num_rows):
    return Pull(np.full(num_rows, -1))


@pytest.mark.parametrize(("arm", "noise", "reward"), [(0, 0.24, 1.0), (0, 0.25, 0.0), (1, 0.74, 1.0), (1, 0.75, 0.0)])
def test_mirrored_arms_pay_with_q_and_one_minus_q(arm, noise, reward):
    params = MirroredParams(np.array([0.25]))
    state, rewards = MirroredArms(None).pull(_none(1), np.array([arm]), params, np.array([[noise]]))
    assert rewards.tolist() == [reward]
    assert state.arm.tolist() == [arm]
    assert params.means.tolist() == [[0.25, 0.75]]


def test_limits_of_mirrored_arms_by_hand():
    arms, params = MirroredArms((0.1, 0.9)), MirroredParams(np.array([0.1, 0.9, 0.5]))
    assert arms.optimal_return(params).tolist() == [0.9, 0.9, 0.5]
    assert arms.random_return(params).tolist() == [0.5, 0.5, 0.5]


def test_the_informative_arm_tells_the_target_and_no_other_does():
    params = InformativeParams(np.array([1, 9]))
    arms = InformativeArms()
    noise = np.empty((2, 0))
    rewards = [arms.pull(_none(2), np.full(2, arm), params, noise)[1].tolist() for arm in (0, 1, 9, 10)]
    assert rewards == [[1.0, 1.0], [5.0, 1.0], [1.0, 5.0], [0.2, 1.0]]
    means = params.means
    assert [means[:, arm].tolist() for arm in (0, 1, 9, 10)] == rewards


def test_the_first_pull_of_an_informative_bandit_is_worth_what_the_paper_says():
    means = InformativeParams(np.arange(10)).means
    assert means[:, :10].mean() == pytest.approx(1.4)
    assert means[:, 10].mean() == pytest.approx(0.55)
    assert InformativeArms().random_return(InformativeParams(np.arange(10))).mean() == pytest.approx(14.55 / 11)


@pytest.mark.parametrize(
    ("before", "noise", "after"),
    [
        (0.5, HALF, 0.5),
        (0.5, ONE_SIGMA, 0.7),
        (0.5, 1 - ONE_SIGMA, 0.3),
        (0.9, ONE_SIGMA, 0.9),  # 1.1, reflected
        (0.1, 1 - ONE_SIGMA, 0.1),  # -0.1, reflected
        (1.0, ONE_SIGMA, 0.8),
    ],
)
def test_drifting_arms_move_by_the_quantile_and_are_reflected(before, noise, after):
    params = DriftingParams(np.array([0.3]), np.array([0.2]))
    walk = Walk(np.array([-1]), np.array([before]))
    state, _ = DriftingArms().pull(walk, np.array([0]), params, np.array([[0.0, noise]]))
    assert state.first_mean == pytest.approx([after])


def test_a_drifting_arm_pays_by_where_it_was_before_it_moved():
    params = DriftingParams(np.array([0.3]), np.array([0.2]))
    arms = DriftingArms()
    start = arms.initial(params, 1)
    assert start.first_mean.tolist() == [0.3]
    _, reward = arms.pull(start, np.array([0]), params, np.array([[0.29, ONE_SIGMA]]))
    assert reward.tolist() == [1.0]
    state, reward = arms.pull(start, np.array([0]), params, np.array([[0.31, ONE_SIGMA]]))
    assert reward.tolist() == [0.0]
    assert arms.means(state, params)[0] == pytest.approx([0.5, 0.5])
    assert start.first_mean.tolist() == [0.3]


@pytest.mark.parametrize("volatility", [0.02, 0.2, 0.5])
def test_reflection_keeps_drifting_means_uniform_and_inside(volatility):
    rng = np.random.default_rng(0)
    params = DriftingParams(rng.random(5000), np.full(5000, volatility))
    arms, state = DriftingArms(), DriftingArms().initial(params, 5000)
    for _ in range(20):
        state, _ = arms.pull(state, np.zeros(5000, np.int64), params, rng.random((5000, 2)))
    assert stats.kstest(state.first_mean, "uniform").pvalue > 1e-3


def test_extreme_uniforms_keep_drifting_means_inside():
    last = np.nextafter(1.0, 0.0)
    params = DriftingParams(np.array([0.0, 1.0, 0.5, 0.5]), np.full(4, 0.5))
    noise = np.array([[0.0, 0.0], [0.0, last], [last, 0.0], [last, last]])
    state, _ = DriftingArms().pull(DriftingArms().initial(params, 4), np.zeros(4, np.int64), params, noise)
    assert np.all((state.first_mean >= 0.0) & (state.first_mean <= 1.0))


@pytest.mark.slow
def test_easy_bandits_are_those_of_gymnax():
    gymnax, jax = pytest.importorskip("gymnax"), pytest.importorskip("jax")
    env, settings = gymnax.make("BernoulliBandit-misc")
    theirs = {tuple(env.reset(jax.random.PRNGKey(seed), settings)[1].reward_probs.tolist()) for seed in range(10)}
    ours = MirroredArms(LEVELS["easy"]).draw_structure(np.array([[0.0], [0.9]]), "train")
    assert sorted(theirs) == [pytest.approx(means) for means in MirroredParams(**ours).means.tolist()]


def test_ood_volatility_is_above_that_of_training_and_at_most_one_half():
    noise = np.array([[0.0], [0.5], [np.nextafter(1.0, 0.0)]])
    volatility = DriftingArms().draw_details(noise, "ood")["volatility"]
    np.testing.assert_allclose(volatility, [0.5, 0.35, 0.2], rtol=0.0, atol=1e-12)
    assert np.all((volatility > 0.2) & (volatility <= 0.5))
