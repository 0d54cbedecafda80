import numpy as np
import pytest
from scipy import stats

from metagym.distributions import TaskDistribution
from metagym.envs.bandit import Bandit, Pull
from metagym.errors import ConfigError, TaskError

ONE = np.nextafter(1.0, 0.0)


def _params(family, *means):
    distribution = TaskDistribution(family)
    return family.params_of([distribution.coerce({"means": row}) for row in means])


def _pull(family, params, arms, noise):
    arms, noise = np.array(arms, np.int64), np.array(noise, np.float64)
    return family.step(Pull(np.full(len(arms), -1)), arms, params, noise.reshape(-1, 1))


def _sample(family, num_tasks, seed=0, part=None):
    keys = np.random.default_rng(seed).integers(0, 2**64, num_tasks, np.uint64)
    return TaskDistribution(family).part(part).draw(keys)[0]


@pytest.mark.parametrize(
    ("arm", "noise", "reward"), [(0, 0.19, 1.0), (0, 0.2, 0.0), (1, 0.0, 0.0), (2, ONE, 1.0), (2, 0.0, 1.0)]
)
def test_a_bernoulli_arm_pays_when_the_uniform_is_below_its_mean(arm, noise, reward):
    family = Bandit(num_arms=3)
    step = _pull(family, _params(family, [0.2, 0.0, 1.0]), [arm], [noise])
    assert step.reward.tolist() == [reward]
    assert step.state.arm.tolist() == [arm]
    assert step.terminated.tolist() == [True]
    assert step.success is None


def test_a_gaussian_arm_pays_the_quantile_of_the_uniform():
    family = Bandit(num_arms=2, reward="gaussian", reward_std=0.5)
    params = _params(family, *[[-1.0, 2.0]] * 3)
    # Phi(1) = 0.8413447460685429 and the median is the mean.
    rewards = _pull(family, params, [0, 1, 1], [0.5, 0.8413447460685429, 1 - 0.8413447460685429]).reward
    assert rewards == pytest.approx([-1.0, 2.5, 1.5])


def test_gaussian_rewards_are_normal_and_finite_at_both_ends():
    family = Bandit(num_arms=2, reward="gaussian", reward_std=2.0)
    params = _params(family, [0.25, 0.5]).take(np.zeros(20_000, np.int64))
    rewards = _pull(family, params, np.zeros(20_000), np.random.default_rng(0).random(20_000)).reward
    assert stats.kstest(rewards, stats.norm(0.25, 2.0).cdf).pvalue > 1e-3
    ends = _pull(family, params.take(np.arange(2)), [0, 0], [0.0, ONE]).reward
    assert np.isfinite(ends).all()
    assert np.abs(ends).max() < 17.0


def test_each_row_pulls_its_own_arm():
    family = Bandit(num_arms=3)
    params = _params(family, [1, 0, 0], [0, 1, 0], [0, 0, 1])
    assert _pull(family, params, [0, 1, 2], [0.5] * 3).reward.tolist() == [1.0, 1.0, 1.0]
    assert _pull(family, params, [1, 2, 0], [0.5] * 3).reward.tolist() == [0.0, 0.0, 0.0]


def test_the_observation_is_constant():
    family = Bandit()
    params = _sample(family, 4)
    state = family.initial(params, np.empty((4, 0)))
    observation = family.observe(state, params)
    assert observation.tolist() == [0, 0, 0, 0]
    assert observation.dtype == np.int64


def test_the_state_does_not_alias_the_actions():
    family = Bandit()
    actions = np.zeros(2, np.int64)
    step = family.step(Pull(np.full(2, -1)), actions, _sample(family, 2), np.full((2, 1), 0.5))
    actions[:] = 7
    assert step.state.arm.tolist() == [0, 0]


@pytest.mark.parametrize(("num_arms", "per_ten"), [(5, 8.333), (10, 9.091), (50, 9.804)])
def test_the_known_best_arm_pays_k_over_k_plus_one_on_average(num_arms, per_ten):
    family = Bandit(num_arms=num_arms)
    params = _sample(family, 40_000)
    best, random = family.optimal_return(params), family.random_return(params)
    assert 10 * best.mean() == pytest.approx(per_ten, abs=40 * best.std() / 200)
    assert random.mean() == pytest.approx(0.5, abs=4 * random.std() / 200)


def test_limits_of_one_bandit_by_hand():
    family = Bandit(num_arms=4)
    params = _params(family, [0.25, 0.5, 1.0, 0.25], [0.0, 0.0, 0.0, 0.0])
    assert family.optimal_return(params).tolist() == [1.0, 0.0]
    assert family.random_return(params).tolist() == [0.5, 0.0]


@pytest.mark.parametrize("reward", ["bernoulli", "gaussian"])
def test_rows_do_not_depend_on_each_other(reward):
    family = Bandit(num_arms=7, reward=reward)
    rng = np.random.default_rng(2)
    keys, arms, noise = rng.integers(0, 2**64, 17, np.uint64), rng.integers(0, 7, 17), rng.random(17)
    for part in (None, "train", "ood"):
        distribution = TaskDistribution(family).part(part)
        params, ids = distribution.draw(keys)
        whole = _pull(family, params, arms, noise).reward
        for rows in ([3], [16, 0, 5], rng.permutation(17)):
            fewer, fewer_ids = distribution.draw(keys[rows])
            assert fewer_ids.tolist() == ids[rows].tolist()
            assert _pull(family, fewer, arms[rows], noise[rows]).reward.tolist() == whole[rows].tolist()
            assert family.random_return(fewer).tolist() == family.random_return(params)[rows].tolist()


@pytest.mark.parametrize("reward", ["bernoulli", "gaussian"])
def test_training_means_are_uniform(reward):
    for part in (None, "train", "test"):
        means = _sample(Bandit(num_arms=3, reward=reward), 5000, part=part).means
        assert stats.kstest(means.ravel(), stats.uniform().cdf).pvalue > 1e-3


def test_train_and_test_share_no_bandit():
    train, test = ({row.tobytes() for row in _sample(Bandit(), 2000, part=part).means} for part in ("train", "test"))
    assert len(train) == len(test) == 2000
    assert not train & test


def test_ood_bernoulli_bandits_have_one_better_arm_and_mirrored_others():
    means = _sample(Bandit(num_arms=5), 20_000, part="ood").means
    best = means.max(axis=1)
    assert np.sum(means == best[:, None]) == 20_000
    assert np.sum(means == means.min(axis=1, keepdims=True)) == 80_000
    assert best + means.min(axis=1) == pytest.approx(np.ones(20_000))
    assert stats.kstest(best, stats.uniform(0.55, 0.45).cdf).pvalue > 1e-3
    assert stats.chisquare(np.bincount(means.argmax(axis=1))).pvalue > 1e-3


def test_ood_gaussian_means_lie_on_both_sides_of_the_training_range():
    means = _sample(Bandit(num_arms=4, reward="gaussian"), 5000, part="ood").means.ravel()
    assert np.all((means < 0.0) | (means > 1.0))
    assert np.all((means >= -1.0) & (means <= 2.0))
    joined = np.where(means < 0.0, means + 1.0, means)
    assert stats.kstest(joined, stats.uniform(0.0, 2.0).cdf).pvalue > 1e-3


def test_extreme_uniforms_give_tasks_inside_the_space():
    noise = np.array([[0.0] * 4, [0.5] * 4, [ONE] * 4])
    for reward in ("bernoulli", "gaussian"):
        family = Bandit(num_arms=4, reward=reward)
        for region in ("train", "ood"):
            means = family.draw_structure(noise, region)["means"]
            assert all(row in family.task_space["means"] for row in means)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"means": [0.1, 0.2]}, r"shape \(2,\)"),
        ({"means": [0.1, 0.2, np.nan]}, "means="),
        ({"means": [0.1, 0.2, 1.1]}, "means="),
        ({"means": [0.1, 0.2, -0.1]}, "means="),
        ({"means": ["a", "b", "c"]}, "means="),
        ({"p": [0.1, 0.2, 0.3]}, "missing"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(task, message):
    with pytest.raises(TaskError, match=message):
        TaskDistribution(Bandit(num_arms=3)).coerce(task)


@pytest.mark.parametrize(
    "keywords",
    [
        {"num_arms": 1},
        {"num_arms": 2.5},
        {"reward": "poisson"},
        {"reward_std": 0.0, "reward": "gaussian"},
        {"reward_std": 2.0},
    ],
)
def test_keywords_out_of_range_are_refused_by_name(keywords):
    with pytest.raises(ConfigError, match=f"{next(iter(keywords))}="):
        Bandit(**keywords)


@pytest.mark.parametrize(("reward", "num_arms"), [("bernoulli", 2), ("gaussian", 10), ("gaussian", 1000)])
def test_the_picture_marks_the_arm_pulled(reward, num_arms):
    family = Bandit(num_arms=num_arms, reward=reward)
    params = _sample(family, 1)
    before, after = (family.draw(Pull(np.array([arm])), params) for arm in (-1, 1))
    assert before.shape == (320, 480, 3)
    assert before.dtype == np.uint8
    assert np.any(before != after)


def test_the_text_marks_the_arm_pulled():
    family = Bandit(num_arms=3)
    params = _params(family, [0.25, 0.5, 1.0])
    assert family.describe(Pull(np.array([1])), params) == " 0.25  [0.50]  1.00 \n"
