from functools import cache
from itertools import product

import numpy as np
import pytest
from scipy import stats

from metagym.distributions import TaskDistribution
from metagym.engine import TaskEnv
from metagym.envs.two_step import TwoStep
from metagym.errors import ConfigError, TaskError
from metagym.tabular import Position

ONE = np.nextafter(1.0, 0.0)


def _params(family, *tasks):
    distribution = TaskDistribution(family)
    return family.params_of([distribution.coerce(task) for task in tasks])


def _sample(family, num_tasks, seed=0, part=None):
    keys = np.random.default_rng(seed).integers(0, 2**64, num_tasks, np.uint64)
    return TaskDistribution(family).part(part).draw(keys)[0]


def _step(family, params, cells, actions, noise):
    states = Position(np.array(cells, np.int64).reshape(-1))
    return family.step(states, np.array(actions).reshape(-1), params, np.array(noise, np.float64).reshape(-1, 1))


def _looks(family, step, params):
    return family.observe(step.state, params).tolist()


# --- one round -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("common_state", "action", "noise", "reached"),
    [
        (1, 0, 0.0, 1),
        (1, 0, 0.749, 1),
        (1, 0, 0.751, 2),
        (1, 1, 0.1, 2),
        (1, 1, ONE, 1),
        (2, 0, 0.1, 2),
        (2, 1, 0.8, 2),
    ],
)
def test_an_action_commonly_leads_to_its_own_state(common_state, action, noise, reached):
    family = TwoStep(random_transitions=True)
    params = _params(family, {"good_state": 1, "common_state": common_state})
    step = _step(family, params, 0, action, noise)
    assert _looks(family, step, params) == [reached]
    assert step.reward.tolist() == [0.0]
    assert step.terminated.tolist() == [False]


@pytest.mark.parametrize("action", [0, 1])
@pytest.mark.parametrize(
    ("good", "state", "noise", "reward"),
    [
        (1, 1, 0.674, 1.0),  # common and likely
        (1, 1, 0.676, 0.0),  # common and unlikely
        (1, 1, 0.751, 1.0),  # rare and likely
        (1, 1, 0.976, 0.0),  # rare and unlikely
        (1, 2, 0.0, 0.0),
        (1, 2, 0.7, 1.0),
        (2, 2, 0.0, 1.0),
        (2, 1, 0.0, 0.0),
        (2, 1, ONE, 1.0),
    ],
)
def test_the_second_step_collects_what_the_state_pays_whatever_the_action(action, good, state, noise, reward):
    family = TwoStep()
    params = _params(family, {"good_state": good})
    step = _step(family, params, state, action, noise)
    assert step.reward.tolist() == [reward]
    assert step.terminated.tolist() == [True]
    assert _looks(family, step, params) == [state]


def test_rounds_have_their_probabilities():
    family = TwoStep()
    params = _params(family, {"good_state": 2}).take(np.zeros(40_000, np.int64))
    rng = np.random.default_rng(0)
    first = _step(family, params, np.zeros(40_000), np.zeros(40_000, np.int64), rng.random(40_000))
    second = family.step(first.state, np.ones(40_000, np.int64), params, rng.random((40_000, 1)))
    found = np.bincount(2 * first.state.cell + second.reward.astype(np.int64), minlength=6)[2:]
    expected = 40_000 * np.array([0.75 * 0.9, 0.75 * 0.1, 0.25 * 0.1, 0.25 * 0.9])
    assert stats.chisquare(found, expected).pvalue > 1e-3


def test_an_episode_is_two_steps_that_show_where_the_agent_got():
    env = TaskEnv(TwoStep())
    first, _ = env.reset(seed=3)
    second, reward, terminated, truncated, _ = env.step(0)
    assert (first, reward, terminated, truncated) == (0, 0.0, False, False)
    assert second in {1, 2}
    last, reward, terminated, truncated, _ = env.step(0)
    assert last == second
    assert reward in {0.0, 1.0}
    assert terminated


# --- switches ------------------------------------------------------------------------------------------------------


def test_a_good_state_that_surely_switches_alternates_from_the_first_round_on():
    family = TwoStep(switch_probability=1.0, reward_probability=1.0, common_probability=1.0, num_rounds=3)
    params = _params(family, {"good_state": 1})
    state, rewards, seen = family.initial(params, np.empty((1, 0))), [], []
    for action in (0, 0, 0, 0, 1, 1):
        step = family.step(state, np.array([action]), params, np.array([[0.5]]))
        state = step.state
        rewards.append(step.reward[0])
        seen.append(int(family.observe(state, params)[0]))
        assert not step.terminated[0]
    assert seen == [1, 0, 1, 0, 2, 0]
    assert rewards == [0, 0, 0, 1, 0, 1]  # good: 2, 1, 2
    assert family.episode_length == 6


def test_the_good_state_switches_with_its_probability_as_rounds_begin_only():
    family = TwoStep(switch_probability=0.3)
    params = _params(family, {"good_state": 1}).take(np.zeros(20_000, np.int64))
    noise = np.random.default_rng(0).random(20_000)
    for cell in (0, 3, 4, 5, 6):
        after = _step(family, params, np.full(20_000, cell), np.zeros(20_000, np.int64), noise).state.cell
        assert stats.binomtest(int(np.sum(after >= 7)), 20_000, 0.3).pvalue > 1e-3
        assert stats.binomtest(int(np.sum(after % 7 == 1)), 20_000, 0.75).pvalue > 1e-3
    for cell, paying in ((1, 0.9), (2, 0.1), (8, 0.1), (9, 0.9)):
        step = _step(family, params, np.full(20_000, cell), np.zeros(20_000, np.int64), noise)
        assert np.array_equal(step.state.cell >= 7, np.full(20_000, cell >= 7))
        assert stats.binomtest(int(step.reward.sum()), 20_000, paying).pvalue > 1e-3


def test_an_episode_with_switches_is_a_run_of_rounds():
    env = TaskEnv(TwoStep(switch_probability=0.025, num_rounds=4))
    env.reset(seed=0)
    results = [env.step(0) for _ in range(8)]
    assert [observation == 0 for observation, *_ in results] == [False, True] * 4
    assert [truncated for *_, truncated, _ in results] == [False] * 7 + [True]


def test_seldom_switches_cost_the_informed_agent_two_fifths_of_their_share():
    family = TwoStep(switch_probability=0.025)
    params = _sample(family, 2)
    # It aims at the good state of the round before: 0.7 a round, and 0.3 where that has just switched.
    assert family.optimal_return(params) == pytest.approx([100 * (0.7 - 0.4 * 0.025)] * 2)
    assert family.random_return(params) == pytest.approx([50.0] * 2)
    assert family.bayes_return(3) is None


# --- exact values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("random_transitions", [False, True])
def test_a_known_task_pays_seven_tenths_a_round(random_transitions):
    family = TwoStep(random_transitions=random_transitions)
    params = _sample(family, 8)
    assert family.optimal_return(params) == pytest.approx([0.7] * 8)
    assert family.random_return(params) == pytest.approx([0.5] * 8)


@pytest.mark.parametrize(("num_rounds", "total"), [(10, 6.688), (20, 13.688), (50, 34.688), (100, 69.688)])
def test_the_bayes_optimal_totals_are_the_published_ones(num_rounds, total):
    returns = TwoStep().bayes_return(num_rounds)
    assert returns.sum() == pytest.approx(total, abs=5e-4 + 1e-9)
    assert returns[0] == pytest.approx(0.5)
    assert np.all(np.diff(returns) >= -1e-12)
    assert returns.max() <= 0.7 + 1e-12


def _by_trying_all(family, tasks, num_rounds):
    """Value of a trial for the agent that tries all plans, from the tables that are stepped; the prior is uniform."""
    params = _params(family, *tasks)
    dense, looks = family.dense(params), family.observations

    @cache
    def value(state, belief, steps_left):
        if steps_left == 0:
            return 0.0
        return max(value_of(state, belief, action, steps_left) for action in (0, 1))

    def value_of(state, belief, action, steps_left):
        futures = {}
        for task, weight in enumerate(belief):
            for outcome in range(dense.probability.shape[3]):
                after = int(dense.successor[task, state, action, outcome])
                reward = float(dense.reward[task, state, action, outcome])
                over = bool(dense.terminated[task, state, action, outcome])
                seen = (int(looks[after]), reward, over, 0 if over else after)
                column = futures.setdefault(seen, np.zeros(len(belief)))
                column[task] += weight * dense.probability[task, state, action, outcome]
        total = 0.0
        for (_, reward, _, after), column in futures.items():
            chance = column.sum()
            if chance > 0.0:
                posterior = tuple((column / chance).round(12).tolist())
                total += chance * (reward + value(after, posterior, steps_left - 1))
        return total

    return value(0, tuple([1.0 / len(tasks)] * len(tasks)), 2 * num_rounds)


@pytest.mark.parametrize(
    ("keywords", "commons"),
    [({}, [1]), ({"random_transitions": True}, [1, 2]), ({"reward_probability": 1.0}, [1]),
     ({"reward_probability": 0.6, "common_probability": 0.95, "random_transitions": True}, [1, 2])],
)  # fmt: skip
def test_no_agent_does_better_than_bayes_return_over_short_trials(keywords, commons):
    family = TwoStep(**keywords)
    tasks = [{"good_state": good, "common_state": common} for good, common in product((1, 2), commons)]
    for num_rounds in (1, 2, 3, 5):
        expected = _by_trying_all(family, tasks, num_rounds)
        assert family.bayes_return(num_rounds).sum() == pytest.approx(expected, abs=1e-9)


def test_backward_induction_over_counts_of_evidence_gives_the_same_total():
    value = np.zeros(203)  # by lead of the evidence for state 1, -101 to 101
    leads = np.arange(-100, 101)
    first_is_good = 1.0 / (1.0 + (1.0 / 9.0) ** leads)
    for _ in range(100):
        per_action = []
        for to_first in (0.75, 0.25):
            speaks = 0.9 * first_is_good + 0.1 * (1 - first_is_good)  # that a round speaks for state 1
            pays = to_first * speaks + (1 - to_first) * (1 - speaks)
            per_action.append(pays + speaks * value[2:] + (1 - speaks) * value[:-2])
        value[1:-1] = np.maximum(*per_action)
    assert value[101] == pytest.approx(TwoStep().bayes_return(100).sum(), abs=1e-9)


def test_following_the_evidence_earns_the_bayes_return_when_stepped():
    family, num_trials, rng = TwoStep(), 20_000, np.random.default_rng(1)
    params = _sample(family, num_trials)
    lead, totals = np.zeros(num_trials, np.int64), np.empty((10, num_trials))
    for episode in range(10):
        state = family.initial(params, np.empty((num_trials, 0)))
        first = family.step(state, (lead < 0).astype(np.int64), params, rng.random((num_trials, 1)))
        second = family.step(first.state, np.zeros(num_trials, np.int64), params, rng.random((num_trials, 1)))
        totals[episode] = second.reward
        lead += np.where((first.state.cell == 1) == (second.reward == 1.0), 1, -1)
    error = 4 * totals.sum(axis=0).std() / num_trials**0.5
    assert totals.sum(axis=0).mean() == pytest.approx(family.bayes_return(10).sum(), abs=error)


# --- tasks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keywords", "num_tasks"), [({}, 2), ({"random_transitions": True}, 4)])
def test_training_draws_all_tasks_alike_and_nothing_is_held_out(keywords, num_tasks):
    family = TwoStep(**keywords)
    for part in ("train", None):
        params = _sample(family, 8000, part=part)
        assert set(params.common_probability) == {0.75}
        assert set(params.reward_probability) == {0.9}
        _, counts = np.unique(2 * params.good_state + params.common_state, return_counts=True)
        assert len(counts) == num_tasks
        assert stats.chisquare(counts).pvalue > 1e-3
    with pytest.raises(ConfigError, match="TwoStep has no test part here"):
        _sample(family, 1, part="test")


@pytest.mark.parametrize(
    ("trained", "parts"),
    [(0.9, [(0.5, 0.8)]), (0.5, [(0.6, 1.0)]), (1.0, [(0.5, 0.9)]), (0.7, [(0.5, 0.6), (0.8, 1.0)])],
)
def test_ood_states_pay_with_probabilities_away_from_those_of_training(trained, parts):
    pays = _sample(TwoStep(reward_probability=trained), 4000, part="ood").reward_probability
    assert np.all((pays >= 0.5) & (pays <= 1.0))
    assert np.abs(pays - trained).min() > 0.1 - 1e-12
    widths = np.array([high - low for low, high in parts])
    counts = [np.sum((pays >= low - 1e-12) & (pays <= high + 1e-12)) for low, high in parts]
    assert stats.chisquare(counts, 4000 * widths / widths.sum()).pvalue > 1e-3 or len(parts) == 1
    assert sum(counts) == 4000


@pytest.mark.parametrize("keywords", [{}, {"random_transitions": True, "switch_probability": 0.2}])
def test_rows_do_not_depend_on_each_other(keywords):
    family = TwoStep(**keywords)
    rng = np.random.default_rng(2)
    keys, actions, noise = rng.integers(0, 2**64, 64, np.uint64), rng.integers(0, 2, 64), rng.random(64)
    cells = rng.integers(0, len(family.successors), 64)
    for part in (None, "ood"):
        distribution = TaskDistribution(family).part(part)
        params, ids = distribution.draw(keys)
        whole = _step(family, params, cells, actions, noise)
        for rows in ([3], [16, 5], list(range(7)), rng.permutation(64)):
            fewer, fewer_ids = distribution.draw(keys[rows])
            step = _step(family, fewer, cells[rows], actions[rows], noise[rows])
            assert fewer_ids.tolist() == ids[rows].tolist()
            assert step.state.cell.tolist() == whole.state.cell[rows].tolist()
            assert step.reward.tolist() == whole.reward[rows].tolist()
            assert step.terminated.tolist() == whole.terminated[rows].tolist()


def test_a_task_needs_only_its_good_state():
    task = TaskDistribution(TwoStep(reward_probability=0.8)).coerce({"good_state": 2})
    assert {name: float(task[name]) for name in task} == {
        "good_state": 2.0, "common_state": 1.0, "common_probability": 0.75, "reward_probability": 0.8,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({}, "missing"),
        ({"good_state": 0}, "good_state=0"),
        ({"good_state": 3}, "good_state=3"),
        ({"good_state": 1, "common_state": 2}, "common_state=2"),
        ({"good_state": 1, "reward_probability": 0.4}, "reward_probability="),
        ({"good_state": 1, "common_probability": 1.1}, "common_probability="),
    ],
)
def test_tasks_that_make_no_sense_are_refused(task, message):
    with pytest.raises(TaskError, match=message):
        TaskDistribution(TwoStep()).coerce(task)


@pytest.mark.parametrize(
    "keywords",
    [
        {"common_probability": 0.4},
        {"reward_probability": 1.1},
        {"random_transitions": 1},
        {"switch_probability": -0.1},
        {"num_rounds": 0, "switch_probability": 0.1},
        {"num_rounds": 10},
    ],
)
def test_keywords_out_of_range_are_refused_by_name(keywords):
    with pytest.raises(ConfigError, match=f"{next(iter(keywords))}="):
        TwoStep(**keywords)


@pytest.mark.parametrize("num_episodes", [0, -1, 2.5, "2", True])
def test_a_trial_has_a_whole_number_of_episodes(num_episodes):
    with pytest.raises(ConfigError, match=r"num_episodes=.* accepted is an integer in"):
        TwoStep().bayes_return(num_episodes)


# --- pictures ------------------------------------------------------------------------------------------------------


def test_pictures_differ_by_place_task_and_payment():
    family = TwoStep()
    params = _params(family, {"good_state": 1}, {"good_state": 2})
    shown = [
        family.draw(Position(np.array([cell])), params.take(np.array([row])))
        for cell, row in ((0, 0), (0, 1), (1, 0), (2, 0), (3, 0))
    ]
    assert {picture.shape for picture in shown} == {(260, 320, 3)}
    assert len({picture.tobytes() for picture in shown}) == 5


def test_the_text_tells_the_place_and_the_good_state():
    family = TwoStep(switch_probability=0.1)
    params = _params(family, {"good_state": 2})
    texts = [family.describe(Position(np.array([cell])), params) for cell in (0, 2, 3, 5, 7, 8, 10)]
    assert texts == [
        "first stage (good: 2)\n",
        "state 2 (good: 2)\n",
        "state 1, paid nothing (good: 2)\n",
        "state 2, paid 1 (good: 2)\n",
        "first stage (good: 1)\n",
        "state 1 (good: 1)\n",
        "state 1, paid 1 (good: 1)\n",
    ]
