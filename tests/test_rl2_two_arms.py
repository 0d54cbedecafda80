"""The benchmark of RL² on two arms: its limits, what it measures, trains and shows."""

import numpy as np
import pytest

from benchmarks import rl2_two_arms
from benchmarks.rl2_two_arms import COLUMNS, ENV_ID, PULLS, ROWS, keywords, regrets, render, training
from benchmarks.trainings import run
from metagym.algos import RL2
from metagym.envs import Bandit
from metagym.nets import ExchangeableMDPPolicy, ExchangeableTrialPolicy


class ByHand:
    """An agent that chooses by what each arm has paid and how often it was pulled."""

    def __init__(self, choose):
        self.choose = choose
        self.policy = self

    def predict(self, observations, state=None):
        """RL2Context shows, after the constant: the last action one-hot, its reward, and a flag."""
        taken, paid = observations[:, -4:-2], observations[:, -2:-1]
        pulls, wins = (np.zeros((2, *taken.shape)) if state is None else state) + [taken, taken * paid]
        return self.choose(pulls, wins), np.stack([pulls, wins])


def same(arm):
    return ByHand(lambda pulls, wins: np.full(len(pulls), arm))


alternating = ByHand(lambda pulls, wins: pulls.sum(axis=1).astype(np.int64) % 2)
bayesian = ByHand(lambda pulls, wins: (2.0 * wins - pulls).argmax(axis=1))  # the best there is where arms mirror


@pytest.mark.parametrize(("row", "best"), [("independent", 2 / 3), ("uniform", 3 / 4), ("easy", 0.9), ("hard", 0.6)])
def test_the_limit_is_the_regret_of_the_bayes_optimal_agent(row, best):
    family = Bandit(**ROWS[row].env_kwargs)
    assert ROWS[row].limit == pytest.approx(PULLS * best - family.bayes_return(PULLS).sum(), abs=6e-5)


@pytest.mark.parametrize("name", ["easy", "medium", "hard"])
def test_regret_counts_the_difference_of_the_means_for_every_pull_of_the_worse_arm(name):
    low, high = map(float, ROWS[name].means.split(", "))
    measured = regrets(alternating, ROWS[name], 40)
    assert measured.shape == (40, PULLS)
    np.testing.assert_allclose(measured.sum(axis=1), PULLS / 2 * (high - low))
    np.testing.assert_allclose(measured[:, ::2] + measured[:, 1::2], high - low)


def test_regret_of_the_two_arms_is_that_of_their_tasks():
    first, second = (regrets(same(arm), ROWS["independent"], 200) for arm in (0, 1))
    assert (np.minimum(first, second) == 0.0).all()
    assert (first[:, :1] == first).all()  # the task stays for a trial
    difference = np.maximum(first, second)[:, 0]  # |p - q| of uniform means: mean 1/3, variance 1/18
    assert difference.mean() == pytest.approx(1 / 3, abs=4.0 * (1 / 18 / 200) ** 0.5)


def test_groups_of_trials_have_tasks_of_their_own():
    rows = regrets(same(0), ROWS["uniform"], 60, rows=30)[:, 0]
    assert len(rows) == 60
    assert len(set(rows[rows > 0.0])) == np.count_nonzero(rows)


@pytest.mark.parametrize("name", ["uniform", "easy", "medium", "hard"])
def test_the_best_agent_by_hand_measures_the_limit(name):
    totals = regrets(bayesian, ROWS[name], 5000).sum(axis=1)
    assert abs(totals.mean() - ROWS[name].limit) < 4.0 * totals.std() / 5000**0.5


def test_a_test_tells_the_regret_on_every_kind_of_bandit():
    test = rl2_two_arms.tested(alternating, 40, row="medium")
    assert test["regret"] == test["on"]["medium"] == pytest.approx(25.0)
    assert test["regret_error"] == pytest.approx(0.0)
    assert list(test["on"]) == list(ROWS)
    assert test["on"]["hard"] == pytest.approx(10.0)


@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_is_an_agent_that_has_the_helps_it_is_named_after(column):
    policy, settings = keywords("medium", column)
    agent = RL2(policy, ENV_ID, device="cpu", **settings)
    helped = column != "plain"
    assert isinstance(agent.policy, ExchangeableTrialPolicy) == ("exchangeable" in column)
    assert isinstance(agent.policy, ExchangeableMDPPolicy) == ("counts" in column)
    assert agent.expected_rewards == agent.regret == ("expected regret" in column) == helped
    assert not agent.policy.critic_task_size


@pytest.mark.parametrize("row", ROWS)
def test_a_plain_agent_learns_to_explore_where_arms_are_independent_only(tmp_path, row):
    one = training(row, "plain", 0, tasks=20, work=tmp_path)
    agent = RL2(one.policy, one.env_id, device="cpu", **one.keywords)
    explores = row == "independent"
    assert (agent.gamma, agent.vf_coef) == ((0.99, 5e-3) if explores else (0.5, 0.5))
    assert (one.last_gae_lambda is not None) == explores


@pytest.mark.parametrize("column", COLUMNS[1:])
def test_a_run_is_trained_and_measured(tmp_path, monkeypatch, column):
    monkeypatch.setattr(rl2_two_arms, "PULLS", 10)
    one = training("easy", column, 0, tasks=20, work=tmp_path, steps=100)
    result = run(one)
    assert 100 <= result["steps"] == one.keywords["n_envs"] * 10
    assert 0.0 < result["test"]["regret"] < 8.0
    assert result["test"]["regret"] == result["test"]["on"]["easy"]


def test_the_tables_have_a_row_for_each_bandit_and_agent():
    on = {"independent": 2.0, "uniform": 1.5, "easy": 0.75, "medium": 1.25, "hard": 4.0}
    runs = [
        {"row": "hard", "column": "plain", "seed": seed, "steps": 2_000_000, "processor_seconds": 90.0,
         "test": {"regret": regret, "regret_error": 0.0, "on": on | {"hard": regret}}}
        for seed, regret in enumerate([2.4, 3.0])
    ]  # fmt: skip
    table = render({"runs": runs, "tasks": 10_000})
    row = "| hard | 0.4, 0.6 | curve | 2.312 | plain | 2.700 ± 0.588 | 1.17x | 3.000 (1.30x) | 1 of 2 | 2.0M | 1.5 |"
    assert row in table
    assert "| hard | 2.00 | 1.50 | 0.75 | 1.25 | 2.70 |" in table
    assert "10,000 tasks" in table
