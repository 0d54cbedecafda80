"""Checkpoints: one zip of JSON and safetensors, whose loading executes nothing, written whole or not at all.

A file holds two uncompressed members, ``meta.json`` (format, version, and what the learner says about itself) and
``arrays.safetensors``. Python objects enter the JSON through `metagym.encoding`.
"""

import contextlib
import json
import os
import secrets
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from metagym.errors import CheckpointError, ConfigError
from metagym.types import Array, Json

__all__ = ["archive_path", "read_archive", "read_meta", "write_archive"]

FORMAT = "metagym-checkpoint"
VERSION = 1
MEMBERS = ("meta.json", "arrays.safetensors")


def archive_path(path: str | Path) -> Path:
    """The path with ``.zip`` appended if it has no suffix, as Stable-Baselines3 does."""
    path = Path(path)
    return path if path.suffix else path.with_name(path.name + ".zip")


def write_archive(path: str | Path, *, meta: Mapping[str, Json], arrays: Mapping[str, Array]) -> Path:
    """Write a checkpoint so that, whatever happens, the path holds either the old file or the whole new one.

    Args:
        path: where; ``.zip`` is appended if there is no suffix, and missing folders are made.
        meta: what JSON can express; pass objects through `metagym.encoding.encode` first.
        arrays: named arrays of numbers or booleans, any shape.

    Returns:
        The path written.

    Raises:
        ConfigError: if the folder cannot be written to, or something given has no place in the format.
    """
    path = archive_path(path)
    contents: tuple[str, bytes] = (_to_json(meta), _to_safetensors(arrays))
    partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("xb") as file:
                with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                    archive.writestr(MEMBERS[0], contents[0])
                    archive.writestr(MEMBERS[1], contents[1])
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error} (folder {path.parent})") from error
    _sync_folder(path.parent)
    return path


def read_archive(path: str | Path) -> tuple[dict[str, Json], dict[str, Array]]:
    """What `write_archive` wrote: ``(meta, arrays)``. Nothing in the file is executed.

    Raises:
        CheckpointError: if there is no such file, or it is damaged, or not a metagym checkpoint.
    """
    path, (text, blob) = _members(path, MEMBERS)
    return _read_meta(path, text), _read_arrays(path, blob)


def read_meta(path: str | Path) -> dict[str, Json]:
    """The meta that `write_archive` wrote, without reading the arrays.

    Raises:
        CheckpointError: as `read_archive`, but for damage to the arrays.
    """
    path, (text,) = _members(path, MEMBERS[:1])
    return _read_meta(path, text)


def _members(path: str | Path, wanted: Sequence[str]) -> tuple[Path, list[bytes]]:
    """The file there is, and what some of its members hold."""
    path = Path(path) if Path(path).is_file() else archive_path(path)
    try:
        with path.open("rb") as file:
            return path, _unpacked(path, file, wanted)
    except FileNotFoundError as error:
        raise CheckpointError(f"no such file: {path}") from error
    except (OSError, EOFError, RuntimeError, NotImplementedError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is damaged or is no metagym checkpoint: {error}") from error


def _to_json(meta: Mapping[str, Json]) -> str:
    try:
        return json.dumps({"format": FORMAT, "version": VERSION, "meta": dict(meta)}, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"meta must be what JSON can express (see metagym.encoding.encode): {error}") from error


def _to_safetensors(arrays: Mapping[str, Array]) -> bytes:
    little = {}
    for name, value in arrays.items():
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise ConfigError(f"array {name!r} has dtype {array.dtype}; a checkpoint holds numbers and booleans only")
        little[name] = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    return save_safetensors(little)


def _sync_folder(folder: Path) -> None:
    # The rename itself must reach the disk; platforms that cannot open a folder have no such call.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _unpacked(path: Path, file: Any, wanted: Sequence[str]) -> list[bytes]:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if "_stable_baselines3_version" in names:
            raise CheckpointError(f"{path} was saved by Stable-Baselines3: load it with the algorithm that saved it")
        if sorted(names) != sorted(MEMBERS):
            raise CheckpointError(f"{path} is no metagym checkpoint: it holds {names[:8]}, not {list(MEMBERS)}")
        size = path.stat().st_size
        for entry in archive.infolist():
            # Stored members cannot unpack to more than the file: no declared size is believed further than that.
            if entry.compress_type != zipfile.ZIP_STORED or max(entry.file_size, entry.compress_size) > size:
                raise CheckpointError(f"{path} is no metagym checkpoint: {entry.filename} is packed or oversized")
        return [archive.read(name) for name in wanted]


def _read_meta(path: Path, text: bytes) -> dict[str, Json]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: meta.json cannot be read: {error}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT or not isinstance(data.get("meta"), dict):
        raise CheckpointError(f"{path} is no metagym checkpoint: meta.json does not say format {FORMAT!r}")
    if data.get("version") != VERSION:
        raise CheckpointError(f"{path} has format version {data.get('version')!r}; this metagym reads {VERSION}")
    meta: dict[str, Json] = data["meta"]
    return meta


def _read_arrays(path: Path, blob: bytes) -> dict[str, Array]:
    try:
        # Copied because the reader's arrays are read-only views of the file's bytes.
        return {name: np.array(value) for name, value in load_safetensors(blob).items()}
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{path}: arrays.safetensors cannot be read: {error}") from error
