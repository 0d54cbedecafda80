"""Gradient meta-learners beside those of the study: a tiny run, how episodes are spent, what is kept and shown."""

import json
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch as th

from benchmarks import maml_study, trainings
from benchmarks.maml_study import BUDGETS, GRADIENT, LEARNERS, PROBLEM, OneStep, measure
from benchmarks.trainings import run
from metagym.algos.maml_outer import AdamStep
from metagym.evaluation import evaluate


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Trainings are one rollout, or one iteration, of short episodes."""
    small = {"meta_batch_size": 2, "n_envs": 2}
    settings = {key: {**own, **small} for key, own in maml_study.SETTINGS.items()}
    monkeypatch.setattr(maml_study, "PROBLEM", {key: shrunk(problem) for key, problem in PROBLEM.items()})
    monkeypatch.setattr(maml_study, "SETTINGS", settings)


def shrunk(problem):
    return replace(
        problem,
        timesteps=1,
        env_kwargs={**problem.env_kwargs, "episode_length": 10},
        episode_length=10,
        inner={**problem.inner, "n_steps": 10, "batch_size": 20, "n_epochs": 1},
        reptile={"n_envs": 2, "inner_timesteps": 20, "meta_batch_size": 1, "learning_rate": 0.3},
        joint={"n_steps": 20, "batch_size": 40, "n_epochs": 1, "learning_rate": 2e-3},
        joint_rows=2,
    )


def make(tmp_path, key="lakes", learner="from scratch", seed=1):
    return maml_study.training(key, learner, seed, tasks=2, work=tmp_path)


@pytest.mark.parametrize(
    ("key", "learner"),
    [*(("lakes", learner) for learner in LEARNERS), ("pendulums", "ProMP"), ("pendulums", "Reptile")],
)
def test_every_learner_is_measured_after_each_budget_and_its_steps_are_those_taken(key, learner, tmp_path):
    training = make(tmp_path, key, learner)
    result = run(training)
    (line,) = training.journal()

    assert np.shape(result["test"]["scores"]) == (2, len(BUDGETS))
    assert result["steps"] == line["steps"]
    assert (result["steps"] == 0) == (learner == "from scratch")
    assert result["processor_seconds"] == line["processor_seconds"]
    assert (result["test"]["optimal"] is None) == (key == "pendulums")
    assert (tmp_path / result["checkpoint"]).exists()


@pytest.mark.parametrize("learner", ["ProMP", "joint training", "from scratch"])
def test_a_training_whose_measurement_was_interrupted_is_measured_and_not_repeated(learner, tmp_path, monkeypatch):
    training = make(tmp_path, learner=learner)
    whole = run(training)
    training.path(".json").unlink()
    kind = type(training.made())
    monkeypatch.setattr(kind, "learn", lambda *args, **kwargs: pytest.fail("trained again"))

    assert run(training) == whole


def test_a_checkpoint_without_a_journal_is_not_taken_for_a_training(tmp_path):
    training = make(tmp_path, learner="Meta-SGD")
    whole = run(training)
    training.path(".json").unlink()
    training.path(".jsonl").unlink()
    again = run(training)

    assert (again["steps"], again["test"]) == (whole["steps"], whole["test"])
    assert len(training.journal()) == 1


def test_settings_of_other_learners_make_no_other_training(tmp_path):
    def names(training):
        return {learner: replace(training, column=learner).path(".json").name for learner in LEARNERS}

    training = make(tmp_path)
    before = names(training)
    for part, concerned in {
        "inner": {"Reptile", "joint training", "from scratch"},
        "reptile": {"Reptile", "from scratch"},
        "joint": {"joint training"},
        "rl2": set(),
    }.items():
        after = names(replace(training, problem=replace(training.problem, **{part: {"gamma": 0.5}})))
        assert {learner for learner in LEARNERS if after[learner] != before[learner]} == concerned
    assert replace(training, keywords={"gamma": 0.5}).path(".json") != training.path(".json")


def test_what_one_learner_adapts_with_concerns_that_learner_alone(tmp_path, monkeypatch):
    before = [make(tmp_path, learner=learner).path(".json") for learner in LEARNERS]
    monkeypatch.setattr(maml_study, "ADAPTATION", {("lakes", "joint training"): {"learning_rate": 0.5}})
    after = [make(tmp_path, learner=learner).path(".json") for learner in LEARNERS]
    training = make(tmp_path, learner="joint training")

    changed = [learner for learner, old, new in zip(LEARNERS, before, after, strict=True) if old != new]
    assert changed == ["joint training"]
    assert training.made().adapt_kwargs["learning_rate"] == 0.5
    assert training.made().learner_kwargs["learning_rate"] == 2e-3


@pytest.mark.parametrize("learner", GRADIENT)
def test_every_problem_takes_the_settings_of_gradient_learners(learner, tmp_path):
    for key, problem in PROBLEM.items():
        agent = make(tmp_path, key, learner).made()
        assert type(agent) is GRADIENT[learner]
        assert agent.env_id == problem.env_id
        assert agent.inner_learning_rate == (maml_study.SETTINGS[key]["inner_learning_rate"],)


def test_a_budget_is_one_step_on_so_many_episodes(tmp_path):
    asked = []

    class Agent:
        observation_space = action_space = None
        n_envs = 10
        policy = th.nn.Linear(1, 1)

        def adapt(self, task, n_steps, *, n_envs, seed):
            asked.append((n_steps, n_envs, seed))
            return Namespace(policy=th.nn.Linear(1, 1))

    for seed, budget in ((1, 3), (1, 10), (2, 10)):
        OneStep(Agent(), PROBLEM["pendulums"], seed).adapt(Namespace(id=7), total_timesteps=200 * budget)

    assert [each[:2] for each in asked] == [(1, 3), (1, 10), (1, 10)]
    assert asked[0][2] == asked[1][2] != asked[2][2]


@pytest.mark.parametrize(("budget", "part"), [(1, 0.25), (3, 0.75), (4, 1.0), (10, 1.0)])
def test_a_step_on_fewer_episodes_than_in_training_is_shorter_in_proportion(budget, part, tmp_path):
    training = make(tmp_path, "pendulums", "ProMP")
    agent = replace(training, keywords=training.keywords | {"n_envs": 4}).made()
    shortened = replace(
        training, keywords=training.keywords | {"n_envs": 4, "inner_learning_rate": part * agent.inner_learning_rate[0]}
    ).made()
    task, seeds = agent.env.env_method("sample_task")[0], []
    adapt = shortened.adapt
    shortened.adapt = lambda *args, seed, **kwargs: seeds.append(seed) or adapt(*args, seed=seed, **kwargs)
    shortened.n_envs = 1  # of which any budget is enough
    found, expected = (
        dict(OneStep(one, training.problem, 1).adapt(task, 10 * budget).policy.named_parameters())
        for one in (agent, shortened)
    )

    for name, tensor in expected.items():
        th.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)
    assert any(not th.equal(found[name], tensor) for name, tensor in agent.policy.named_parameters())


def test_evaluation_asks_for_episodes(tmp_path):
    training = make(tmp_path, learner="ProMP")
    adapter, kwargs = OneStep(training.made(), training.problem, 1), training.problem.env_kwargs
    assert evaluate(adapter, training.env_id, env_kwargs=kwargs, n_tasks=1, budgets=(0, 2)).unit == "episodes"


def test_the_outer_learning_rate_of_gradient_learners_falls_to_zero(tmp_path, monkeypatch):
    seen, step = [], AdamStep.step

    def watched(self, tensors, loss, rate):
        seen.append(rate)
        return step(self, tensors, loss, rate)

    monkeypatch.setattr(AdamStep, "step", watched)
    training = make(tmp_path, "pendulums", "ProMP")
    training = replace(training, problem=replace(training.problem, timesteps=200))
    run(training)

    rate = training.keywords["learning_rate"]
    assert seen == pytest.approx([rate, 0.6 * rate, 0.2 * rate])  # an iteration is 80 steps


def test_what_is_finished_is_read_and_only_that_where_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(trainings, "ProcessPoolExecutor", lambda workers, mp_context: ThreadPoolExecutor(workers))
    first, second = make(tmp_path), make(tmp_path, seed=2)
    run(first)
    path = first.path(".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"steps": -1}))

    assert run(first)["steps"] == -1
    given = Namespace(finished=True, workers=1, work=tmp_path)
    result = measure([first, second], given)
    assert [one["seed"] for one in result["runs"]] == [1]
    assert result["tasks"] == 2
    with pytest.raises(SystemExit, match="none of these"):
        measure([second], given)


def test_the_table_shows_learners_intervals_steps_taken_and_limits():
    def one(learner, seed, score, steps):
        test = {"scores": [[score] * 4] * 3, "random": 0.07, "optimal": 1.0}
        return {
            "row": "lakes",
            "column": learner,
            "seed": seed,
            "steps": steps,
            "processor_seconds": 30.0,
            "test": test,
        }

    runs = [one("ProMP", 1, 0.4, 200_900), one("ProMP", 2, 0.6, 201_100), one("Reptile", 1, 0.3, 200_000)]
    table = maml_study.render({"runs": runs, "tasks": 3})

    assert "| ProMP | 0.500 [0.400, 0.600] |" in table
    assert "| 2 | 201,000 | 0.5 |" in table
    assert "| Reptile | 0.300 | 0.300 | 0.300 | 0.300 | 1 | 200,000 | 0.5 |" in table
    assert "random 0.070, optimum 1.000" in table
    assert {line.count("|") for line in table.splitlines() if line.startswith("|")} == {10}
