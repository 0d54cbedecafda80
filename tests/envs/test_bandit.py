import pickle

import gymnasium as gym
import numpy as np
import pytest
from scipy import stats

import metagym
from metagym.distributions import TaskDistribution
from metagym.envs.bandit import VARIANTS, Bandit
from metagym.envs.bandit_arms import Pull
from metagym.errors import ConfigError, TaskError
from metagym.evaluation import evaluate

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
        {"variant": "simple"},
        {"num_arms": 3, "variant": "easy"},
        {"episode_length": 10},
        {"episode_length": 100, "variant": "easy"},
        {"episode_length": 0, "variant": "restless"},
        {"num_arms": True, "variant": "informative"},
        {"num_arms": 2.0, "variant": "easy"},
        {"num_arms": np.array([2, 2]), "variant": "easy"},
        {"num_arms": 2, "variant": "informative"},
        {"reward": "gaussian", "variant": "restless"},
        {"reward_std": 2.0, "variant": "hard"},
    ],
)
def test_keywords_out_of_range_are_refused_by_name(keywords):
    with pytest.raises(ConfigError, match=f"{next(iter(keywords))}="):
        Bandit(**keywords)


# --- variants as families --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_has_its_number_of_arms_and_says_so_again(variant):
    family = Bandit(variant=variant)
    num_arms = {"independent": 10, "informative": 11}.get(variant, 2)
    assert family.num_arms == family.action_space.n == num_arms
    assert Bandit(variant=variant, num_arms=num_arms).action_space == family.action_space


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_of_every_variant_are_bitwise_the_same_alone_and_among_others(variant):
    family = Bandit(variant=variant)
    rng = np.random.default_rng(5)
    keys, arms = rng.integers(0, 2**64, 64, np.uint64), rng.integers(0, family.num_arms, (3, 64))
    noise = rng.random((3, 64, family.num_step_draws))

    def play(rows):
        params, ids = TaskDistribution(family).draw(keys[rows])
        state, out = family.initial(params, np.empty((len(rows), 0))), [ids]
        out += [family.optimal_return(params), family.random_return(params)]
        for arm, uniforms in zip(arms, noise, strict=True):
            state, *rest = family.step(state, arm[rows], params, uniforms[rows])
            out += [*state, *rest[:2], family.observe(state, params)]
        return [column.tobytes() for column in out], [column.itemsize for column in out]

    whole, sizes = play(np.arange(64))
    for rows in (np.array([3]), np.array([63, 0]), rng.permutation(64)[:7]):
        for part, full, size in zip(play(rows)[0], whole, sizes, strict=True):
            assert part == b"".join(full[row * size : (row + 1) * size] for row in rows)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_observation_of_every_variant_is_constant_and_only_restless_goes_on(variant):
    env = gym.make("MetaBandit-v0", variant=variant)
    observation, _ = env.reset(seed=0)
    steps, over = 0, False
    while not over:
        after, _, terminated, truncated, info = env.step(steps % env.action_space.n)
        assert after == observation == 0
        assert set(info) == {"task_id", "trial_start"}
        steps, over = steps + 1, terminated or truncated
    assert (steps, terminated) == ((100, False) if variant == "restless" else (1, True))


def test_restless_episodes_are_as_long_as_wanted():
    family = Bandit(variant="restless", episode_length=1)
    assert family.episode_length == 1
    params = _sample(family, 3)
    step = family.step(family.initial(params, np.empty((3, 0))), np.zeros(3, np.int64), params, np.full((3, 2), 0.5))
    assert not step.terminated.any()
    assert family.random_return(params).tolist() == [0.5] * 3
    assert family.optimal_return(params) == pytest.approx(params.means.max(axis=1))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_survives_pickling(variant):
    family = Bandit(variant=variant)
    copy = pickle.loads(pickle.dumps(family))
    keys = np.arange(5, dtype=np.uint64)
    assert TaskDistribution(copy).draw(keys)[1].tolist() == TaskDistribution(family).draw(keys)[1].tolist()


@pytest.mark.parametrize("variant", ["easy", "medium", "hard"])
def test_both_mirror_images_are_for_training_and_none_for_testing(variant):
    first = _sample(Bandit(variant=variant), 200, part="train").first_mean
    assert 60 < np.sum(first < 0.5) < 140
    with pytest.raises(ConfigError, match=r"Bandit has no test part here: .*mirror image"):
        gym.make("MetaBandit-v0", variant=variant, split="test")


@pytest.mark.parametrize("variant", ["uniform", "restless"])
def test_continuous_mirrored_bandits_are_split_by_their_first_mean(variant):
    family = Bandit(variant=variant)
    train, test = (_sample(family, 2000, part=part).first_mean for part in ("train", "test"))
    assert not set(train) & set(test)
    assert stats.kstest(train, "uniform").pvalue > 1e-3
    assert stats.kstest(test, "uniform").pvalue > 1e-3


def test_eight_targets_are_for_training_and_two_for_testing():
    family = Bandit(variant="informative")
    train, test = (set(_sample(family, 500, part=part).target.tolist()) for part in ("train", "test"))
    assert (len(train), len(test)) == (8, 2)
    assert train | test == set(range(10))
    assert np.bincount(_sample(family, 5000).target).min() > 400


def test_ood_is_outside_the_training_support():
    for variant in ("easy", "medium", "hard"):
        assert stats.kstest(_sample(Bandit(variant=variant), 2000, part="ood").first_mean, "uniform").pvalue > 1e-3
    volatility = _sample(Bandit(variant="restless"), 2000, part="ood").volatility
    assert volatility.min() > 0.2
    assert stats.kstest(volatility, stats.uniform(0.2, 0.3).cdf).pvalue > 1e-3
    for variant in ("uniform", "informative"):
        with pytest.raises(ConfigError, match=f"'ood' has no tasks with variant='{variant}'"):
            _sample(Bandit(variant=variant), 1, part="ood")


def test_restless_bandits_are_slow_or_fast_equally_often():
    volatility = _sample(Bandit(variant="restless"), 2000, part="train").volatility
    assert set(volatility) == {0.02, 0.2}
    assert abs(np.mean(volatility == 0.2) - 0.5) < 4 * 0.5 / np.sqrt(2000)


def test_a_task_of_one_mirrored_variant_can_be_set_in_another():
    easy = metagym.make_family("MetaBandit-v0", variant="easy")
    (task,) = TaskDistribution(easy).sample(np.random.default_rng(0), 1)
    env = gym.make("MetaBandit-v0", variant="uniform").unwrapped
    env.set_task(task)
    env.reset()
    assert env.get_task() == task
    with pytest.raises(TaskError, match="means"):
        gym.make("MetaBandit-v0", num_arms=2).unwrapped.set_task(task)


@pytest.mark.parametrize(
    ("variant", "task", "message"),
    [
        ("easy", {"first_mean": 1.5}, "first_mean="),
        ("restless", {"first_mean": 0.5, "volatility": 0.0}, "volatility="),
        ("restless", {"first_mean": 0.5}, "missing"),
        ("informative", {"target": 10}, "target="),
        ("informative", {"target": 0.5}, "target="),
    ],
)
def test_tasks_of_variants_that_make_no_sense_are_refused(variant, task, message):
    with pytest.raises(TaskError, match=message):
        TaskDistribution(Bandit(variant=variant)).coerce(task)


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("variant", "random", "optimal"), [("uniform", 0.5, 0.75), ("restless", 50.0, 75.0)])
def test_limits_of_continuous_variants_average_to_the_documented(variant, random, optimal):
    family = Bandit(variant=variant)
    params = _sample(family, 20_000)
    best = family.optimal_return(params)
    assert best.mean() == pytest.approx(optimal, abs=4 * best.std() / np.sqrt(20_000))
    assert family.random_return(params) == pytest.approx(np.full(20_000, random))


@pytest.mark.parametrize("variant", ["easy", "informative", "restless"])
def test_random_pulls_earn_the_random_return(variant):
    class Anything:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return rng.integers(num_arms, size=len(observation)), state

    rng, num_arms = np.random.default_rng(0), Bandit(variant=variant).num_arms
    kwargs = {"variant": variant}
    curve = evaluate(Anything(), "MetaBandit-v0", split=None, n_tasks=500, episodes=3, env_kwargs=kwargs)
    difference = curve.scores[0].mean(axis=1) - curve.random
    assert difference.mean() == pytest.approx(0.0, abs=4 * difference.std() / np.sqrt(500))


# --- pictures --------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("variant", ["easy", "informative", "restless"])
def test_pictures_and_texts_of_variants_show_what_arms_pay_now(variant):
    env = gym.make("MetaBandit-v0", variant=variant, render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    env.step(1)
    assert before.shape == (320, 480, 3)
    assert np.any(before != env.render())
    family, params = env.unwrapped.family, env.unwrapped.family.params_of([env.unwrapped.get_task()])
    state = family.initial(params, np.empty((1, 0)))
    assert family.describe(state, params).split() == [f"{mean:.2f}" for mean in params.means[0]]
