"""The table of 2-D navigation: a tiny run, what a test plays, what is kept, and what is shown."""

import json
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import maml_points, maml_runs, trainings
from benchmarks.maml_runs import IterationJournal, measure, stepwise
from benchmarks.trainings import run
from metagym.algos import MAML, maml_adapt
from metagym.algos.maml_outer import AdamStep


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    small = {"policy_kwargs": {"net_arch": [8]}, "meta_batch_size": 2, "n_envs": 2, "n_steps": 3, "device": "cpu"}
    monkeypatch.setattr(maml_points, "SETTINGS", small)
    monkeypatch.setattr(maml_points, "ROWS", 4)


def make(tmp_path, method="MAML", iterations=2, seed=1):
    return maml_points.training(method, seed, iterations=iterations, tasks=3, work=tmp_path)


@pytest.mark.parametrize("method", ["MAML", "Meta-SGD, tuned", "ProMP, tuned, two inner steps"])
def test_every_method_is_trained_for_so_many_iterations_and_scored_after_each_number_of_steps(method, tmp_path):
    training = make(tmp_path, method)
    result = run(training)
    tasks, plays = training.keywords["meta_batch_size"], 1 + training.keywords.get("n_inner_steps", 1)

    assert [len(row) for row in result["test"]["scores"]] == [4, 4, 4]
    assert all(-700.0 < score < 0.0 for row in result["test"]["scores"] for score in row)
    assert result["steps"] == 2 * tasks * plays * training.keywords["n_envs"] * 3  # iterations, ..., steps
    assert result["processor_seconds"] > 0


def test_scores_are_those_of_the_episodes_that_adaptation_plays_task_by_task():
    agent = MAML("MlpPolicy", maml_points.ENV_ID, seed=0, **maml_points.SETTINGS)
    tasks = agent.env.env_method("sample_task")[:1] * 3
    first, second, third = stepwise(agent, tasks, 2, 4, seed=5)

    assert stepwise(agent, tasks, 2, 4, seed=5) == [first, second, third]
    assert stepwise(agent, tasks[:1], 2, 4, seed=5) == [pytest.approx(first, abs=1e-3)]
    assert len(first) == 3
    assert first != second != third
    assert stepwise(agent, tasks, 2, 4, seed=6)[0] != first


def test_a_step_of_a_test_leads_where_adapt_leads(monkeypatch):
    agent = MAML("MlpPolicy", maml_points.ENV_ID, seed=0, **maml_points.SETTINGS)
    task, kept = agent.env.env_method("sample_task")[0], []
    play = maml_runs.play_and_adapt
    monkeypatch.setattr(maml_runs, "play_and_adapt", lambda *args, **kw: kept.append(play(*args, **kw)) or kept[0])
    monkeypatch.setattr(maml_runs, "derived_seed", lambda seed, place, step: step)
    monkeypatch.setattr(maml_adapt, "derived_seed", lambda seed, place, step: step)
    stepwise(agent, [task], 1, 4, seed=0)
    adapted = dict(agent.adapt(task, 1, n_envs=4, seed=0).policy.named_parameters())

    for name, tensor in kept[0].parameters.items():
        np.testing.assert_allclose(tensor[0].numpy(), adapted[name].detach().numpy(), rtol=1e-5, atol=1e-7)


def test_what_is_finished_is_read_and_other_settings_are_another_training(tmp_path):
    training = make(tmp_path)
    run(training)
    kept = training.path(".json")
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"steps": -1}))

    assert run(make(tmp_path))["steps"] == -1
    assert make(tmp_path, iterations=3).path(".json") != kept
    assert make(tmp_path, "ProMP, tuned").path(".json") != kept


def test_an_interrupted_training_goes_on_to_the_bit_and_its_time_adds_up(tmp_path, monkeypatch):
    whole = run(make(tmp_path / "whole", "ProMP, tuned", iterations=3))

    class Stopped(IterationJournal):
        def _on_step(self):
            if self.n_calls == 2:
                self.write()
                raise KeyboardInterrupt
            return super()._on_step()

    parts = make(tmp_path / "parts", "ProMP, tuned", iterations=3)
    monkeypatch.setattr(maml_runs, "IterationJournal", Stopped)
    with pytest.raises(KeyboardInterrupt):
        run(parts)
    monkeypatch.setattr(maml_runs, "IterationJournal", IterationJournal)
    resumed = run(parts)

    lines = [json.loads(line) for line in parts.path(".jsonl").read_text().splitlines()]
    assert [line["iterations"] for line in lines] == [2, 3]
    assert resumed["steps"] == whole["steps"]
    assert resumed["test"] == whole["test"]
    assert resumed["processor_seconds"] > lines[0]["processor_seconds"] > 0


def test_the_learning_rate_falls_to_zero_where_it_is_annealed(tmp_path, monkeypatch):
    seen, step = [], AdamStep.step

    def watched(self, tensors, loss, rate):
        seen.append(rate)
        return step(self, tensors, loss, rate)

    monkeypatch.setattr(AdamStep, "step", watched)
    training = make(tmp_path, "ProMP, tuned", iterations=4)
    keywords = {**training.keywords, "learning_rate": 0.1}
    run(replace(training, keywords=keywords, annealed=True))
    run(replace(training, keywords=keywords, annealed=False))

    assert seen == pytest.approx([0.1, 0.075, 0.05, 0.025, *[0.1] * 4])


def test_only_finished_trainings_are_shown_where_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(trainings, "ProcessPoolExecutor", lambda workers, mp_context: ThreadPoolExecutor(workers))
    run(make(tmp_path))
    given = Namespace(finished=True, workers=1, work=tmp_path)
    result = measure([make(tmp_path), make(tmp_path, seed=2)], given)

    assert [one["seed"] for one in result["runs"]] == [1]
    with pytest.raises(SystemExit, match="none of these"):
        measure([make(tmp_path, seed=3)], given)


def one_run(seed, scores, name="MAML"):
    return {"row": "points", "column": name, "seed": seed, "steps": 8_000_000, "processor_seconds": 240.0,
            "iterations": 100,
            "test": {"scores": scores}}  # fmt: skip


def test_the_table_shows_intervals_the_worst_seed_what_is_published_and_the_limit():
    runs = [one_run(1, [[-40.0, -9.0, -4.0, -3.0]] * 2), one_run(2, [[-42.0, -7.0, -4.0, -3.0]] * 2)]
    runs.append(one_run(1, [[-39.0, -8.5, -5.0, -4.0]] * 2, "ProMP"))
    table = maml_points.render({"runs": runs, "tasks": 2, "optimal": -0.5})

    assert "| MAML | -41.00 [-42.00, -40.00] | -8.00 [-9.00, -7.00] | -4.00 [-4.00, -4.00] |" in table
    assert "| -9.00 | 2 | 100 | 8.0M | 4.0 |" in table
    assert "| ProMP | -39.00 | -8.50 | -5.00 | -4.00 | -8.50 | 1 |" in table
    assert "-9.12 +- 0.66" in table
    assert "| optimum (goal known) | -0.50 |" in table
    assert {line.count("|") for line in table.splitlines() if line.startswith("|")} == {11}
