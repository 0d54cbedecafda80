"""Columns of tasks, and what the base class of families does by itself."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metagym import Task, TaskDistribution, TaskError
from metagym.envs import FrozenLake, PointGoal
from metagym.family import Step
from tests.parity import assert_same
from tests.strategies import FAMILIES, SETTINGS, Drift, DriftParams, anything, family_of, seeds

every_family = pytest.mark.parametrize("setting", [*SETTINGS, *FAMILIES], ids=str)


def _params(family, num_tasks, seed=0):
    return TaskDistribution(family).draw(np.random.default_rng(seed).integers(0, 2**64, num_tasks, np.uint64))[0]


# --- columns ---------------------------------------------------------------------------------------------------------


def test_columns_know_their_names_and_length():
    params = _params(Drift(), 5)
    assert DriftParams.names() == ("push", "pattern", "kind")
    assert len(params) == 5
    assert params.columns()["push"] is params.push


@given(st.lists(st.integers(0, 5), max_size=8), st.booleans())
def test_taking_rows_copies_them(rows, as_mask):
    params = _params(Drift(), 6)
    index = np.isin(np.arange(6), rows) if as_mask else np.array(rows, np.int64)
    taken = params.take(index)
    for name, column in params.columns().items():
        assert_same(taken.columns()[name], column[index])
        assert not np.shares_memory(taken.columns()[name], column)


@given(st.lists(st.integers(0, 5), unique=True, max_size=6))
def test_putting_rows_writes_those_and_no_others(rows):
    params, source = (
        _params(Drift(), 6),
        _params(Drift(), len(rows), seed=1) if rows else _params(Drift(), 1).take(np.array([], int)),
    )
    before = params.take(np.arange(6))
    params.put(np.array(rows, np.int64), source)
    others = np.setdiff1d(np.arange(6), rows)
    assert_same(params.take(np.array(rows, np.int64)).columns(), source.columns())
    assert_same(params.take(others).columns(), before.take(others).columns())


def test_columns_cannot_be_replaced():
    params = _params(Drift(), 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.push = None


@settings(max_examples=20)
@given(anything, seeds, st.integers(1, 5))
def test_tasks_as_columns_and_columns_as_tasks_are_inverse(setting, seed, num_tasks):
    family = family_of(setting)
    tasks = TaskDistribution(family).sample(np.random.default_rng(seed), num_tasks)
    params = family.params_of(tasks)
    for row, task in enumerate(tasks):
        assert Task(family.name, {name: column[row] for name, column in params.columns().items()}) == task
        assert_same(family.params_of([task]).columns(), params.take(np.array([row])).columns())


def test_tasks_of_another_family_or_size_make_no_columns():
    lake, large = FrozenLake(size=2), FrozenLake(size=3)
    task = TaskDistribution(lake).sample(np.random.default_rng(0))
    with pytest.raises(TaskError, match="'FrozenLake' was given to family 'PointGoal'"):
        PointGoal().params_of([task])
    with pytest.raises(TaskError, match=r"map has shape \(2, 2\).*\(3, 3\)"):
        large.params_of([task])
    with pytest.raises(TaskError, match=r"shape|size"):
        lake.params_of([task, TaskDistribution(large).sample(np.random.default_rng(0))])
    with pytest.raises(TaskError, match="goal"):
        PointGoal().params_of([Task("PointGoal", {"target": [0.0, 0.0]})])


# --- the contract of the dynamics ------------------------------------------------------------------------------------


def _batch(family, num_rows, seed=0):
    rng = np.random.default_rng(seed)
    params = _params(family, num_rows, seed)
    state = family.initial(params, rng.random((num_rows, family.num_initial_draws)))
    space = family.action_space
    action = rng.integers(0, space.n, num_rows) if hasattr(space, "n") else rng.uniform(-1, 1, (num_rows, *space.shape))
    return params, state, action, rng.random((num_rows, family.num_step_draws))


@every_family
def test_each_row_of_a_step_depends_on_that_row_alone(setting):
    family = family_of(setting)
    params, state, action, noise = _batch(family, 9)
    for _ in range(4):
        step = family.step(state, action, params, noise)
        observation = family.observe(step.state, params)
        for rows in (np.array([4]), np.array([8, 0, 3]), np.random.default_rng(2).permutation(9)):
            some = type(state)(*(column[rows] for column in state))
            taken = family.step(some, action[rows], params.take(rows), noise[rows])
            assert_same(tuple(taken.state), tuple(column[rows] for column in step.state))
            assert_same(taken.reward, step.reward[rows])
            assert_same(taken.terminated, step.terminated[rows])
            assert_same(family.observe(taken.state, params.take(rows)), observation[rows])
            if step.success is not None:
                assert_same(taken.success, step.success[rows])
        state = step.state


@every_family
def test_a_step_changes_none_of_its_arguments_and_returns_fresh_arrays(setting):
    family = family_of(setting)
    params, state, action, noise = _batch(family, 5)
    given_arrays = [*state, action, noise, *params.columns().values()]
    copies = [array.copy() for array in given_arrays]
    step = family.step(state, action, params, noise)
    returned = [*step.state, step.reward, step.terminated, family.observe(step.state, params)]
    returned += [] if step.success is None else [step.success]
    assert_same(given_arrays, copies)
    assert not any(np.shares_memory(new, old) for new in returned for old in given_arrays)
    assert not any(np.shares_memory(new, other) for place, new in enumerate(returned) for other in returned[:place])
    assert_same([array.flags.writeable for array in returned], [True] * len(returned))
    assert isinstance(step, Step)
    assert (step.reward.dtype, step.terminated.dtype) == (np.float64, np.bool_)
    assert (step.success is not None) == family.has_success
    assert returned[len(step.state) + 2].dtype == family.observation_space.dtype


@every_family
def test_initial_states_depend_on_their_row_alone_and_on_the_task_only_if_said_so(setting):
    family = family_of(setting)
    noise = np.random.default_rng(0).random((6, family.num_initial_draws))
    params, rows = _params(family, 6), np.array([5, 2])
    state = family.initial(params, noise)
    assert_same(tuple(family.initial(params.take(rows), noise[rows])), tuple(column[rows] for column in state))
    if not family.initial_needs_task:
        assert_same(tuple(family.initial(params, noise[rows])), tuple(column[rows] for column in state))


@every_family
def test_reference_returns_are_ordered_and_depend_on_the_task_of_their_row_alone(setting):
    family = family_of(setting)
    if getattr(family, "num_initial_draws", 0) and isinstance(setting, type):
        pytest.skip("the value of a random start is not that of `start`")
    params = _params(family, 5)
    best, chance = family.optimal_return(params), family.random_return(params)
    if best is not None:
        assert best.shape == (5,)
        assert_same(family.optimal_return(params.take(np.array([3]))), best[[3]])
    if chance is not None:
        assert (chance <= best + 1e-12).all()


def test_what_a_family_need_not_define_has_a_default():
    family = Drift()
    params = _params(family, 2)
    assert family.optimal_return(params) is None
    assert family.random_return(params) is None
    assert family.enumerate_structures() is None
    assert PointGoal().accept({}) is None
    assert PointGoal().draw_details(np.empty((2, 0)), "train") == {}
    fields = {"x": 1}
    assert family.normalize(fields) is fields
    assert family.check(params) is None
