"""The table of 2-D navigation: a tiny run, what a test plays, and what is shown."""

import pytest

from benchmarks import maml_points
from metagym.algos import MAML


@pytest.fixture
def tiny(monkeypatch):
    small = {"policy_kwargs": {"net_arch": [8]}, "meta_batch_size": 2, "n_envs": 2, "n_steps": 3, "device": "cpu"}
    monkeypatch.setattr(maml_points, "SETTINGS", small)
    monkeypatch.setattr(maml_points, "ROWS", 4)


@pytest.mark.parametrize("method", ["MAML", "Meta-SGD", "ProMP"])
def test_every_method_is_trained_for_so_many_iterations_and_scored_after_each_number_of_steps(method, tiny):
    scores, seconds, steps = maml_points.run((method, 1, 2, 3))

    assert [len(row) for row in scores] == [4, 4, 4]
    assert all(-700.0 < score < 0.0 for row in scores for score in row)
    assert steps == 2 * 2 * 2 * 2 * 3  # iterations, tasks, plays, episodes, steps
    assert seconds > 0


def test_a_test_plays_more_episodes_than_training(tiny):
    agent = MAML("MlpPolicy", maml_points.ENV_ID, seed=0, **maml_points.SETTINGS)
    adapted = maml_points.Patient(agent).adapt(agent.env.env_method("sample_task")[0], n_steps=2)

    assert adapted.n_envs == 4
    assert adapted.num_timesteps == 2 * 4 * 3


def test_the_table_shows_intervals_the_worst_seed_what_is_published_and_the_limit():
    row = {"mean": [-40.0, -8.0, -4.0, -3.0], "low": [-41.0, -9.0, -5.0, -4.0], "high": [-39.0, -7.0, -3.0, -2.0],
           "worst": [-42.0, -9.5, -5.0, -4.0], "steps": 7.9e6, "minutes": 4.0}  # fmt: skip
    table = maml_points.render(
        {"methods": {"MAML": row}, "seeds": [1, 2], "iterations": 100, "tasks": 9, "optimal": -0.5}
    )

    assert "| MAML | -40.00 [-41.00, -39.00] | -8.00 [-9.00, -7.00] |" in table
    assert "| -9.50 | 7,900,000 | 4.0 |" in table
    assert "-9.12 +- 0.66" in table
    assert "| optimum (goal known) | -0.50 |" in table
    assert {line.count("|") for line in table.splitlines() if line.startswith("|")} == {9}
