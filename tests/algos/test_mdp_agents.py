"""Classical agents for processes: bonuses and confidence by hand, draws by their laws, and published returns."""

import numpy as np
import pytest
import torch as th

from metagym.algos.mdp_agents import BEB, OPSRL, PSRL, UCRL2, EpsilonGreedyMDP, GreedyMDP, QLearning
from metagym.algos.mdp_planning import Counts, backward_induction
from metagym.errors import ConfigError
from metagym.evaluation import evaluate

ENV = "MetaTabularMDP-v0"
SMALL = {"num_states": 3, "num_actions": 2, "episode_length": 4}


def _agent(kind, env_kwargs=SMALL, **options):
    return kind(env=ENV, env_kwargs=env_kwargs, episodes_per_trial=5, **options)


def _counts(num_rows=1, seed=0):
    rng = np.random.default_rng(seed)
    tries = rng.integers(6, size=(num_rows, 3, 2))
    reached = np.moveaxis(rng.multinomial(tries, np.ones(3) / 3), 3, 1)
    return Counts(tries, rng.normal(size=tries.shape) * tries, np.ascontiguousarray(reached))


# --- agents with a model ---------------------------------------------------------------------------------------------


def test_greed_plans_with_what_was_seen():
    counts = _counts(4)
    values = _agent(GreedyMDP).values(counts, np.ones(4, int))
    tried = counts.tries > 0
    average = np.where(tried, counts.earned / np.maximum(counts.tries, 1), 0.0)
    np.testing.assert_allclose(values[:, 3], average, atol=2e-3)  # the last step; the prior weighs 0.0001
    shares = np.where(tried[:, None], counts.reached / np.maximum(counts.tries, 1)[:, None], 1 / 3)
    np.testing.assert_allclose(values, backward_induction(average, shares, 4), atol=0.01)
    unknown = _agent(GreedyMDP, prior_mean=7.0).values(counts, np.ones(4, int))[:, 3]
    np.testing.assert_allclose(unknown[~tried], 7.0)
    assert np.abs(unknown - values[:, 3])[tried].max() < 1e-3


def test_bonuses_of_beb_by_hand():
    counts = _counts()
    now, later = _agent(BEB, scaling=0.01).bonuses(counts)
    # Precision 1 + n, weights 3 + n; 2 * 4 ** 3 * 0.01 = 1.28.
    np.testing.assert_allclose(now, 1.0 / (2.0 + counts.tries))
    np.testing.assert_allclose(later, 1.28 / (4.0 + counts.tries))
    values = _agent(BEB, scaling=0.01).values(counts, np.ones(1, int))
    mean = counts.earned / (1.0 + counts.tries)
    np.testing.assert_allclose(values[:, 3], mean + now)
    before = mean + now + later
    transitions = (counts.reached + 1.0) / (3.0 + counts.tries)[:, None]
    before += np.einsum("nt,ntsa->nsa", values[:, 3].max(axis=2), transitions)
    np.testing.assert_allclose(values[:, 2], before)


def test_confidence_of_ucrl2_by_hand():
    counts = _counts()
    rewards, radius = _agent(UCRL2, scaling=0.1, delta=0.2).slack(counts, np.array([7]))
    confidence = np.log(2 * 3 * 2 * 8 / 0.2)
    seen = np.maximum(counts.tries, 1)
    np.testing.assert_allclose(rewards, 0.1 * np.sqrt(4 * confidence / seen))
    np.testing.assert_allclose(radius, 0.1 * np.sqrt(12 * confidence / seen))
    known = _agent(UCRL2, scaling=0.0).values(counts, np.array([7]))
    np.testing.assert_allclose(known, _agent(GreedyMDP).values(counts, np.array([7])), atol=2e-3)


def test_optimism_is_no_less_than_what_is_estimated():
    counts = _counts(30)
    number = np.full(30, 3)
    estimated = _agent(UCRL2, scaling=0.0).values(counts, number)
    assert (_agent(UCRL2, scaling=0.2).values(counts, number) > estimated).all()
    twice = _agent(UCRL2, scaling=0.2, cumulative=True).values(counts, number)
    assert not np.array_equal(twice, _agent(UCRL2, scaling=0.2).values(counts, number))


def test_posterior_sampling_draws_rewards_from_their_posterior():
    counts = _counts()
    repeated = Counts(*(np.repeat(array, 20_000, axis=0) for array in counts))
    agent = _agent(PSRL, seed=0)
    drawn = agent.values(repeated, np.ones(20_000, int))[:, 3]
    mean, precision = agent.believed_rewards(counts)
    np.testing.assert_allclose(drawn.mean(axis=0), mean[0], atol=0.03)
    np.testing.assert_allclose(drawn.var(axis=0), 1.0 / precision[0], atol=0.03)


def test_of_several_draws_the_highest_value_counts():
    counts = Counts(*(np.repeat(array, 4000, axis=0) for array in _counts()))
    th.manual_seed(1)
    three = _agent(OPSRL, num_samples=3).values(counts, np.ones(4000, int))
    single = [_agent(PSRL).values(counts, np.ones(4000, int)) for _ in range(3)]
    highest = np.maximum.reduce(single)
    np.testing.assert_allclose(three.mean(axis=0), highest.mean(axis=0), atol=0.12)
    np.testing.assert_allclose(three.std(axis=0), highest.std(axis=0), atol=0.12)
    th.manual_seed(2)
    one = _agent(OPSRL, num_samples=1).values(counts, np.ones(4000, int))
    th.manual_seed(2)
    assert np.array_equal(one, _agent(PSRL).values(counts, np.ones(4000, int)))


@pytest.mark.parametrize("kind", [EpsilonGreedyMDP, QLearning])
def test_exploration_is_as_frequent_as_it_says_and_absent_where_nothing_is_drawn(kind):
    agent = _agent(kind, epsilon=0.4, seed=0)
    values = np.tile([[0.0, 1.0]], (20_000, 1))
    assert np.mean(agent.choose(values, agent.epsilon, False) == 0) == pytest.approx(0.2, abs=0.012)
    assert (agent.choose(values, agent.epsilon, True) == 1).all()
    assert (agent.choose(values[:, ::-1] * 0.0, agent.epsilon, True) == 0).all()


# --- an agent without ------------------------------------------------------------------------------------------------


def test_q_learning_by_hand():
    agent = _agent(QLearning, learning_rate=0.5, discount=0.8, epsilon=0.0, initial_value=2.0)
    shown = np.zeros((1, *agent.observation_space.shape), np.float32)
    shown[0, [0, -1]] = 1.0
    _, memory = agent.predict(shown, deterministic=True)
    assert memory.values.tolist() == [[[2.0, 2.0]] * 3]
    shown[0] = 0.0
    shown[0, [1, 4]], shown[0, -2] = 1.0, 3.0  # action 1 led to state 1 and paid 3
    action, memory = agent.predict(shown, memory, deterministic=True)
    # The error is 3 + 0.8 * 2 - 2 = 2.6, and half of it is corrected.
    np.testing.assert_allclose(memory.values[0], [[2.0, 3.3], [2.0, 2.0], [2.0, 2.0]])
    assert action.tolist() == [0]
    kept = memory.values.copy()
    shown[0] = 0.0
    shown[0, [0, 3, -1]], shown[0, -2] = 1.0, -1.0  # action 0 ended the episode and paid -1
    action, later = agent.predict(shown, memory, deterministic=True)
    # The error is -1 - 2 = -3: what follows the last step is worth nothing.
    np.testing.assert_allclose(later.values[0], [[2.0, 3.3], [0.5, 2.0], [2.0, 2.0]])
    assert action.tolist() == [1]
    assert np.array_equal(memory.values, kept)
    _, fresh = agent.predict(shown, later, np.array([True]))
    assert fresh.values.tolist() == [[[2.0, 2.0]] * 3]


# --- arguments, and what they earn -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (OPSRL, "num_samples", 0), (UCRL2, "scaling", -1.0), (UCRL2, "delta", 0.0), (UCRL2, "cumulative", 1),
        (BEB, "scaling", None),
        (EpsilonGreedyMDP, "epsilon", 2.0), (PSRL, "prior_mean", float("inf")), (QLearning, "discount", 1.5),
        (QLearning, "learning_rate", -0.1), (QLearning, "epsilon", "0"), (QLearning, "initial_value", float("nan")),
    ],
)  # fmt: skip
def test_what_is_out_of_range_is_refused(kind, name, value):
    with pytest.raises(ConfigError, match=f"{name}="):
        _agent(kind, **{name: value})


@pytest.mark.parametrize(("kind", "fixed"), [(PSRL, {"num_samples": 2}), (GreedyMDP, {"epsilon": 0.1})])
def test_what_is_fixed_cannot_be_given(kind, fixed):
    with pytest.raises(TypeError, match=next(iter(fixed))):
        _agent(kind, **fixed)


def _total(agent, num_tasks, episodes):
    curve = evaluate(agent, ENV, n_tasks=num_tasks, episodes=episodes, seed=1)
    total = curve.scores[0].sum(axis=1)
    return total.mean(), total.std()


PUBLISHED = [
    (PSRL, {}, 138.1), (OPSRL, {}, 144.1), (UCRL2, {"cumulative": True}, 146.6), (BEB, {}, 150.2),
    (EpsilonGreedyMDP, {}, 132.8), (GreedyMDP, {}, 134.8),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options", "published"), [PUBLISHED[0], PUBLISHED[3], PUBLISHED[5]])
def test_ten_episodes_are_worth_what_was_published(kind, options, published):
    mean, spread = _total(_agent(kind, {}, **options), 300, 10)
    assert mean == pytest.approx(published, abs=3 * spread * np.sqrt(1 / 300 + 1 / 1000))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "options", "published"), PUBLISHED)
def test_ten_episodes_are_worth_what_was_published_closely(kind, options, published):
    mean, spread = _total(_agent(kind, {}, **options), 2000, 10)
    assert mean == pytest.approx(published, abs=3 * spread * np.sqrt(1 / 2000 + 1 / 1000))


def test_a_prior_that_is_right_makes_greed_far_better():
    wrong, spread = _total(_agent(GreedyMDP, {}), 200, 20)
    right, _ = _total(_agent(GreedyMDP, {}, prior_mean=1.0), 200, 20)
    assert right > wrong + 3 * spread / np.sqrt(200)


def test_q_learning_learns():
    agent = _agent(QLearning, {})
    curve = evaluate(agent, ENV, n_tasks=200, episodes=40, seed=1)
    first, last = curve.scores[0][:, :5].mean(), curve.scores[0][:, -5:].mean()
    assert first < last - 1.0
    assert last > 13.0  # 10 at random, 21.8 at best
