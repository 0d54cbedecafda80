"""Tasks as values: identity, immutability, round trips."""

import copy
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metagym import Task, TaskDistribution, TaskError, TaskSet
from metagym.registry import make_family
from metagym.tasks import content_ids, content_words
from tests.strategies import FAMILIES, SETTINGS, arrays, label, names, tasks

LAKE = {"map": np.array([[0, 1], [1, 3]], np.uint8), "rate": np.float64(0.25)}

# --- identity --------------------------------------------------------------------------------------------------------


@given(tasks)
def test_equal_content_gives_equal_tasks_hashes_and_ids(task):
    again = Task(task.family, dict(reversed(list(task.items()))))
    assert again == task
    assert hash(again) == hash(task)
    assert again.id == task.id
    assert 0 <= task.id < 2**63
    assert len({task, again}) == 1


@given(tasks, st.data())
def test_every_bit_of_every_field_counts(task, data):
    name = data.draw(st.sampled_from(list(task)))
    raw = bytearray(task[name].tobytes())
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    if task[name].dtype.kind == "b":
        bit &= ~7
    raw[bit // 8] ^= 1 << bit % 8
    changed = np.frombuffer(bytes(raw), task[name].dtype).reshape(task[name].shape)
    other = Task(task.family, {**task, name: changed})
    assert other.id != task.id
    assert other != task


@given(tasks, names, arrays())
def test_family_names_dtypes_and_shapes_count(task, name, value):
    others = [Task(task.family + "x", task)]
    if name not in task:
        others += [Task(task.family, {**task, name: value})]
    first = next(iter(task))
    if first + "x" not in task:
        others += [Task(task.family, {first + "x" if key == first else key: item for key, item in task.items()})]
    others += [Task(task.family, {**task, first: task[first][None]})]
    if task[first].dtype.itemsize == 8:
        dtype = np.int64 if task[first].dtype.kind == "f" else np.float64
        others += [Task(task.family, {**task, first: task[first].view(dtype)})]
    for other in others:
        assert other.id != task.id
        assert other != task


def test_swapped_values_and_swapped_fields_give_other_ids():
    pairs = [{"a": [1.0, 2.0], "b": [3.0]}, {"a": [2.0, 1.0], "b": [3.0]}, {"b": [1.0, 2.0], "a": [3.0]}]
    assert len({Task("F", pair).id for pair in pairs}) == 3
    assert Task("F", {"a": [0.0]}).id != Task("F", {"a": [-0.0]}).id


def test_a_task_is_no_other_mapping():
    assert Task("F", LAKE) != LAKE
    assert Task("F", LAKE) != "F"
    assert Task("F", LAKE) != Task("G", LAKE)


@pytest.mark.parametrize("family", [*(label(setting) for setting in SETTINGS), *FAMILIES], ids=str)
def test_a_hundred_thousand_sampled_tasks_have_as_many_ids_as_contents(family):
    by_label = {label(setting): setting for setting in SETTINGS}
    made = family() if isinstance(family, type) else make_family(by_label[family][0], **by_label[family][1])
    keys = np.random.default_rng(0).integers(0, 2**64, 100_000, np.uint64)
    params, ids = TaskDistribution(made).draw(keys)
    rows = np.concatenate(
        [np.ascontiguousarray(column).reshape(len(ids), -1).view(np.uint8) for column in params.columns().values()],
        axis=1,
    )
    contents = {row.tobytes() for row in rows}
    assert len(np.unique(ids)) == len(contents)
    assert ids.min() >= 0


@pytest.mark.parametrize("num_bits", [1, 2])
def test_contents_that_differ_in_few_bits_have_well_spread_ids(num_bits):
    words = np.zeros((64, 8), np.uint64)
    words[np.arange(64), 3] = np.uint64(1) << np.arange(64, dtype=np.uint64)
    if num_bits == 2:
        words[:, 5] = words[::-1, 3]
    ids = content_ids(content_words("F", {"x": words}))
    flips = np.unpackbits((ids[:, None] ^ ids[None]).view(np.uint8).reshape(64, 64, 8), axis=2).sum(axis=2)
    off_diagonal = flips[~np.eye(64, dtype=bool)]
    assert 28 < off_diagonal.mean() < 35
    assert off_diagonal.min() > 8


@given(st.lists(arrays(), min_size=1, max_size=1), st.integers(2, 5))
def test_the_hash_of_a_batch_is_the_hash_of_each(value, num_rows):
    rows = np.stack([np.roll(value[0], shift) for shift in range(num_rows)])
    ids = content_ids(content_words("F", {"x": rows}))
    assert ids.tolist() == [Task("F", {"x": row}).id for row in rows]


def test_partial_hashes_of_disjoint_fields_add_up():
    columns = {"a": np.arange(6.0).reshape(3, 2), "b": np.arange(3, dtype=np.uint8)}
    whole = content_words("F", columns)
    parts = [content_words("F", {name: column}) for name, column in columns.items()]
    assert (whole == parts[0] + parts[1]).all()


@pytest.mark.parametrize("dtype", ["f8", "i4", "u2"])
def test_tasks_do_not_depend_on_byte_order_or_memory_layout(dtype):
    value = np.arange(6).reshape(2, 3)
    little, big = (Task("F", {"x": value.astype(order + dtype)}) for order in "<>")
    assert little == big
    assert little.id == big.id
    assert little.to_json() == big.to_json()
    turned = Task("F", {"x": np.asfortranarray(value.astype("<" + dtype))})
    strided = Task("F", {"x": np.repeat(value.astype("<" + dtype), 2, axis=1)[:, ::2]})
    assert turned == strided == little


def test_known_ids_are_unchanged():
    assert Task("F", LAKE).id == 8038426525517535662
    assert Task("F", {"x": np.arange(5, dtype=np.float32), "y": np.array([True, False])}).id == 33710882141087364


@pytest.mark.parametrize("hash_seed", ["0", "77"])
def test_ids_and_fingerprints_are_equal_in_other_processes(hash_seed):
    code = (
        "import numpy as np; from metagym import Task, TaskSet; "
        "tasks = [Task('F', {'b': [k, 2.5], 'a': np.int8(k)}) for k in range(5)]; "
        "print([task.id for task in tasks], TaskSet(tasks).fingerprint)"
    )
    output = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = [Task("F", {"b": [k, 2.5], "a": np.int8(k)}) for k in range(5)]
    assert output.stdout.strip() == f"{[task.id for task in expected]} {TaskSet(expected).fingerprint}"


# --- immutability ----------------------------------------------------------------------------------------------------


def test_a_task_cannot_be_changed():
    source = np.arange(3.0)
    task = Task("F", {"x": source})
    source[0] = 9.0
    assert task["x"].tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        task["x"][0] = 1.0
    with pytest.raises(ValueError, match="WRITEABLE"):
        task["x"].setflags(write=True)
    with pytest.raises(TypeError):
        task["x"] = np.zeros(3)
    for name in ("family", "id", "colour"):
        with pytest.raises(AttributeError):
            setattr(task, name, "G")


@given(tasks)
def test_a_task_is_a_mapping(task):
    assert len(task) == len(list(task)) == len(dict(task))
    assert list(task) == sorted(task)
    assert all(isinstance(task[name], np.ndarray) for name in task)
    assert str(task.id) in repr(task)
    assert task.get("no such field") is None


@pytest.mark.parametrize(
    ("given_fields", "message"),
    [
        ({}, "at least one field"),
        ({"x": np.array([object()])}, "x.*object"),
        ({"x": "text"}, "x.*<U4"),
        ({"x": [None]}, "x.*object"),
        ({"x": np.array([1 + 2j])}, "x.*complex"),
        ({"x": np.zeros((0, 3))}, r"x.*\(0, 3\)"),
        ({"x": np.zeros(2, np.longdouble)}, "x.*(float128|longdouble|float96)"),
        ({"x": np.array(["2020"], "M8[Y]")}, "x.*datetime"),
        ({"x": [[1], [1, 2]]}, "x"),
        ({3: 1.0}, "3"),
    ],
)
def test_what_is_no_plain_number_is_refused(given_fields, message):
    with pytest.raises(TaskError, match=message):
        Task("F", given_fields)


# --- round trips -----------------------------------------------------------------------------------------------------


@given(tasks)
def test_json_pickle_and_copies_are_exact(task):
    line = task.to_json()
    assert "\n" not in line
    for again in (Task.from_json(line), pickle.loads(pickle.dumps(task)), copy.deepcopy(task), copy.copy(task)):
        assert again == task
        assert again.id == task.id
        assert not any(value.flags.writeable for value in again.values())


def test_special_floats_survive_json():
    values = np.array([-0.0, 0.0, np.inf, -np.inf, 5e-324, np.finfo(float).max, 0.1, 1 / 3])
    assert Task.from_json(Task("F", {"x": values}).to_json())["x"].tobytes() == values.tobytes()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "3",
        "null",
        "{}",
        '{"family": "F"}',
        '{"family": "F", "fields": 3}',
        '{"family": "F", "fields": {}}',
        '{"family": "F", "fields": {"x": 3}}',
        '{"family": "F", "fields": {"x": {"dtype": "|O", "shape": [1], "data": [3]}}}',
        '{"family": "F", "fields": {"x": {"dtype": "nothing", "shape": [1], "data": [3]}}}',
        '{"family": "F", "fields": {"x": {"dtype": "<f8", "shape": [2], "data": [3]}}}',
        '{"family": "F", "fields": {"x": {"dtype": "<f8", "shape": "a", "data": [3]}}}',
        '{"family": "F", "fields": {"x": {"dtype": "|u1", "shape": [1], "data": [300]}}}',
        '{"family": "F", "fields": {"x": {"dtype": "<f8", "shape": [1], "data": ["a"]}}}',
    ],
)
def test_text_that_is_no_task_is_refused(text):
    with pytest.raises(TaskError, match="JSON"):
        Task.from_json(text)


def test_json_of_a_task_is_plain_json():
    data = json.loads(Task("F", LAKE).to_json())
    assert data == {
        "family": "F",
        "fields": {
            "map": {"dtype": "|u1", "shape": [2, 2], "data": [0, 1, 1, 3]},
            "rate": {"dtype": "<f8", "shape": [], "data": [0.25]},
        },
    }
