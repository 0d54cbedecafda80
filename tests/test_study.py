"""The study in docs/study.md: its command, at a tiny budget."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def study(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])
    return importlib.import_module("benchmarks.study")


def shrunk(problem):
    """A problem whose trainings are one rollout, or one iteration, of short episodes."""
    is_point = "variant" in problem.env_kwargs
    length = 20 if is_point else 10
    return replace(
        problem,
        timesteps=1,
        n_tasks=1,
        env_kwargs={"variant": "pearl"} if is_point else {**problem.env_kwargs, "episode_length": length},
        episode_length=length,
        inner={**problem.inner, "n_steps": length, "batch_size": 2 * length, "n_epochs": 1},
        reptile={"n_envs": 2, "inner_timesteps": 2 * length, "meta_batch_size": 1, "learning_rate": 0.3},
        joint={"n_steps": 20, "batch_size": 40, "n_epochs": 1},
        joint_rows=2,
        rl2={"episodes_per_trial": 2, "n_envs": 2, "n_steps": 40, "batch_size": 40, "n_epochs": 1},
    )


def command(study, monkeypatch, tmp_path, *words):
    out = tmp_path / "study.json"
    monkeypatch.setattr(sys, "argv", ["study", "--out", str(out), "--work", str(tmp_path / "runs"), *words])
    study.main()
    return json.loads(out.read_text())


def test_the_command_measures_every_learner_on_every_problem_and_resumes(study, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(study, "PROBLEMS", {key: shrunk(one) for key, one in study.PROBLEMS.items()})

    result = command(study, monkeypatch, tmp_path, "--seeds", "2", "--jobs", "1")

    assert result["budgets"] == [0, 1, 2, 5, 10]
    assert list(result["problems"]) == ["lakes", "cart-poles", "points"]
    for key, problem in result["problems"].items():
        assert list(problem["tests"]) == list(study.PROBLEMS[key].splits)
        assert problem["costs"]["from scratch"]["steps"] == 0
        for test in problem["tests"].values():
            assert list(test["learners"]) == list(study.LEARNERS)
            for row in test["learners"].values():
                assert np.all(np.array(row["low"]) <= row["mean"])
                assert np.all(np.array(row["mean"]) <= row["high"])
                assert len(row["mean"]) == 5
    # Finished runs are not run again.
    monkeypatch.setattr(study, "make", lambda job: pytest.fail(f"{job} was trained again"))
    again = command(study, monkeypatch, tmp_path, "--seeds", "2", "--jobs", "1")
    assert again == result
    assert study.render(result) in capsys.readouterr().out


def test_the_stored_result_holds_five_seeds_and_equal_steps():
    path = ROOT / "docs" / "results" / "study.json"
    result = json.loads(path.read_text())

    assert result["seeds"] >= 5
    for problem in result["problems"].values():
        steps = [cost["steps"] for learner, cost in problem["costs"].items() if learner != "from scratch"]
        assert max(steps) <= 1.1 * min(steps)


def test_a_learner_adapts_on_whole_episodes(study):
    problem = shrunk(study.PROBLEMS["points"])
    job = study.Job(key="points", problem=problem, learner="from scratch", seed=3)
    learner = study.WholeEpisodes(study.make(job), problem, 3)
    task = study.tasks_of(problem, "test")[0]

    adapted = [learner.adapt(task, total_timesteps=20 * budget) for budget in (1, 2, 10)]

    assert [(one.n_envs, one.num_timesteps) for one in adapted] == [(1, 20), (2, 40), (5, 200)]


def test_settings_that_differ_are_stored_in_different_files(study, tmp_path):
    problem = study.PROBLEMS["lakes"]
    job = study.Job(key="lakes", problem=problem, learner="Reptile", seed=0)
    others = [replace(job, seed=1), replace(job, learner="RL²"), replace(job, problem=replace(problem, n_tasks=1))]

    assert len({one.path(tmp_path) for one in (job, *others)}) == 4


def test_a_study_of_one_seed_is_refused(study, monkeypatch, tmp_path):
    with pytest.raises(SystemExit):
        command(study, monkeypatch, tmp_path, "--seeds", "1")
