"""ProMP beside the learners of the study: a tiny run, how episodes are spent, and what is shown."""

import json
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import maml_study
from benchmarks.maml_study import BUDGETS, CASES, LEARNERS, Job, OneStep, make, measure, run
from metagym.evaluation import evaluate


def shrunk(key):
    """A problem whose trainings are one rollout, or one iteration, of short episodes."""
    problem, settings = CASES[key]
    short = replace(
        problem,
        timesteps=1,
        n_tasks=2,
        env_kwargs={**problem.env_kwargs, "episode_length": 10},
        episode_length=10,
        inner={**problem.inner, "n_steps": 10, "batch_size": 20, "n_epochs": 1},
        reptile={"n_envs": 2, "inner_timesteps": 20, "meta_batch_size": 1, "learning_rate": 0.3},
        joint={"n_steps": 20, "batch_size": 40, "n_epochs": 1},
        joint_rows=2,
    )
    return short, {**settings, "meta_batch_size": 2, "n_envs": 2}


def job(key, learner, seed=1):
    problem, settings = shrunk(key)
    return Job(key=key, problem=problem, settings=settings, learner=learner, seed=seed)


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("key", ["lakes", "pendulums"])
def test_every_learner_is_measured_after_each_budget(key, learner, tmp_path):
    result = run(job(key, learner), tmp_path)

    assert np.shape(result["test"]["scores"]) == (2, len(BUDGETS))
    assert (result["steps"] == 0) == (learner == "from scratch")
    assert (result["optimal"] is None) == (key == "pendulums")


def test_every_problem_takes_the_settings_of_its_gradient_learner():
    for key, (problem, settings) in CASES.items():
        agent = make(Job(key=key, problem=problem, settings=settings, learner=maml_study.GRADIENT, seed=1))
        assert agent.n_envs == settings["n_envs"]
        assert problem.splits[0] == "test"


def test_a_budget_is_one_step_on_so_many_episodes(monkeypatch):
    asked = []

    class Agent:
        observation_space = action_space = None

        def adapt(self, task, n_steps, *, n_envs, seed):
            asked.append((n_steps, n_envs, seed))

    problem, _ = CASES["pendulums"]
    for seed, budget in ((1, 3), (1, 10), (2, 10)):
        OneStep(Agent(), problem, seed).adapt(Namespace(id=7), total_timesteps=200 * budget)

    assert [each[:2] for each in asked] == [(1, 3), (1, 10), (1, 10)]
    assert asked[0][2] == asked[1][2] != asked[2][2]


def test_evaluation_asks_for_episodes():
    one = job("lakes", maml_study.GRADIENT)
    adapter = OneStep(make(one), one.problem, 1)
    curve = evaluate(adapter, one.problem.env_id, env_kwargs=one.problem.env_kwargs, n_tasks=1, budgets=(0, 2))
    assert curve.unit == "episodes"


def test_what_is_finished_is_read_and_only_that_where_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(maml_study, "ProcessPoolExecutor", lambda workers, mp_context: ThreadPoolExecutor(workers))
    first, second = job("lakes", "from scratch"), job("lakes", "from scratch", seed=2)
    run(first, tmp_path)
    path = first.path(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"steps": -1}))

    assert run(first, tmp_path)["steps"] == -1
    given = Namespace(finished=True, workers=1, work=tmp_path)
    assert [one["seed"] for one in measure([first, second], given)["runs"]] == [1]
    with pytest.raises(SystemExit, match="none of these"):
        measure([second], given)


def test_the_table_shows_learners_intervals_and_limits():
    def one(learner, seed, score):
        return {"row": "lakes", "column": learner, "seed": seed, "steps": 200_000, "processor_seconds": 30.0,
                "random": 0.07, "optimal": 1.0, "test": {"scores": [[score] * 4] * 3}}  # fmt: skip

    table = maml_study.render({"runs": [one("ProMP", 1, 0.4), one("ProMP", 2, 0.6), one("Reptile", 1, 0.3)]})

    assert "| ProMP | 0.500 [0.400, 0.600] |" in table
    assert "| Reptile | 0.300 | 0.300 | 0.300 | 0.300 | 1 | 200,000 | 30 |" in table
    assert "random 0.070, optimum 1.000" in table
    assert {line.count("|") for line in table.splitlines() if line.startswith("|")} == {10}
