"""N rows without autoreset: which streams move when, and what of a row outlives an episode."""

import numpy as np
import pytest

from metagym import TaskDistribution
from metagym.engine.rows import Rows
from metagym.envs import FrozenLake, PointGoal
from metagym.noise import advance, seed_keys, uniforms
from tests.parity import assert_same
from tests.strategies import Drift

ALL = np.arange(3)


def _rows(family=None, num_rows=3, seed=0):
    family = family or Drift()
    rows = Rows(family, TaskDistribution(family), num_rows)
    rows.seed(np.arange(num_rows), [seed + row for row in range(num_rows)])
    return rows


def _moved(rows, before):
    """By how many strides each stream has moved."""
    moved = rows.noise.get_state() - before
    strides = [int(count) for row in moved for count in range(10) if row == advance(3 * count)]
    assert len(strides) == 3
    return strides


def test_a_step_and_the_reset_in_place_of_it_are_one_call_each():
    rows = _rows()
    rows.begin(ALL)
    before = rows.noise.get_state()
    rows.advance(np.zeros((3, 2)), np.array([True, False, True]))
    rows.begin(np.array([1]))
    assert _moved(rows, before) == [1, 1, 1]
    rows.advance(np.zeros((3, 2)), None)
    assert _moved(rows, before) == [2, 2, 2]


def test_only_rows_that_begin_move_their_streams_and_restart_their_clocks():
    rows = _rows()
    rows.begin(ALL)
    for _ in range(3):
        rows.advance(np.zeros((3, 2)), None)
    before = rows.noise.get_state()
    rows.begin(np.array([1]))
    assert _moved(rows, before) == [0, 1, 0]
    assert rows.elapsed.tolist() == [3, 0, 3]


def test_a_second_start_of_rows_that_were_not_active_is_another_call():
    rows = _rows()
    rows.begin(ALL)
    before = rows.noise.get_state()
    rows.advance(np.zeros((3, 2)), np.array([True, False, True]))
    rows.begin(np.array([1]))
    rows.begin(np.array([1]))
    assert _moved(rows, before) == [1, 2, 1]


def test_the_noise_of_a_row_is_its_stream_from_the_start():
    rows = _rows(PointGoal(variant="pearl"), seed=5)
    rows.begin(ALL)
    expected = uniforms(seed_keys([5, 6, 7], 3)[:, 0], 2) * 2.0 - 1.0
    assert_same(rows.state.position, expected)


def test_families_without_draws_move_no_stream():
    rows = _rows(PointGoal())
    before = rows.noise.get_state()
    rows.begin(ALL)
    rows.advance(np.zeros((3, 2)), None)
    assert_same(rows.noise.get_state(), before)


def test_tasks_of_rows_that_do_not_begin_stay():
    rows = _rows()
    rows.begin(ALL)
    before = rows.task_ids.copy()
    columns = {name: column.copy() for name, column in rows.params.columns().items()}
    rows.begin(np.array([0, 2]))
    assert (rows.task_ids != before).tolist() == [True, False, True]
    for name, column in rows.params.columns().items():
        assert_same(column[1], columns[name][1])


def test_observations_of_some_rows_are_those_rows_of_all():
    rows = _rows()
    rows.begin(ALL)
    rows.advance(np.ones((3, 2)), None)
    some = np.array([2, 0])
    assert_same(rows.observe(some), rows.observe(None)[some])


def test_truncations_come_at_the_length_of_the_episode_and_never_with_a_termination():
    family = FrozenLake(episode_length=4)
    rows = _rows(family)
    rows.begin(ALL)
    never, always = np.zeros(3, np.bool_), np.ones(3, np.bool_)
    due = []
    for step in range(8):
        if step == 2:
            rows.begin(np.array([1]), new_task=False)
        rows.advance(np.zeros(3, np.int64), None)
        due.append(rows.truncations(never).tolist())
        assert not (rows.elapsed >= 4).any() or rows.truncations(always).tolist() == [False] * 3
    assert due == [[False] * 3] * 3 + [[True, False, True]] * 2 + [[True] * 3] * 3


def test_the_state_is_a_copy():
    rows = _rows()
    rows.begin(ALL)
    state = rows.get_state()
    kept = {name: array.copy() for name, array in state.items()}
    rows.advance(np.ones((3, 2)), None)
    rows.begin(ALL)
    rows.sample(3)
    assert_same(state, kept)
    other = _rows(seed=9)
    other.set_state(state)
    other.advance(np.ones((3, 2)), None)
    other.begin(ALL)
    assert_same(state, kept)


def test_rows_made_without_a_seed_differ_from_each_other_and_from_others():
    family = Drift()
    ids = []
    for _ in range(2):
        rows = Rows(family, TaskDistribution(family), 3)
        rows.begin(ALL)
        ids += rows.task_ids.tolist()
    assert len(set(ids)) == 6


@pytest.mark.parametrize("num_sampled", [[5], [1, 4], [2, 2, 1]])
def test_sampled_tasks_do_not_depend_on_how_many_are_asked_for_at_once(num_sampled):
    expected = _rows().sample(5)
    rows = _rows()
    parts = [rows.sample(number) for number in num_sampled]
    for name, column in expected.columns().items():
        assert_same(np.concatenate([part.columns()[name] for part in parts]), column)


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("again", [[1], [0, 1, 2]])
def test_details_of_a_task_that_was_set_do_not_outlive_it(pinned, again):
    family = FrozenLake()
    rows = _rows(family)
    rows.begin(ALL)
    rows.begin(ALL)
    one, firm = np.array([1]), rows.params.take(np.array([1]))
    firm.success_rate[:] = 0.9
    if pinned:
        rows.pin(one, firm, np.array([7]))
        rows.begin(one)
        rows.unpin(one)
    else:
        rows.assign(one, firm, np.array([7]))
        rows.begin(one, new_task=False)
    assert rows.params.success_rate.tolist() == [1 / 3, 0.9, 1 / 3]
    rows.begin(np.array(again))
    assert rows.params.success_rate.tolist() == [1 / 3] * 3


def test_details_of_a_restored_task_do_not_outlive_it():
    other, rows, one = _rows(FrozenLake()), _rows(FrozenLake()), np.array([1])
    for each in (other, rows):
        each.begin(ALL)
        each.begin(ALL)
    firm = other.params.take(one)
    firm.success_rate[:] = 0.9
    other.assign(one, firm, np.array([7]))
    other.begin(one, new_task=False)
    rows.set_state(other.get_state())
    assert rows.params.success_rate.tolist() == [1 / 3, 0.9, 1 / 3]
    rows.begin(one)
    assert rows.params.success_rate.tolist() == [1 / 3] * 3
