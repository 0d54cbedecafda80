"""What is accepted as a task of a family, and how the rest is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metagym import Task, TaskDistribution, TaskError
from metagym.envs import FrozenLake, PointGoal
from tests.strategies import FAMILIES, SETTINGS, Drift, anything, family_of, seeds

every_family = pytest.mark.parametrize("setting", [*SETTINGS, *FAMILIES], ids=str)

# --- what is accepted as a task --------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(anything, seeds, st.sampled_from(["lists", "wide", "fortran", "dict"]))
def test_other_spellings_of_a_task_are_the_task(setting, seed, spelling):
    distribution = TaskDistribution(family_of(setting))
    task = distribution.sample(np.random.default_rng(seed))
    spell = {
        "lists": lambda value: value.tolist(),
        "wide": lambda value: value.astype(np.float64 if value.dtype.kind == "f" else np.int64),
        "fortran": lambda value: np.array(value, order="F"),
        "dict": np.copy,
    }[spelling]
    assert distribution.coerce({name: spell(value) for name, value in reversed(list(task.items()))}) == task


@settings(max_examples=60)
@given(anything, seeds, st.data())
def test_tasks_that_do_not_belong_are_refused_by_name(setting, seed, data):
    distribution = TaskDistribution(family_of(setting))
    task = dict(distribution.sample(np.random.default_rng(seed)))
    name = data.draw(st.sampled_from(sorted(task)))
    how = data.draw(
        st.sampled_from(["nan", "inf", "high", "low", "shape", "text", "none", "extra", "complex", "ragged"])
    )
    wrong = np.array(task[name], np.float64)
    flat = wrong.reshape(-1)
    if how in {"nan", "inf", "high", "low"}:
        place = data.draw(st.integers(0, flat.size - 1))
        flat[place] = {"nan": np.nan, "inf": np.inf, "high": 1e6, "low": -1e6}[how]
    replaced = {
        "shape": wrong[None],
        "text": "nonsense",
        "none": None,
        "complex": wrong + 1j,
        "ragged": [[1.0], [1.0, 2.0]],
    }.get(how, wrong)
    changed = {**task, name: replaced} if how != "extra" else {**task, "colour": 3}
    with pytest.raises(TaskError, match="colour" if how == "extra" else name):
        distribution.coerce(changed)
    assert distribution.coerce(task) == Task(distribution.family.name, task)


@every_family
def test_missing_fields_and_other_families_are_named(setting):
    distribution = TaskDistribution(family_of(setting))
    name = distribution.family.structural[0]
    task = distribution.sample(np.random.default_rng(0))
    with pytest.raises(TaskError, match=rf"{name}.*missing \['{name}'"):
        distribution.coerce({field: value for field, value in task.items() if field != name})
    with pytest.raises(TaskError, match=f"'Other' was given to family '{distribution.family.name}'"):
        distribution.coerce(Task("Other", task))
    with pytest.raises(TaskError, match="unknown"):
        distribution.coerce({**task, 3: 4, "x": 1})
    for value in (None, 3, [task], "task"):
        with pytest.raises(TypeError, match=type(value).__name__):
            distribution.coerce(value)


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        (PointGoal(), {"goal": [0.0, 1.5]}, r"goal=\[0\.0, 1\.5\] is out of range.*\[-1\.0, 1\.0\]"),
        (PointGoal(), {"goal": [0.0]}, r"goal has shape \(1,\).*\(2,\)"),
        (PointGoal(), {"goal": [np.nan, 0.0]}, r"goal=\[nan, 0\.0\]"),
        (FrozenLake(size=2), {"map": [[0, 1], [1.5, 3]]}, r"map=.*1\.5.*out of range"),
        (FrozenLake(size=2), {"map": [[0, 1], [256, 3]]}, "256.*out of range"),
        (FrozenLake(size=2), {"map": [[0, 1], [-1, 3]]}, "-1.*out of range"),
        (Drift(), {"push": [0.0, 0.0], "pattern": [[0, 1], [2, 1]], "kind": 0}, "pattern.*out of range"),
        (Drift(), {"push": [0.0, 0.0], "pattern": [[0, 1], [1, 1]], "kind": 3}, r"kind=3.*Discrete\(3\)"),
        (Drift(), {"push": [1e300, 0.0], "pattern": [[0, 1], [1, 1]], "kind": 1}, "push.*out of range"),
        (Drift(), {"push": [0.0, 0.0], "pattern": [[0, 1], [1, 1]], "kind": 2**63}, "kind.*out of range"),
    ],
)
def test_messages_name_the_field_the_value_and_what_is_accepted(family, fields, message):
    with pytest.raises(TaskError, match=message):
        TaskDistribution(family).coerce(fields)


def test_zero_has_one_sign_in_a_task():
    distribution = TaskDistribution(PointGoal())
    assert distribution.coerce({"goal": [-0.0, 0.5]}) == distribution.coerce({"goal": [0.0, 0.5]})


def test_a_coerced_task_shares_no_memory_with_what_it_was_made_of():
    source = np.array([0.1, 0.2])
    task = TaskDistribution(PointGoal()).coerce({"goal": source})
    source[0] = 0.9
    assert task["goal"].tolist() == [0.1, 0.2]


def test_a_task_of_another_part_may_be_coerced():
    whole = TaskDistribution(FrozenLake())
    task = whole.split("test").sample(np.random.default_rng(0))
    assert whole.split("train").coerce(task) == task
    assert task not in whole.split("train")


def test_membership_asks_for_a_valid_task():
    whole = TaskDistribution(PointGoal())
    assert Task("PointGoal", {"goal": [0.1, 0.1]}) in whole
    assert Task("PointGoal", {"goal": [0.1, 7.0]}) not in whole
    assert Task("Other", {"goal": [0.1, 0.1]}) not in whole
    assert {"goal": [0.1, 0.1]} not in whole
    assert 3 not in whole
