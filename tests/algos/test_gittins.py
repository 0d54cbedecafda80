from functools import cache
from itertools import product

import gymnasium as gym
import numpy as np
import pytest

from metagym.algos import Gittins
from metagym.algos.base import MemoryLearner
from metagym.algos.gittins import gittins_indices
from metagym.envs.bandit_limits import independent_limit
from metagym.errors import ConfigError
from metagym.evaluation import evaluate
from metagym.wrappers import RL2Context, Trial


def _index(tables, wins, losses, left):
    pulls = wins + losses
    return float(tables[left - 1][pulls * (pulls + 1) // 2 + wins])


def _by_bisection(wins, losses, left):
    """The charge at which the best stopping rule breaks even, found for one state alone."""
    low, high = 0.0, 1.0
    for _ in range(50):
        charge = 0.5 * (low + high)
        value = np.zeros(left + 1)
        for pulls in range(left - 1, -1, -1):
            mean = (wins + np.arange(pulls + 1) + 1) / (wins + losses + pulls + 2)
            worth = mean - charge + mean * value[1 : pulls + 2] + (1 - mean) * value[: pulls + 1]
            value = np.maximum(worth, 0.0)
        low, high = (charge, high) if worth[0] >= 0 else (low, charge)
    return low


def _learner(num_arms, num_pulls):
    return Gittins(env="MetaBandit-v0", episodes_per_trial=num_pulls, env_kwargs={"num_arms": num_arms})


# --- indices ---------------------------------------------------------------------------------------------------------


def test_indices_of_two_pulls_by_hand():
    tables = gittins_indices(2)
    assert [table.size for table in tables] == [3, 1]
    # The last pull is worth the mean: 1/2, and 1/3 or 2/3 after one.
    assert tables[0] == pytest.approx([1 / 2, 1 / 3, 2 / 3])
    # Before it, the best rule goes on after a success: (1/2 + 1/2 * 2/3) / (1 + 1/2).
    assert tables[1] == pytest.approx([5 / 9])


def test_indices_are_the_break_even_charges_of_single_states():
    tables = gittins_indices(40)
    rng = np.random.default_rng(0)
    for _ in range(150):
        pulls = rng.integers(40)
        left, wins = rng.integers(1, 41 - pulls), rng.integers(pulls + 1)
        exact = _by_bisection(wins, pulls - wins, left)
        found = _index(tables, wins, pulls - wins, left)
        assert exact - 2e-5 <= found <= exact + 2e-7


@pytest.mark.slow
def test_indices_of_a_long_horizon_are_the_break_even_charges_too():
    tables = gittins_indices(150)
    rng = np.random.default_rng(1)
    errors = []
    for _ in range(300):
        pulls = rng.integers(150)
        left, wins = rng.integers(1, 151 - pulls), rng.integers(pulls + 1)
        errors.append(_by_bisection(wins, pulls - wins, left) - _index(tables, wins, pulls - wins, left))
    assert max(errors) < 1e-4
    assert min(errors) > -1e-6
    assert np.mean(np.abs(errors)) < 2e-6


def test_indices_grow_with_successes_and_with_pulls_left_and_exceed_the_mean():
    tables = gittins_indices(30)
    for pulls, left in product(range(29), range(1, 29)):
        if pulls + left > 29:
            continue
        row = [_index(tables, wins, pulls - wins, left) for wins in range(pulls + 1)]
        longer = [_index(tables, wins, pulls - wins, left + 1) for wins in range(pulls + 1)]
        assert np.all(np.diff(row) > 0.0)
        assert np.all(np.array(longer) >= np.array(row) - 2e-5)
        assert np.all(np.array(row) >= np.arange(1, pulls + 2) / (pulls + 2) - 1e-6)


def _policy_value(num_pulls):
    """Exact value of the index policy on two arms, by recursion."""
    tables = gittins_indices(num_pulls)

    @cache
    def value(first, second, left):
        if not left:
            return 0.0
        arms = (first, second)
        arm = int(np.argmax([_index(tables, *counts, left) for counts in arms]))
        wins, losses = arms[arm]
        mean = (wins + 1) / (wins + losses + 2)
        won, lost = (
            value(*sorted((arms[1 - arm], after)), left - 1) for after in ((wins + 1, losses), (wins, losses + 1))
        )
        return mean * (1.0 + won) + (1.0 - mean) * lost

    return value((0, 0), (0, 0), num_pulls)


def test_the_index_policy_is_almost_but_not_more_than_bayes_optimal():
    for num_pulls in (3, 10, 20):
        limit = sum(independent_limit(2, num_pulls))
        assert limit - 0.002 <= _policy_value(num_pulls) <= limit + 1e-9


# --- the learner -----------------------------------------------------------------------------------------------------


def _observation(learner, arm, reward):
    observation = np.zeros(learner.observation_space.shape, np.float32)
    observation[0] = observation[-1] = 1.0
    if arm is not None:
        observation[1 + arm], observation[-2] = 1.0, reward
    return observation


def test_it_stays_with_a_success_and_leaves_a_failure():
    learner = _learner(3, 5)
    arm, state = learner.predict(_observation(learner, None, 0.0))
    assert arm.shape == ()
    assert arm == 0
    arm, state = learner.predict(_observation(learner, 0, 1.0), state)
    assert arm == 0
    arm, state = learner.predict(_observation(learner, 0, 0.0), state)
    assert [column.tolist() for column in state] == [[[1, 0, 0]], [[1, 0, 0]]]
    assert arm == 1  # 2 successes in 4 with the prior, against an untouched arm of the same mean
    assert learner.predict(_observation(learner, 1, 0.0), state)[0] == 2


def test_rows_have_memories_of_their_own_and_forget_at_the_start_of_a_trial():
    learner = _learner(2, 8)
    rows = [_observation(learner, 0, 1.0), _observation(learner, 0, 0.0)]
    _, state = learner.predict(np.stack([_observation(learner, None, 0.0)] * 2))
    arms, state = learner.predict(np.stack(rows), state, np.array([False, False]))
    assert arms.tolist() == [0, 1]
    kept = [column.copy() for column in state]
    fresh = np.stack([_observation(learner, 0, 1.0), _observation(learner, None, 0.0)])
    for starts in (np.array([False, True]), [False, True], np.array([0, 1])):
        _, later = learner.predict(fresh, state, starts)
        assert [column.tolist() for column in later] == [[[2, 0], [0, 0]], [[0, 0], [0, 0]]]
    assert all(np.array_equal(before, now) for before, now in zip(kept, state, strict=True))


def test_past_its_horizon_it_is_greedy():
    learner = _learner(2, 1)
    state = None
    for reward in (1.0, 1.0, 0.0):
        _, state = learner.predict(_observation(learner, 0, reward), state)
    arm, _ = learner.predict(_observation(learner, 1, 0.0), state)
    assert arm == 0


def test_it_plays_the_env_that_it_makes():
    learner = _learner(4, 6)
    assert isinstance(learner, MemoryLearner)
    task = {"means": [0.0, 0.0, 1.0, 0.0]}
    env = learner.make_env(task)
    observation, _ = env.reset(seed=0)
    state, arms, done = None, [], False
    while not done:
        arm, state = learner.predict(observation, state)
        observation, _, done, _, _ = env.step(arm)
        arms.append(int(arm))
    assert arms == [0, 1, 2, 2, 2, 2]
    learner.set_random_seed(0)
    assert learner.learn(100) is learner
    assert learner.num_timesteps == 0


def test_it_takes_ids_and_envs_scalar_and_vector():
    for env in (
        gym.make("MetaBandit-v0"),
        gym.make_vec("MetaBandit-v0", num_envs=2),
        RL2Context(Trial(gym.make_vec("MetaBandit-v0", num_envs=2), episodes_per_trial=3)),
    ):
        learner = Gittins("MlpPolicy", env, episodes_per_trial=3, seed=0)
        assert learner.action_space.n == 10
        assert learner.observation_space.shape == (13,)


@pytest.mark.parametrize(
    "env",
    [
        None,
        "MetaPointGoal-v0",
        "CartPole-v1",
        gym.spaces.Discrete(2),
    ],
)
def test_what_is_no_bernoulli_bandit_is_refused(env):
    with pytest.raises(ConfigError, match="plays Bernoulli bandits"):
        Gittins(env=env, episodes_per_trial=5)


@pytest.mark.parametrize("kwargs", [{"reward": "gaussian"}, {"variant": "easy"}, {"variant": "restless"}])
def test_other_bandits_are_refused(kwargs):
    with pytest.raises(ConfigError, match="variant='independent'"):
        Gittins(env="MetaBandit-v0", episodes_per_trial=5, env_kwargs=kwargs)


@pytest.mark.parametrize("horizon", [None, 0, 1001, 2.0, True])
def test_a_horizon_out_of_range_is_refused(horizon):
    with pytest.raises(ConfigError, match="episodes_per_trial="):
        Gittins(env="MetaBandit-v0", episodes_per_trial=horizon)


# --- evaluation ------------------------------------------------------------------------------------------------------


def _evaluated(num_arms, num_pulls, num_tasks):
    """Mean total and its standard error. The regret of a task varies less than its total, and has the same news."""
    curve = evaluate(
        _learner(num_arms, num_pulls),
        "MetaBandit-v0",
        split=None,
        n_tasks=num_tasks,
        episodes=num_pulls,
        env_kwargs={"num_arms": num_arms},
    )
    assert curve.settings["kind"] == "memory"
    regret = num_pulls * curve.optimal - curve.scores[0].sum(axis=1)
    return num_pulls * num_arms / (num_arms + 1) - regret.mean(), regret.std() / np.sqrt(num_tasks)


@pytest.mark.parametrize("num_arms", [2, 5, 10])
def test_ten_pulls_are_worth_what_dynamic_programming_says(num_arms):
    mean, error = _evaluated(num_arms, 10, 2000)
    assert mean == pytest.approx(sum(independent_limit(num_arms, 10)), abs=4 * error)
    assert error < 0.06


@pytest.mark.slow
@pytest.mark.parametrize(("num_arms", "value"), [(2, 64.918), (5, 78.650), (10, 83.763)])
def test_a_hundred_pulls_are_worth_what_was_published(num_arms, value):
    mean, error = _evaluated(num_arms, 100, 30_000)
    assert mean == pytest.approx(value, abs=4 * error)
    assert error < 0.05
