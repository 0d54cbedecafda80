"""The benchmark of RL² on bandits: what it trains, keeps and shows, on a cell of a few pulls."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch as th

from benchmarks import pretrained, rl2_bandits, trainings
from benchmarks.rl2_bandits import render, training
from benchmarks.rl2_runs import RL2Journal
from benchmarks.rl2_settings import CELLS, COLUMNS, Cell, keywords
from benchmarks.trainings import run
from metagym.algos import RL2
from metagym.nets import ExchangeableMDPPolicy, ExchangeableTrialPolicy

PLAIN = {"plain_rows": 10, "plain_minibatches": 2}
TINY = Cell(arms=3, pulls=4, limit=2.6, published=2.6, steps=80, plain_steps=120, rows=10, **PLAIN)
LONG = Cell(arms=3, pulls=8, limit=5.2, published=5.2, steps=160, plain_steps=160, rows=10, bootstrap=0.9, **PLAIN)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(CELLS, TINY.key, TINY)
    monkeypatch.setitem(CELLS, LONG.key, LONG)
    monkeypatch.setattr(rl2_bandits, "ROWS", 20)


def make_training(tmp_path, column="exchangeable, expected regret", **kwargs):
    return training(TINY.key, column, 0, **{"tasks": 40, "work": tmp_path} | kwargs)


@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_is_an_agent_that_has_the_helps_it_is_named_after(column):
    policy, settings = keywords(TINY, column)
    agent = RL2(policy, rl2_bandits.ENV_ID, env_kwargs={"num_arms": 3}, episodes_per_trial=4, device="cpu", **settings)
    assert isinstance(agent.policy, ExchangeableTrialPolicy) == ("exchangeable" in column)
    assert isinstance(agent.policy, ExchangeableMDPPolicy) == ("counts" in column)
    assert agent.expected_rewards == ("expected" in column)
    assert agent.regret == ("regret" in column)
    assert bool(agent.policy.critic_task_size) == ("privileged" in column)
    if not {"exchangeable", "counts"} & COLUMNS[column]:
        assert agent.vf_coef == (0.5 if column == "plain, vf_coef 0.5" else 0.5 / TINY.pulls)


def test_a_run_is_trained_measured_and_kept(tmp_path):
    result = run(make_training(tmp_path))
    assert result["steps"] == 80
    assert 0.0 < result["test"]["score"] < 4.0
    assert 0.0 < result["test"]["paid"] < 4.0
    assert (tmp_path / result["checkpoint"]).exists()
    kept = make_training(tmp_path).path(".json")
    changed = json.loads(kept.read_text()) | {"steps": -1}
    kept.write_text(json.dumps(changed))
    assert run(make_training(tmp_path))["steps"] == -1  # read, not run again


# A rollout has 40 steps: one training is stopped within one, the other two after the last step of one.
@pytest.mark.parametrize(
    ("column", "stopped", "end"),
    [("exchangeable, expected regret", 50, 80), ("exchangeable, expected regret", 40, 80), ("plain", 40, 120)],
)
def test_an_interrupted_training_goes_on_to_the_bit_and_its_time_adds_up(tmp_path, monkeypatch, column, stopped, end):
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole, part = (make_training(tmp_path / name, column=column) for name in ("whole", "parts"))
    whole = whole.trained()
    write, step = RL2Journal.write, RL2Journal._on_step

    def stop(self):
        write(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(
        RL2Journal, "_on_step", lambda self: step(self) and (self.model.num_timesteps < stopped or stop(self))
    )
    with pytest.raises(KeyboardInterrupt):
        part.trained()
    monkeypatch.undo()
    monkeypatch.setitem(CELLS, TINY.key, TINY)
    agent = part.trained()
    for mine, own in zip(whole.policy.parameters(), agent.policy.parameters(), strict=True):
        assert th.equal(mine, own)
    lines = [json.loads(line) for line in part.path(".jsonl").read_text().splitlines()]
    assert [line["steps"] for line in lines] == [stopped, end]
    assert lines[0]["seconds"] < lines[1]["seconds"]


def test_plain_agents_bootstrap_less_and_less(tmp_path):
    seen = []

    class Watching(RL2Journal):
        def _on_rollout_end(self):
            super()._on_rollout_end()
            seen.append((self.model.rollout_buffer.gae_lambda, self.model.ent_coef))

    one = make_training(tmp_path, column="plain")
    agent = RL2(one.policy, one.env_id, seed=0, device="cpu", **one.keywords)
    agent.learn(one.steps, callback=Watching(one))
    np.testing.assert_allclose(seen, [(0.7 + 0.28 / 3, 0.02), (0.7 + 0.56 / 3, 0.01), (0.98, 0.0)], atol=1e-12)


def test_other_settings_are_kept_in_other_files_and_other_measures_too(tmp_path):
    paths = {
        make_training(tmp_path, **other).path(".json")
        for other in ({}, {"scale": 2.0}, {"tasks": 20}, {"column": "plain"}, {"column": "exchangeable"})
    }
    assert len(paths) == 5
    assert make_training(tmp_path).path(".json") in paths


def test_plain_agents_train_for_steps_of_their_own(tmp_path):
    assert make_training(tmp_path).steps == 80
    assert make_training(tmp_path, column="plain", scale=0.5).steps == 60


def test_a_table_of_several_trainings_is_measured_in_their_order_and_shown(tmp_path, monkeypatch, capsys):
    out = tmp_path / "table.json"
    # A spawned process would not know the cell of these tests.
    monkeypatch.setattr(trainings, "ProcessPoolExecutor", lambda _, mp_context: ThreadPoolExecutor(1))
    columns = ("plain", "exchangeable, regret")
    given = ["--cells", TINY.key, LONG.key, "--columns", *columns, "--seeds", "2", "--first-seed", "3"]
    monkeypatch.setattr(
        "sys.argv", ["rl2_bandits", *given, "--tasks", "20", "--work", str(tmp_path), "--out", str(out)]
    )
    rl2_bandits.main()
    kept = json.loads(out.read_text())
    order = [(one["row"], one["column"], one["seed"]) for one in kept["runs"]]
    assert order == [(key, column, seed) for key in (TINY.key, LONG.key) for column in columns for seed in (3, 4)]
    assert (kept["tasks"], kept["scale"]) == (20, 1.0)
    assert render(kept) in capsys.readouterr().out


def test_long_trials_are_learnt_with_memories_that_last_and_values_by_the_step(tmp_path):
    one = training(LONG.key, "exchangeable, regret", 1, work=tmp_path)
    assert one.keywords["policy_kwargs"] == {
        "trial_steps": 8, "value_scale": 0.8, "value_per_step": True, "memory_steps": 8,
    }  # fmt: skip
    policy = one.trained().policy
    assert (policy.memory_steps, policy.value_scale, policy.value_per_step) == (8, 0.8, True)
    plain = training(LONG.key, "exchangeable", 1, work=tmp_path)
    assert plain.keywords["policy_kwargs"] == {"trial_steps": 8}


@pytest.mark.parametrize(("key", "expected"), [("bandit-k50-n100", 0.0), ("bandit-k10-n100", 0.7)])
def test_plain_agents_of_many_arms_learn_first_what_pays_at_once(key, expected):
    assert keywords(CELLS[key], "plain")[1]["gae_lambda"] == expected


def test_an_agent_that_counts_is_trained_and_measured(tmp_path):
    one = make_training(tmp_path, column="counts, expected regret", scale=1e-5)
    result = run(one)
    assert isinstance(one.trained().policy, ExchangeableMDPPolicy)
    assert one.steps == 40
    assert 0.0 < result["test"]["score"] < TINY.pulls


def test_an_agent_is_written_into_a_package_without_the_trials_it_was_playing(tmp_path):
    one = make_training(tmp_path)
    index = pretrained.write([one], [run(one)], tmp_path / "package")
    assert index[TINY.key]["episodes_per_trial"] == TINY.pulls
    assert index[TINY.key]["command"] == f"python -m benchmarks.pretrained --cells {TINY.key}"
    assert f"| `{TINY.key}` |" in pretrained.render(index)
    small, whole = tmp_path / "package" / f"{TINY.key}.zip", one.path(".zip")
    assert small.stat().st_size < whole.stat().st_size
    with pytest.warns(UserWarning, match="its trials start anew"):
        agents = [RL2.load(path, device="cpu") for path in (small, whole)]
    for mine, own in zip(*(agent.policy.parameters() for agent in agents), strict=True):
        assert th.equal(mine, own)


def test_the_score_is_the_mean_of_what_is_paid_with_less_noise(tmp_path):
    agent = make_training(tmp_path).trained()
    test = rl2_bandits.tested(agent, TINY, 4000)
    error = (test["score_error"] ** 2 + test["paid_error"] ** 2) ** 0.5
    assert abs(test["score"] - test["paid"]) < 4.0 * error
    assert test["score_error"] < test["paid_error"]


def test_the_table_has_a_row_for_each_cell_and_column():
    runs = [
        {"row": "bandit-k10-n100", "column": "plain", "seed": seed, "steps": 2_000_000, "processor_seconds": 60.0,
         "test": {"score": score, "score_error": 0.0}}
        for seed, score in enumerate([82.0, 84.0])
    ]  # fmt: skip
    table = render({"runs": runs, "tasks": 10_000, "scale": 1.0})
    row = "| 10, 100 | 83.5 | 83.76 | plain | 83.00 ± 1.96 | 99.09 | 82.00 | 2 | 2.0M | 1.0 |"
    assert row in table
    assert "10,000 held-out tasks" in table
