"""The benchmark of RL² on bandits: what it trains, keeps and shows, on a cell of a few pulls."""

import json

import pytest
import torch as th

from benchmarks import rl2_bandits
from benchmarks.rl2_bandits import Job, render, run, trained
from benchmarks.rl2_settings import CELLS, COLUMNS, Cell, keywords
from metagym.algos import RL2
from metagym.nets import ExchangeableTrialPolicy

TINY = Cell(arms=3, pulls=4, limit=2.6, published=2.6, steps=80, plain_steps=120, rows=10)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(CELLS, TINY.key, TINY)
    monkeypatch.setattr(rl2_bandits, "ROWS", 20)
    threads = th.get_num_threads()
    th.set_num_threads(1)
    yield
    th.set_num_threads(threads)


def job(tmp_path, column="exchangeable, expected regret", **kwargs):
    return Job(cell=TINY.key, column=column, seed=0, scale=1.0, tasks=40, work=tmp_path, **kwargs)


@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_is_an_agent_that_has_the_helps_it_is_named_after(column):
    policy, settings = keywords(TINY, column)
    agent = RL2(policy, rl2_bandits.ENV_ID, env_kwargs={"num_arms": 3}, episodes_per_trial=4, device="cpu", **settings)
    assert isinstance(agent.policy, ExchangeableTrialPolicy) == ("exchangeable" in column)
    assert agent.expected_rewards == ("expected" in column)
    assert agent.regret == ("regret" in column)
    assert bool(agent.policy.critic_task_size) == ("privileged" in column)


def test_a_run_is_trained_measured_and_kept(tmp_path):
    result = run(job(tmp_path))
    assert result["steps"] == 80
    assert 0.0 < result["test"]["score"] < 4.0
    assert 0.0 < result["test"]["paid"] < 4.0
    assert (tmp_path / result["checkpoint"]).exists()
    kept = job(tmp_path).path(".json")
    changed = json.loads(kept.read_text()) | {"steps": -1}
    kept.write_text(json.dumps(changed))
    assert run(job(tmp_path))["steps"] == -1  # read, not run again


def test_an_interrupted_training_goes_on_to_the_bit_and_its_time_adds_up(tmp_path, monkeypatch):
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole, part = trained(job(tmp_path / "whole")), job(tmp_path / "parts")
    write = rl2_bandits.Journal.write

    def stop(self):
        write(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(rl2_bandits.Journal, "_on_step", lambda self: self.model.num_timesteps < 50 or stop(self))
    with pytest.raises(KeyboardInterrupt):
        trained(part)
    monkeypatch.undo()
    monkeypatch.setitem(CELLS, TINY.key, TINY)
    agent = trained(part)
    for mine, own in zip(whole.policy.parameters(), agent.policy.parameters(), strict=True):
        assert th.equal(mine, own)
    lines = [json.loads(line) for line in part.path(".jsonl").read_text().splitlines()]
    assert [line["steps"] for line in lines] == [50, 80]
    assert lines[0]["seconds"] < lines[1]["seconds"]


def test_the_score_is_the_mean_of_what_is_paid_with_less_noise(tmp_path):
    agent = trained(job(tmp_path))
    test = rl2_bandits.tested(agent, TINY, 4000)
    error = (test["score_error"] ** 2 + test["paid_error"] ** 2) ** 0.5
    assert abs(test["score"] - test["paid"]) < 4.0 * error
    assert test["score_error"] < test["paid_error"]


def test_the_table_has_a_row_for_each_cell_and_column():
    runs = [
        {"cell": "bandit-k10-n100", "column": "plain", "seed": seed, "steps": 2_000_000, "seconds": 60.0,
         "test": {"score": score, "score_error": 0.0}}
        for seed, score in enumerate([82.0, 84.0])
    ]  # fmt: skip
    table = render({"runs": runs, "tasks": 10_000, "scale": 1.0})
    row = "| 10, 100 | 83.5 | 83.76 | plain | 83.00 ± 1.39 | 99.09 | 82.00 | 2.0M | 1.0 |"
    assert row in table
    assert "2 seeds on 10,000 held-out tasks" in table
