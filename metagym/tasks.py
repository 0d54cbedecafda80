"""Tasks as immutable values: identity by content, JSON and npz round trips, finite sets of tasks."""

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike
from typing_extensions import Self, override

from metagym.errors import TaskError
from metagym.noise import GAMMA, mix
from metagym.types import Array, Int, Keys

__all__ = ["Task", "TaskSet", "content_ids", "content_words"]


def _words(column: Array) -> Keys:
    """The bytes of each row, little-endian, padded with zeros to whole 64-bit words, (N, W)."""
    little = np.ascontiguousarray(column.astype(column.dtype.newbyteorder("<"), copy=False))
    raw = little.reshape(len(column), -1).view(np.uint8)
    width = -(-raw.shape[1] // 8) * 8
    if width != raw.shape[1]:
        raw = np.concatenate([raw, np.zeros((len(raw), width - raw.shape[1]), np.uint8)], axis=1)
    return raw.view("<u8").astype(np.uint64, copy=False)


def _field_key(family: str, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.uint64:
    text = f"{family}|{name}|{dtype.newbyteorder('<').str}|{shape}"
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))


def content_words(family: str, columns: Mapping[str, Array]) -> Keys:
    """A partial hash of some fields of N tasks; partial hashes of disjoint fields add up, (N,)."""
    total: Keys | None = None
    for name, column in columns.items():
        words = _words(column)
        key = _field_key(family, name, column.dtype, column.shape[1:])
        positions = np.arange(1, words.shape[1] + 1, dtype=np.uint64) * GAMMA + key
        # Sums of unsigned words wrap and are exact in any order, so rows stay independent of N.
        partial = mix(words ^ mix(positions)).sum(axis=1, dtype=np.uint64)
        total = partial if total is None else total + partial
    if total is None:
        raise TaskError(f"a task of family {family!r} needs at least one field")
    return total


def content_ids(words: Keys) -> Int:
    """63-bit identities, (N,), from complete partial hashes."""
    ids: Int = (mix(words + GAMMA) >> np.uint64(1)).view(np.int64)
    return ids


class Task(Mapping[str, np.ndarray]):
    """One task: an immutable mapping from field names to read-only arrays.

    Tasks are equal, and hash alike, when family and content are. ``id`` is a 63-bit hash of the content, the same in
    every process and on every platform.

    Args:
        family: name of the family the task belongs to.
        fields: the free parameters. They are copied; use `TaskDistribution.coerce` to validate them.
    """

    __slots__ = ("_fields", "_id", "family")

    def __init__(self, family: str, fields: Mapping[str, ArrayLike]) -> None:
        self.family = family
        self._fields: dict[str, Array] = {}
        for name in sorted(fields):
            value = np.array(fields[name], order="C")
            value.setflags(write=False)
            self._fields[name] = value
        columns = {name: value[None] for name, value in self._fields.items()}
        self._id = int(content_ids(content_words(family, columns))[0])

    @property
    def id(self) -> int:
        """63-bit content hash."""
        return self._id

    @override
    def __getitem__(self, name: str) -> Array:
        return self._fields[name]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    @override
    def __len__(self) -> int:
        return len(self._fields)

    @override
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Task):
            return NotImplemented
        return (
            self.family == other.family
            and list(self) == list(other)
            and all(_same(self[name], other[name]) for name in self)
        )

    @override
    def __hash__(self) -> int:
        return hash(self._id)

    @override
    def __repr__(self) -> str:
        return f"Task({self.family!r}, id={self._id}, fields={list(self)})"

    @override
    def __reduce__(self) -> tuple[type["Task"], tuple[str, dict[str, Array]]]:
        return (type(self), (self.family, self._fields))

    def to_json(self) -> str:
        """The task as one line of JSON, exact to the last bit."""
        fields = {
            name: {"dtype": value.dtype.str, "shape": value.shape, "data": value.ravel().tolist()}
            for name, value in self._fields.items()
        }
        return json.dumps({"family": self.family, "fields": fields})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The task that `to_json` wrote.

        Raises:
            TaskError: if the text is no task.
        """
        try:
            data = json.loads(text)
            fields = {
                name: np.array(field["data"], dtype=_plain_dtype(field["dtype"])).reshape(field["shape"])
                for name, field in data["fields"].items()
            }
            return cls(str(data["family"]), fields)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TaskError(f"not a task in JSON as Task.to_json writes it: {error}") from error


def _same(left: Array, right: Array) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


def _plain_dtype(text: str) -> np.dtype[Any]:
    dtype = np.dtype(text)
    if dtype.hasobject:
        raise ValueError(f"fields of dtype {text!r} are not accepted")
    return dtype


class TaskSet(Sequence[Task]):
    """A finite, ordered benchmark of tasks of one family.

    Args:
        tasks: at least one task; all of one family, with the same fields, shapes and dtypes.

    Raises:
        TaskError: if the set is empty or the tasks differ in kind.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        if not tasks:
            raise TaskError("a TaskSet needs at least one task, got none")
        kinds = {_kind(task) for task in tasks}
        if len(kinds) > 1:
            raise TaskError(f"the tasks of a TaskSet must be of one kind, got {sorted(map(str, kinds))}")
        self._tasks = tuple(tasks)

    @property
    def family(self) -> str:
        """Name of the family."""
        return self._tasks[0].family

    @property
    def fingerprint(self) -> str:
        """Hash of the ids in order, as 32 hexadecimal digits: two equal sets, on any machine, print the same."""
        ids = np.array([task.id for task in self._tasks], dtype="<i8")
        return hashlib.blake2b(ids.tobytes(), digest_size=16).hexdigest()

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> "TaskSet": ...
    @override
    def __getitem__(self, index: int | slice) -> "Task | TaskSet":
        return TaskSet(self._tasks[index]) if isinstance(index, slice) else self._tasks[index]

    @override
    def __len__(self) -> int:
        return len(self._tasks)

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, TaskSet) and self._tasks == other._tasks

    @override
    def __hash__(self) -> int:
        return hash(self._tasks)

    @override
    def __repr__(self) -> str:
        return f"TaskSet({self.family!r}, {len(self)} tasks, fingerprint={self.fingerprint[:8]})"

    def save(self, path: str | Path) -> Path:
        """Write the set as one ``.npz`` file without pickles; the file appears whole or not at all.

        Args:
            path: where; ``.npz`` is appended if missing.

        Returns:
            The path written.
        """
        path = Path(path) if str(path).endswith(".npz") else Path(f"{path}.npz")
        columns = {f"field:{name}": np.stack([task[name] for task in self]) for name in self._tasks[0]}
        partial = path.with_name(f".{path.name}.partial")
        try:
            with partial.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, family=np.array(self.family), **columns)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "TaskSet":
        """The set that `save` wrote; no code in the file is executed.

        Raises:
            FileNotFoundError: if there is no such file.
            TaskError: if the file is no task set.
        """
        try:
            with np.load(path, allow_pickle=False) as data:
                family = str(data["family"])
                columns = {name.removeprefix("field:"): data[name] for name in data.files if name != "family"}
        except FileNotFoundError:
            raise
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            EOFError,
            zipfile.BadZipFile,
        ) as error:
            raise TaskError(f"{path} is no task set as TaskSet.save writes it: {error}") from error
        lengths = {len(column) for column in columns.values()}
        if len(lengths) != 1:
            raise TaskError(f"{path} is no task set: its fields have lengths {sorted(lengths)}")
        rows = range(lengths.pop())
        return cls([Task(family, {name: column[row] for name, column in columns.items()}) for row in rows])


def _kind(task: Task) -> tuple[Any, ...]:
    return (task.family, *((name, task[name].dtype.str, task[name].shape) for name in task))
