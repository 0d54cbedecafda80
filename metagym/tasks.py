"""Tasks as immutable values: identity by content, JSON and npz round trips, finite sets of tasks."""

import hashlib
import json
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike
from typing_extensions import Self, override

from metagym.errors import TaskError
from metagym.files import replacing, with_suffix
from metagym.noise import GAMMA, mix
from metagym.types import Array, Int, Keys

__all__ = ["Task", "TaskSet", "content_ids", "content_words"]

_PREFIX = "field:"


def _words(column: Array) -> Keys:
    """The bytes of each row, little-endian, padded with zeros to whole 64-bit words, (N, W)."""
    if column.dtype == np.float64 and column.ndim == 1 and sys.byteorder == "little":
        return np.ascontiguousarray(column).view(np.uint64)[:, None]
    little = np.ascontiguousarray(column.astype(column.dtype.newbyteorder("<"), copy=False))
    raw = little.reshape(len(column), -1).view(np.uint8)
    width = -(-raw.shape[1] // 8) * 8
    if width != raw.shape[1]:
        raw = np.concatenate([raw, np.zeros((len(raw), width - raw.shape[1]), np.uint8)], axis=1)
    return raw.view("<u8").astype(np.uint64, copy=False)


def _field_key(family: str, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.uint64:
    text = f"{family}|{name}|{dtype.newbyteorder('<').str}|{shape}"
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))


@lru_cache(maxsize=256)
def _salt(family: str, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], width: int) -> Keys:
    """What the words of a field are mixed with, so that equal bytes in different places hash apart, (width,)."""
    salt = mix(np.arange(1, width + 1, dtype=np.uint64) * GAMMA + _field_key(family, name, dtype, shape))
    salt.flags.writeable = False
    return salt


def content_words(family: str, columns: Mapping[str, Array]) -> Keys:
    """A partial hash of some fields of N tasks; partial hashes of disjoint fields add up, (N,)."""
    total: Keys | None = None
    for name, column in columns.items():
        words = _words(column)
        mixed = mix(words ^ _salt(family, name, column.dtype, column.shape[1:], words.shape[1]))
        # Sums of unsigned words wrap and are exact in any order, so rows stay independent of N.
        partial = mixed[:, 0] if mixed.shape[1] == 1 else mixed.sum(axis=1, dtype=np.uint64)
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
        fields: the free parameters: booleans, integers and floats of up to 64 bits. They are copied; use
            `TaskDistribution.coerce` to validate them.

    Raises:
        TaskError: if there are no fields, or one holds something else.
    """

    __slots__ = ("_family", "_fields", "_id")

    def __init__(self, family: str, fields: Mapping[str, ArrayLike]) -> None:
        self._family = family
        self._fields: dict[str, Array] = {name: _frozen(name, fields[name]) for name in sorted(fields, key=str)}
        columns = {name: value[None] for name, value in self._fields.items()}
        self._id = int(content_ids(content_words(family, columns))[0])

    @property
    def family(self) -> str:
        """Name of the family the task belongs to."""
        return self._family

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
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise TaskError(f"not a task in JSON as Task.to_json writes it: {error}") from error


def _frozen(name: str, value: ArrayLike) -> Array:
    """A copy in C and native byte order that cannot be made writeable."""
    try:
        array = np.array(value, order="C")
    except ValueError as ragged:
        raise TaskError(f"{name}={value!r} is no array of numbers") from ragged
    if not isinstance(name, str) or array.dtype.kind not in "biuf" or array.dtype.itemsize > 8 or not array.size:
        raise TaskError(
            f"a field is a name with an array of booleans, integers or floats of up to 64 bits, of at least one; "
            f"got {name!r} with {array.dtype} of shape {array.shape}"
        )
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    array.setflags(write=False)
    return array.view()  # of an owner that is read-only, a view cannot be made writeable again


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
        for task in tasks:
            if not isinstance(task, Task):
                raise TaskError(f"a TaskSet holds Tasks, got {type(task).__name__}")
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
        path = with_suffix(path, ".npz")
        columns = {f"{_PREFIX}{name}": np.stack([task[name] for task in self]) for name in self._tasks[0]}
        head = {"family": np.array(self.family), "fingerprint": np.array(self.fingerprint)}
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **head, **columns)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "TaskSet":
        """The set that `save` wrote; no code in the file is executed.

        Raises:
            FileNotFoundError: if there is no such file.
            TaskError: if the file is no task set.
        """
        try:
            family, fingerprint, columns = _read(path)
            (num_tasks,) = {len(column) for column in columns.values()}
            rows = range(num_tasks)
            loaded = cls([Task(family, {name: column[row] for name, column in columns.items()}) for row in rows])
            if loaded.fingerprint != fingerprint:
                raise ValueError(f"its fingerprint is {loaded.fingerprint}, {fingerprint} was saved")
        except FileNotFoundError:
            raise
        except _UNREADABLE as error:
            raise TaskError(f"{path} is no task set as TaskSet.save writes it: {error}") from error
        return loaded


# What NumPy and zipfile raise for files that are damaged, or of another kind.
_UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, SyntaxError, NotImplementedError, RuntimeError,
    MemoryError, OverflowError, zipfile.BadZipFile, zlib.error, struct.error,
)  # fmt: skip


def _read(path: str | Path) -> tuple[str, str, dict[str, Array]]:
    # Opened here, since NumPy leaves a file that it cannot read open.
    with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as data:
        family, fingerprint = data["family"], data["fingerprint"]
        if family.dtype.kind != "U" or family.ndim:
            raise ValueError(f"the family is {family!r}")
        names = [name for name in data.files if name not in {"family", "fingerprint"}]
        return str(family), str(fingerprint), {_field_name(name): data[name] for name in names}


def _field_name(name: str) -> str:
    if not name.startswith(_PREFIX):
        raise ValueError(f"it holds {name!r}")
    return name.removeprefix(_PREFIX)


def _kind(task: Task) -> tuple[Any, ...]:
    return (task.family, *((name, task[name].dtype.str, task[name].shape) for name in task))
