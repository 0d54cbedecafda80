"""The table of the four corners: a tiny run, what a test plays, and what is shown."""

import numpy as np
import pytest

from benchmarks import maml_corners
from benchmarks.trainings import run
from metagym import make_family


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    small = {"policy_kwargs": {"net_arch": [8]}, "meta_batch_size": 2, "n_envs": 2, "n_steps": 3, "device": "cpu"}
    monkeypatch.setattr(maml_corners, "SETTINGS", small | {"split": None})


@pytest.mark.parametrize("method", list(maml_corners.METHODS))
def test_every_method_is_trained_and_scored_after_each_number_of_steps(method, tmp_path):
    result = run(maml_corners.training(method, 1, iterations=1, tasks=5, work=tmp_path))

    assert [len(row) for row in result["test"]["scores"]] == [4] * 5
    assert result["iterations"] == 1


def test_the_corners_take_turns(monkeypatch):
    played = []
    monkeypatch.setattr(maml_corners, "stepwise", lambda agent, tasks, *rest: played.extend(tasks) or [])
    maml_corners.test(None, 1, 6)

    goals = [tuple(np.asarray(task["goal"]).tolist()) for task in played]
    assert len(set(goals)) == 4
    assert goals[4:] == goals[:2]


def test_methods_differ_in_their_meta_gradient_alone(tmp_path):
    made = [maml_corners.training(name, 1, iterations=1, tasks=4, work=tmp_path) for name in maml_corners.METHODS]
    agents = [one.kind("MlpPolicy", one.env_id, **one.keywords) for one in made]

    assert made[0].keywords == made[1].keywords == made[2].keywords
    assert {agent.outer for agent in agents} == {"ppo"}
    assert [agent.inner_objective for agent in agents] == ["log_likelihood", "log_likelihood", "likelihood_ratio"]


def test_walking_straight_to_the_corner_pays_what_the_table_says():
    family = make_family(maml_corners.ENV_ID)
    goals = family.enumerate_structures()[0]["goal"]
    starts, paid = np.random.default_rng(0).uniform(-0.2, 0.2, (4000, 2)), []
    params = family.params_type(goal=goals[np.arange(4000) % 4])
    state = family.initial(params, (starts + 0.2) / 0.4)
    for _ in range(20):
        away = params.goal - state.position
        # Straight: both axes arrive together, the longer way at full speed.
        move = away * np.minimum(0.2 / np.maximum(np.abs(away).max(axis=1, keepdims=True), 1e-9), 1.0)
        state, reward, *_ = family.step(state, move, params, np.zeros((4000, 0)))
        paid.append(reward)

    assert np.sum(paid, axis=0).mean() == pytest.approx(maml_corners.STRAIGHT, abs=0.02)


def one_run(column, seed, after_one):
    return {"row": "corners", "column": column, "seed": seed, "steps": 8_000_000, "processor_seconds": 120.0,
            "test": {"scores": [[0.0, after_one, 2.0, 2.5]] * 4}}  # fmt: skip


def test_the_table_shows_intervals_shares_the_worst_seed_and_what_is_published():
    runs = [one_run("MAML", 1, 0.2), one_run("MAML", 2, 0.4), one_run("ProMP", 1, 2.62)]
    table = maml_corners.render({"runs": runs, "iterations": 100})

    assert "| MAML | fails | 0.00 [0.00, 0.00] | 0.30 [0.20, 0.40] | 2.00 [2.00, 2.00] | 2.50 [2.50, 2.50] |" in table
    assert "| 11 | 0.20 | 2 | 2.0 |" in table
    assert "| ProMP | solves | 0.00 | 2.62 | 2.00 | 2.50 | 100 | 2.62 | 1 | 2.0 |" in table
    assert {line.count("|") for line in table.splitlines() if line.startswith("|")} == {11}
