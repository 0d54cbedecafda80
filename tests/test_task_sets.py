"""Finite sets of tasks: saving, loading, fingerprints, damaged files."""

import os
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metagym import Task, TaskDistribution, TaskError, TaskSet
from tests.strategies import families, fields

# --- sets ------------------------------------------------------------------------------------------------------------


def _set(num_tasks=6):
    rng = np.random.default_rng(0)
    return TaskSet(
        [Task("F", {"x": rng.random(3), "n": np.uint8(k), "b/c d": rng.random((2, 2)) < 0.5}) for k in range(num_tasks)]
    )


def test_a_set_is_a_sequence():
    tasks = _set()
    assert len(tasks) == 6
    assert tasks[0] in tasks
    assert tasks[-1] == tasks[5]
    assert list(tasks) == [tasks[k] for k in range(6)]
    assert tasks[1:3] == TaskSet([tasks[1], tasks[2]])
    assert isinstance(tasks[::2], TaskSet)
    assert tasks.family == "F"
    assert tasks.index(tasks[4]) == 4
    assert tasks != list(tasks)
    assert hash(tasks) == hash(_set())
    assert tasks.fingerprint[:8] in repr(tasks)


@settings(max_examples=25)
@given(families, st.integers(1, 6), st.integers(0, 2**32))
def test_saving_and_loading_gives_the_same_set(tmp_path_factory, family, num_tasks, seed):
    tasks = TaskSet(TaskDistribution(family()).sample(np.random.default_rng(seed), num_tasks))
    path = tasks.save(tmp_path_factory.mktemp("sets") / "tasks")
    assert path.name == "tasks.npz"
    loaded = TaskSet.load(path)
    assert loaded == tasks
    assert loaded.fingerprint == tasks.fingerprint
    assert [task.id for task in loaded] == [task.id for task in tasks]


@settings(max_examples=25)
@given(fields)
def test_sets_of_any_fields_survive(tmp_path_factory, some_fields):
    tasks = TaskSet([Task("F", some_fields)])
    usable = all(
        "/" not in name and "\\" not in name and "\0" not in name and name.isprintable() for name in some_fields
    )
    if usable:
        assert TaskSet.load(tasks.save(tmp_path_factory.mktemp("sets") / "tasks.npz")) == tasks


def test_saving_replaces_whole_files_and_leaves_no_others(tmp_path):
    path = _set(6).save(str(tmp_path / "tasks.npz"))
    _set(2).save(path)
    assert len(TaskSet.load(str(path))) == 2
    assert [found.name for found in tmp_path.iterdir()] == ["tasks.npz"]
    with pytest.raises(FileNotFoundError):
        _set().save(tmp_path / "nowhere" / "tasks.npz")


def test_the_fingerprint_depends_on_content_and_order_alone():
    tasks = _set()
    assert tasks.fingerprint == _set().fingerprint
    others = [tasks[::-1], tasks[:5], TaskSet([*tasks[:5], tasks[0]])]
    assert len({tasks.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert _set(3).fingerprint == "3e9f96436db5d20dbc64352aa1c853cb"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TaskSet([]), "at least one task"),
        (lambda: _set()[3:3], "at least one task"),
        (lambda: TaskSet([Task("F", {"x": 1.0}), Task("G", {"x": 1.0})]), "one kind.*'F'.*'G'"),
        (lambda: TaskSet([Task("F", {"x": 1.0}), Task("F", {"x": [1.0]})]), "one kind"),
        (lambda: TaskSet([Task("F", {"x": 1.0}), Task("F", {"x": 1})]), "one kind"),
        (lambda: TaskSet([Task("F", {"x": 1.0}), Task("F", {"y": 1.0})]), "one kind"),
        (lambda: TaskSet([{"x": 1.0}]), "dict"),
    ],
)
def test_tasks_that_are_not_of_one_kind_make_no_set(make, message):
    with pytest.raises(TaskError, match=message):
        make()


def _write(path, **columns):
    np.savez(path, **columns)
    return path


class _Executed:
    def __reduce__(self):
        return (os.abort, ())


@pytest.mark.parametrize(
    "columns",
    [
        {"x": np.zeros(3)},
        {"family": np.array("F")},
        {"family": np.array("F"), "field:x": np.zeros(3), "field:y": np.zeros(2)},
        {"family": np.array("F"), "field:x": np.zeros(0)},
        {"family": np.array("F"), "field:x": np.array(3.0)},
        {"family": np.array("F"), "x": np.zeros(3), "fingerprint": np.array("0" * 32)},
        {"family": np.array("F"), "field:x": np.array([_Executed()], object)},
        {"family": np.array(["F", "G"]), "field:x": np.zeros(3)},
        {"family": np.array(3.0), "field:x": np.zeros(3)},
        {"family": np.array("F"), "field:x": np.array(["a", "b"])},
        {"family": np.array("F"), "field:x": np.zeros(3), "fingerprint": np.array("0" * 32)},
    ],
)
def test_archives_that_are_no_sets_are_refused(tmp_path, columns):
    with pytest.raises(TaskError, match=r"tasks\.npz is no task set"):
        TaskSet.load(_write(tmp_path / "tasks.npz", **columns))


def test_files_that_are_no_archives_are_refused(tmp_path):
    for content in (b"", b"nonsense", b"PK\x03\x04", pickle.dumps([1, 2])):
        path = tmp_path / "tasks.npz"
        path.write_bytes(content)
        with pytest.raises(TaskError, match="no task set"):
            TaskSet.load(path)
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(TaskError, match="no task set"):
        TaskSet.load(tmp_path / "array.npy")
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(TaskError, match="no task set"):
        TaskSet.load(tmp_path / "other.npz")
    with pytest.raises(TaskError, match="no task set"):
        TaskSet.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        TaskSet.load(tmp_path / "missing.npz")


def test_a_damaged_file_is_refused_or_gives_the_set_it_held(tmp_path):
    tasks, path = _set(3), tmp_path / "tasks.npz"
    whole = tasks.save(path).read_bytes()
    rng, num_refused = np.random.default_rng(0), 0
    damages = [whole[:length] for length in range(0, len(whole), 37)]
    for position in rng.integers(0, len(whole), 400):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        damages.append(bytes(damaged))
    for damaged in damages:
        path.write_bytes(damaged)
        try:
            loaded = TaskSet.load(path)
        except TaskError:
            num_refused += 1
        else:
            assert loaded == tasks
    assert num_refused > 250


def test_a_set_holds_no_pickles(tmp_path):
    with zipfile.ZipFile(_set().save(tmp_path / "tasks")) as archive:
        for name in archive.namelist():
            assert name.endswith(".npy")
            assert b"'descr': '|O'" not in archive.read(name)
