"""The benchmark of RL² on 2-D navigation: what it measures, trains and shows."""

import numpy as np
import pytest

from benchmarks import rl2_navigation
from benchmarks.rl2_navigation import (
    BY_HAND,
    COLUMNS,
    ENV_ID,
    KNOWN,
    STILL,
    Scaled,
    keywords,
    render,
    returns,
    training,
)
from benchmarks.trainings import run
from metagym.algos import RL2
from metagym.distributions import TaskDistribution
from metagym.envs import PointGoal


class Still:
    """An agent that never moves."""

    def __init__(self):
        self.policy = self

    def predict(self, observations, state=None, deterministic=False):
        return np.zeros((len(observations), 2), np.float32), None


class Triangulating:
    """An agent that moves twice at right angles, then straight to where the circles of its distances meet."""

    moves = np.array([[0.1, 0.0], [0.0, 0.02]])

    def __init__(self):
        self.policy = self

    def predict(self, observations, state=None, deterministic=False):
        """Observed are the place, two coordinates of the last action, the last reward and a flag."""
        places, distances = ([], []) if state is None else state
        here, distance = observations[:, :2].astype(np.float64), -observations[:, -2].astype(np.float64)
        if state is not None:
            places, distances = [*places, here], [*distances, distance]
        if len(places) < 2:
            moves = np.tile(self.moves[len(places)], (len(here), 1))
        else:
            moves = np.clip(self.goal(places, distances, here) - here, -0.1, 0.1)
        return moves.astype(np.float32), (places, distances)

    def goal(self, places, distances, here):
        """Of the two points where the first circles meet, that which fits the other distances, or else is nearer."""
        (first, second), (near, far) = places[:2], distances[:2]
        gap = np.hypot(*(second - first).T)
        along = (second - first) / gap[:, None]
        across = np.stack([-along[:, 1], along[:, 0]], axis=1)
        ahead = (near**2 - far**2 + gap**2) / (2.0 * gap)
        aside = np.sqrt(np.maximum(near**2 - ahead**2, 0.0))
        one, other = (first + ahead[:, None] * along + side * aside[:, None] * across for side in (1.0, -1.0))

        def misfit(point):
            wrong = 1e-6 * np.hypot(*(point - here).T) + 0.1 * np.maximum(np.abs(point).max(axis=1) - 0.5, 0.0)
            for place, distance in zip(places[2:], distances[2:], strict=True):
                wrong += 10.0 * np.abs(np.hypot(*(point - place).T) - distance)
            return wrong

        return np.where((misfit(one) <= misfit(other))[:, None], one, other)


def test_standing_still_pays_a_hundred_times_the_distance_of_the_goal():
    earned, arrived = returns(Still(), 4000)
    goals = 0.5 * (2.0 * np.random.default_rng(0).random((100_000, 2)) - 1.0)
    law = -100.0 * np.hypot(*goals.T)
    assert abs(earned.mean() - law.mean()) < 4.0 * law.std() / 4000**0.5
    assert law.mean() == pytest.approx(STILL, abs=0.1)
    assert earned.min() >= -100.0 * 0.5**0.5 * (1.0 + 1e-6)
    assert arrived.mean() < 0.005


def test_an_agent_made_by_hand_arrives_everywhere_and_earns_what_the_page_says():
    earned, arrived = returns(Triangulating(), 4000)
    assert arrived.all()
    assert abs(earned.mean() - BY_HAND) < 4.0 * earned.std() / 4000**0.5
    family = PointGoal()
    tasks = TaskDistribution(family).split("test").sample(np.random.default_rng(0), 4000)
    optimal = family.optimal_return(family.params_of(tasks))
    assert optimal.mean() == pytest.approx(KNOWN, abs=0.02)
    assert earned.mean() < optimal.mean()


def test_rows_that_are_done_do_not_count_any_more():
    # As many tasks as rows: each plays one, however long the others take.
    few, many = returns(Triangulating(), 3)[0], returns(Triangulating(), 50)[0]
    np.testing.assert_array_equal(few, many[:3])


@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_is_an_agent_that_has_the_helps_it_is_named_after(column):
    agent = RL2("MlpPolicy", ENV_ID, device="cpu", **keywords(column))
    assert not agent.expected_rewards
    assert not agent.regret
    assert bool(agent.policy.critic_task_size) == ("privileged" in column)


def test_a_run_is_trained_and_measured(tmp_path):
    one = training("plain", 0, tasks=20, work=tmp_path, steps=1)
    result = run(one)
    test = result["test"]
    # A rollout goes on until a trial is complete.
    rollout, added = divmod(result["steps"], one.keywords["n_envs"])
    assert rollout >= one.keywords["n_steps"]
    assert added == 0
    assert -1500.0 < test["score"] < 0.0
    assert 0.0 <= test["arrived"] <= 1.0
    brought = {"policy_kwargs.features_extractor_class": Scaled}
    agent = RL2.load(tmp_path / result["checkpoint"], device="cpu", custom_objects=brought)
    assert rl2_navigation.tested(agent, 20) == test


def test_an_interrupted_training_goes_on_from_its_checkpoint(tmp_path):
    one = training("plain", 0, tasks=20, work=tmp_path, steps=30_000)
    agent = RL2(one.policy, one.env_id, seed=one.seed, device="cpu", **one.keywords).learn(1, log_interval=None)
    agent.save(one.path(".zip"))
    gone_on = one.trained()
    assert gone_on.num_timesteps >= 30_000 > agent.num_timesteps
    assert isinstance(gone_on.policy.features_extractor, Scaled)


def test_the_table_has_a_row_for_each_column():
    runs = [
        {"row": "task", "column": "privileged critic", "seed": seed, "steps": 4_000_000, "processor_seconds": 150.0,
         "test": {"score": score, "score_error": 0.0, "of_means": score - 0.1, "arrived": 0.875}}
        for seed, score in ((1, -1.8), (2, -2.0))
    ]  # fmt: skip
    row = "| privileged critic | -40.41, -3.23 | -0.506 | -1.900 ± 0.196 | -2.000 | -2.000 | 87.5 % | 2 | 4.0M | 2.5 |"
    table = render({"runs": runs, "tasks": 10_000})
    assert row in table
    assert "on 10,000 held-out goals" in table


def test_where_a_training_is_kept_does_not_depend_on_how_the_benchmark_was_started(tmp_path, monkeypatch):
    kept = training("plain", 0, tasks=20, work=tmp_path).path(".json")
    monkeypatch.setattr(Scaled, "__module__", "__mp_main__")  # as processes call the module that was run
    assert training("plain", 0, tasks=20, work=tmp_path).path(".json") == kept
