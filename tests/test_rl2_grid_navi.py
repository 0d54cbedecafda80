"""The benchmark of RL² on grid navigation: its limit, what it measures, trains and shows."""

from itertools import pairwise

import numpy as np
import pytest

from benchmarks import rl2_grid_navi
from benchmarks.rl2_grid_navi import COLUMNS, ENV_ID, GOALS, LIMIT, keywords, render, returns, training
from benchmarks.trainings import run
from metagym.algos import RL2
from metagym.envs import GridNavi

STAY, UP, RIGHT, DOWN, LEFT = range(5)
SEARCH = (
    (RIGHT,) * 4 + (UP,) + (LEFT,) * 2 + (UP, LEFT, UP) + (RIGHT,) * 2 + (DOWN, RIGHT, UP)
    + (UP,) * 4 + (RIGHT,) * 4 + (STAY,) * 7
)  # fmt: skip
"""The best search: 14 goals in the first episode, and in the second the other seven, which lie on one shortest path."""


class Searcher:
    """An agent that walks as planned until it is paid, and from then on goes straight to where that was.

    Args:
        walk: its plan; it stays when that is over.
        end: where the plan is at the end of the first episode: what is paid there is observed back at the start.
    """

    def __init__(self, walk, end=(0.0, 0.0)):
        self.walk, self.end = walk, end
        self.policy = self

    def predict(self, observations, state=None, deterministic=False):
        assert deterministic
        step, known = (0, np.full((len(observations), 2), -1.0)) if state is None else state
        place, paid, begins = observations[:, :2], observations[:, -2] > 0.0, observations[:, -1] > 0.0
        new = (paid & (known[:, 0] < 0.0))[:, None]
        known = np.where(new, np.where(begins[:, None], self.end, place), known)
        planned = self.walk[step] if step < len(self.walk) else STAY
        towards = np.select(
            [
                place[:, 0] < known[:, 0],
                place[:, 0] > known[:, 0],
                place[:, 1] < known[:, 1],
                place[:, 1] > known[:, 1],
            ],
            [RIGHT, LEFT, UP, DOWN],
            STAY,
        )
        return np.where(known[:, 0] < 0.0, planned, towards), (step + 1, known)


def test_the_goals_are_all_that_the_family_has_and_the_limit_is_its_bayes_optimal_return():
    family = GridNavi()
    assert family.enumerate_structures()[0]["goal"].tolist() == list(GOALS)
    assert family.bayes_return(4).sum() == pytest.approx(LIMIT, abs=1e-9)


def test_the_best_search_by_hand_is_exactly_optimal():
    test = rl2_grid_navi.tested(Searcher(SEARCH, end=(4.0, 3.0)), len(GOALS))
    assert test["score"] == pytest.approx(LIMIT, abs=1e-9)
    assert test["optimal"]
    assert test["episodes"] == pytest.approx([4.0, 155 / 14, 155 / 14, 155 / 14], abs=1e-9)


def test_a_search_that_never_finds_one_of_the_goals_is_not():
    test = rl2_grid_navi.tested(Searcher(SEARCH[:22], end=(4.0, 3.0)), len(GOALS))
    assert not test["optimal"]
    # The goal in the far corner, eight steps away: -1.5 in each of three episodes, in place of 8 - 0.7.
    assert test["score"] == pytest.approx(LIMIT - 3 * (7.3 + 1.5) / 21, abs=1e-9)


def test_standing_still_pays_the_cost_of_every_step():
    earned = returns(Searcher([]))
    assert earned.shape == (4, 21)
    np.testing.assert_allclose(earned, -1.5)


@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_is_an_agent_that_has_the_helps_it_is_named_after(column):
    agent = RL2("MlpPolicy", ENV_ID, device="cpu", **keywords(column))
    assert not agent.expected_rewards
    assert not agent.regret
    assert bool(agent.policy.critic_task_size) == ("privileged" in column)
    assert agent.policy.later_entropy == (1.0 if "alike" in column else 0.3)


def test_a_run_is_trained_on_all_goals_and_measured(tmp_path):
    result = run(training("plain", 0, work=tmp_path, steps=1))
    assert result["steps"] == 256 * 60
    assert len(result["test"]["episodes"]) == 4
    assert result["test"]["score"] == pytest.approx(sum(result["test"]["episodes"]))
    assert -6.0 <= result["test"]["score"] < LIMIT
    agent = RL2.load(tmp_path / result["checkpoint"], device="cpu")
    assert returns(agent).mean(axis=1).tolist() == result["test"]["episodes"]


def test_the_table_counts_optimal_seeds():
    runs = [
        {"row": "task", "column": "plain", "seed": seed, "steps": 3_000_000, "processor_seconds": 90.0,
         "test": {"score": score, "optimal": optimal, "episodes": [4.0, score - 26.0, 11.0, 11.0]}}
        for seed, score, optimal in ((1, LIMIT, True), (2, 36.2142857, False))
    ]  # fmt: skip
    row = (
        "| plain | 1 of 2 | RL² 0, VariBAD 4 of 20 | 37.2143 | 36.7143 ± 0.9800 | 98.66 | 36.2143 "
        "| 4.000 10.714 11.000 11.000 | 3.0M | 1.5 |"
    )
    assert row in render({"runs": runs, "tasks": 21})


def walks(path, seen):
    """First episodes that find a new place at every step from the second on, as sets of goals found."""
    if len(path) == 16:
        yield seen
        return
    x, y = path[-1]
    for place in ((x + 1, y), (x, y + 1), (x - 1, y), (x, y - 1)):
        inside = 0 <= place[0] < 5 and 0 <= place[1] < 5
        if inside and (len(path) == 1 or (place[0] * 5 + place[1] in GOALS and place not in seen)):
            yield from walks([*path, place], seen | {place} if len(path) > 1 else seen)


def test_few_of_the_best_first_episodes_leave_the_rest_on_one_shortest_path():
    every = list(walks([(0, 0)], frozenset()))
    goals = {divmod(goal, 5) for goal in GOALS}
    rests = [sorted(goals - seen) for seen in every]
    # Sorted by x and then by y, places on a path that only goes up and right also rise in y.
    kept = [rest for rest in rests if all(before[1] <= after[1] for before, after in pairwise(rest))]
    assert (len(every), len(kept)) == (3064, 38)
    assert all(len(rest) == 7 for rest in rests)
