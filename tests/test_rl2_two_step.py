"""The benchmark of RL² on the two-step task: its limit, what it measures, trains and shows."""

import numpy as np
import pytest

from benchmarks import rl2_two_step
from benchmarks.rl2_two_step import COLUMNS, ENV_ID, LIMIT, ROUNDS, expected, keywords, render, training
from benchmarks.trainings import run
from metagym.algos import RL2
from metagym.envs import TwoStep


class ByHand:
    """An agent that does what a function of the step and of the evidence for state 1 says."""

    def __init__(self, choose):
        self.choose = choose
        self.policy = self

    def predict(self, observations, state=None):
        """The first three numbers are where it is, one-hot; RL2Context adds action, reward and a flag."""
        step, before, evidence = (0, None, np.zeros(len(observations))) if state is None else state
        if step and step % 2 == 0:
            paid = observations[:, -2]
            evidence = evidence + (2.0 * paid - 1.0) * np.where(before == 1, 1.0, -1.0)
        here = observations[:, :3].argmax(axis=1)
        actions = np.broadcast_to(self.choose(step, evidence), len(observations)).astype(np.int64)
        return actions, (step + 1, here, evidence)


bayesian = ByHand(lambda step, evidence: evidence < 0.0)


def test_the_limit_is_the_return_of_the_bayes_optimal_agent():
    assert pytest.approx(TwoStep().bayes_return(ROUNDS).sum()) == LIMIT


def test_the_best_agent_by_hand_measures_the_limit():
    totals = expected(bayesian, 5000).sum(axis=1)
    assert abs(totals.mean() - LIMIT) < 4.0 * totals.std() / 5000**0.5


def test_a_round_counts_as_what_its_first_choice_pays_on_average():
    rounds = expected(ByHand(lambda step, evidence: step // 2 % 2), 40)
    assert rounds.shape == (40, ROUNDS)
    np.testing.assert_allclose(rounds.sum(axis=1), 50.0)
    assert set(rounds[:, 0].round(6)) == {0.3, 0.7}
    np.testing.assert_allclose(rounds[:, ::2] + rounds[:, 1::2], 1.0)


def test_what_is_done_at_the_second_stage_does_not_count():
    one, other = (expected(ByHand(lambda step, evidence, arm=arm: step % 2 * arm), 40) for arm in (0, 1))
    np.testing.assert_array_equal(one, other)


def test_a_test_tells_the_total_and_how_it_starts_and_ends():
    test = rl2_two_step.tested(ByHand(lambda step, evidence: step // 2 % 2), 40)
    assert test["reward"] == pytest.approx(50.0)
    assert test["reward_error"] == pytest.approx(0.0)
    assert test["first_ten"] == pytest.approx(0.5)
    assert test["last_ten"] == pytest.approx(0.5)


@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_is_an_agent_that_has_the_helps_it_is_named_after(column):
    agent = RL2("MlpPolicy", ENV_ID, device="cpu", **keywords(column))
    assert agent.expected_rewards == agent.regret == ("expected regret" in column) == (column != "plain")
    assert not agent.policy.critic_task_size


def test_a_run_is_trained_and_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(rl2_two_step, "ROUNDS", 10)
    one = training(COLUMNS[1], 0, tasks=20, work=tmp_path, steps=100)
    result = run(one)
    assert 100 <= result["steps"] == one.keywords["n_envs"] * 20
    assert 3.0 < result["test"]["reward"] < 7.0


def test_the_table_has_a_row_for_each_agent():
    runs = [
        {"row": "two-step", "column": "plain", "seed": seed, "steps": 2_000_000, "processor_seconds": 90.0,
         "test": {"reward": reward, "reward_error": 0.0, "first_ten": 0.6, "last_ten": 0.7}}
        for seed, reward in enumerate([68.0, 69.0])
    ]  # fmt: skip
    table = render({"runs": runs, "tasks": 10_000})
    row = "| plain | curve | 69.688 | 68.500 ± 0.980 | 98.30 | 68.000 (97.58 %) | 2 | 2.0M | 1.5 |"
    assert row in table
    assert "10,000 trials" in table
