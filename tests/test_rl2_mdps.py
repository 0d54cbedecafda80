"""The benchmark of RL² on tabular decision processes: what it trains, measures and shows."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch as th

from benchmarks import rl2_mdps
from benchmarks.rl2_mdps import COLUMNS, ROWS, Row, keywords, render, training
from benchmarks.trainings import run
from metagym.algos import RL2
from metagym.nets import ExchangeableMDPPolicy

TINY = Row(episodes=2, published="-", steps=160, plain_steps=160, rate=1e-3, vf_coef=0.1, rows=4, plain_rows=4)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(ROWS, "tiny", TINY)
    monkeypatch.setattr(rl2_mdps, "BATCH", 20)
    monkeypatch.setattr(rl2_mdps, "OPTIMA", 10_000)
    rl2_mdps.mean_optimum.cache_clear()
    threads = th.get_num_threads()
    th.set_num_threads(1)
    yield
    th.set_num_threads(threads)
    rl2_mdps.mean_optimum.cache_clear()


@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_is_an_agent_that_has_the_helps_it_is_named_after(column, tmp_path):
    one = training("tiny", column, 0, tasks=20, work=tmp_path)
    agent = RL2(one.policy, one.env_id, device="cpu", **keywords(TINY, column))
    assert isinstance(agent.policy, ExchangeableMDPPolicy) == ("exchangeable" in column)
    assert agent.expected_rewards == ("expected" in column)
    assert agent.regret == ("regret" in column)
    assert (one.last_gae_lambda is None) == ("exchangeable" in column)
    assert (agent.vf_coef == 0.1 / 20) == (column == "plain")


def test_a_run_is_trained_measured_kept_and_shown(tmp_path):
    one = training("tiny", "exchangeable, expected regret", 3, tasks=20, work=tmp_path)
    result = run(one)
    assert result["steps"] == 160
    assert (tmp_path / result["checkpoint"]).exists()
    assert run(one) == result  # what was stored
    text = render({"runs": [result], "tasks": 20, "optimum": 21.8})
    assert f"| 43.6 | exchangeable, expected regret | {result['test']['score']:.1f}" in text


def test_both_measures_of_random_actions_are_the_random_return():
    rng = np.random.default_rng(0)
    policy = SimpleNamespace(predict=lambda observations, state: (rng.integers(0, 5, len(observations)), state))
    measured = rl2_mdps.tested(SimpleNamespace(policy=policy), 600, episodes=2)
    for name in ("paid", "score"):  # 10.0 an episode
        assert abs(measured[name] - 20.0) < 4.0 * measured[f"{name}_error"]
    assert 0.0 < measured["score_error"] < measured["paid_error"]


def test_the_mean_optimum_is_that_of_the_reference():
    best, error = rl2_mdps.mean_optimum()
    assert abs(best - 21.83) < 4.0 * error
