"""One file format: what goes in comes out, old files survive, and hostile files only raise."""

import json
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import PPO

from metagym import saving
from metagym.errors import CheckpointError, ConfigError
from metagym.saving import read_archive, read_meta, write_archive

ARRAYS = {
    "scalar": np.array(3.5),
    "bool": np.array([[True], [False]]),
    "half": np.arange(4, dtype=np.float16),
    "big": np.arange(6, dtype=">i4").reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "unsigned": np.array([2**64 - 1], np.uint64),
    "empty": np.zeros((0, 3)),
}


def write_zip(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def good_meta(meta=None):
    return json.dumps({"format": "metagym-checkpoint", "version": 1, "meta": meta or {}})


def test_arrays_and_meta_come_back_exactly(tmp_path):
    path = write_archive(tmp_path / "a.zip", meta={"x": [1, "é", None]}, arrays=ARRAYS)
    meta, arrays = read_archive(path)
    assert meta == {"x": [1, "é", None]}
    assert arrays.keys() == ARRAYS.keys()
    for name, value in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], value)
        assert arrays[name].shape == value.shape
        assert arrays[name].dtype == value.dtype.newbyteorder("=")
        assert arrays[name].flags.writeable


def test_zip_is_appended_to_a_name_without_suffix_when_writing_and_reading(tmp_path):
    assert write_archive(tmp_path / "new" / "agent", meta={}, arrays={}) == tmp_path / "new" / "agent.zip"
    assert read_archive(tmp_path / "new" / "agent") == ({}, {})


def test_the_old_file_survives_a_failure_at_any_point(tmp_path, monkeypatch):
    path = write_archive(tmp_path / "a.zip", meta={"old": True}, arrays=ARRAYS)
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving.os, "fsync", fail)
    with pytest.raises(ConfigError, match="No space left"):
        write_archive(path, meta={"old": False}, arrays=ARRAYS)
    monkeypatch.undo()
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_archive(path, meta={"old": False}, arrays=ARRAYS)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    with pytest.raises(ConfigError, match=str(blocker)):
        write_archive(blocker / "a.zip", meta={}, arrays={})


def test_what_json_or_safetensors_cannot_hold_is_refused_before_the_file_is_touched(tmp_path):
    with pytest.raises(ConfigError, match="encode"):
        write_archive(tmp_path / "a.zip", meta={"x": object()}, arrays={})
    with pytest.raises(ConfigError, match="'names' has dtype <U1"):
        write_archive(tmp_path / "a.zip", meta={}, arrays={"names": np.array(["a"])})
    assert list(tmp_path.iterdir()) == []


def test_meta_is_read_without_the_arrays_and_is_that_of_the_whole_file(tmp_path):
    path = write_archive(tmp_path / "a.zip", meta={"x": [1]}, arrays={"w": np.arange(100.0)})
    assert read_meta(tmp_path / "a") == read_archive(path)[0] == {"x": [1]}
    blob = bytearray(path.read_bytes())
    blob[blob.index(np.arange(100.0).tobytes())] ^= 1
    path.write_bytes(blob)
    with pytest.raises(CheckpointError, match="damaged"):
        read_archive(path)
    assert read_meta(path) == {"x": [1]}
    with pytest.raises(CheckpointError, match="no such file"):
        read_meta(tmp_path / "b.zip")
    path.write_bytes(blob[:20])
    with pytest.raises(CheckpointError, match="damaged"):
        read_meta(path)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(CheckpointError, match=r"no such file: .*nothing\.zip"):
        read_archive(tmp_path / "nothing.zip")


class Bomb:
    def __reduce__(self):
        return (sys.exit, ("executed",))


@pytest.mark.parametrize(
    "content", [b"", b"hello", pickle.dumps(Bomb()), bytes(1000)], ids=["empty", "text", "pickle", "zeros"]
)
def test_a_foreign_file_is_refused(tmp_path, content):
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=str(path)):
        read_archive(path)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        read_archive(tmp_path)


def test_a_checkpoint_of_sb3_is_recognised(tmp_path):
    PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8).save(tmp_path / "ppo.zip")
    with pytest.raises(CheckpointError, match="saved by Stable-Baselines3"):
        read_archive(tmp_path / "ppo.zip")


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path, fraction):
    path = write_archive(tmp_path / "a.zip", meta={"x": 1}, arrays={"w": np.arange(100.0)})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(CheckpointError):
        read_archive(path)


def test_no_flipped_byte_goes_unnoticed_or_raises_anything_else(tmp_path):
    path = write_archive(tmp_path / "a.zip", meta={"x": 1}, arrays={"w": np.arange(20.0)})
    content = path.read_bytes()
    expected = read_archive(path)
    wrong = 0
    for position in range(0, len(content), 3):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :])
        try:
            meta, arrays = read_archive(path)
        except CheckpointError:
            continue
        # Dates, permissions and the like may change without harm.
        wrong += meta != expected[0] or not np.array_equal(arrays["w"], expected[1]["w"])
    assert wrong == 0


def test_names_that_leave_the_folder_write_nothing(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"../escaped.txt": "x", "meta.json": good_meta(), "arrays.safetensors": b""})
    with pytest.raises(CheckpointError, match="no metagym checkpoint"):
        read_archive(path)
    assert not (tmp_path.parent / "escaped.txt").exists()


def test_a_pickle_beside_or_instead_of_the_members_is_never_opened(tmp_path):
    bomb = pickle.dumps(Bomb())
    for members in (
        {"meta.json": good_meta(), "arrays.safetensors": bomb},
        {"meta.json": bomb, "arrays.safetensors": b""},
        {"meta.json": good_meta(), "arrays.safetensors": b"", "data.pkl": bomb},
    ):
        with pytest.raises(CheckpointError):
            read_archive(write_zip(tmp_path / "a.zip", members))


def test_packed_members_are_refused_however_small_the_file(tmp_path):
    members = {"meta.json": b" " * 10_000_000 + good_meta().encode(), "arrays.safetensors": b""}
    path = write_zip(tmp_path / "a.zip", members, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="packed or oversized"):
        read_archive(path)


def test_a_declared_size_beyond_the_file_is_refused(tmp_path):
    path = write_archive(tmp_path / "a.zip", meta={}, arrays={})
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 20 : entry + 28] = struct.pack("<II", 2**31, 2**31)
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        read_archive(path)


@pytest.mark.parametrize(
    "header",
    [
        {"w": {"dtype": "F32", "shape": [10**15], "data_offsets": [0, 4]}},
        {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**60]}},
        {"w": {"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 4]}},
        {"w": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}},
        {"w": []},
    ],
    ids=json.dumps,
)
def test_array_headers_that_lie_are_refused(tmp_path, header):
    text = json.dumps(header).encode()
    blob = struct.pack("<Q", len(text)) + text + bytes(4)
    path = write_zip(tmp_path / "a.zip", {"meta.json": good_meta(), "arrays.safetensors": blob})
    with pytest.raises(CheckpointError, match="safetensors"):
        read_archive(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 200_000, "cannot be read"),
        ('{"a":' * 200_000, "cannot be read"),
        ("9" * 5000, "cannot be read"),
        ("[]", "does not say format"),
        ('{"format": "zip"}', "does not say format"),
        ('{"format": "metagym-checkpoint", "version": 1, "meta": 3}', "does not say format"),
        ('{"format": "metagym-checkpoint", "version": 2, "meta": {}}', "format version 2"),
    ],
)
def test_json_that_is_no_metadata_is_refused(tmp_path, text, message):
    path = write_zip(tmp_path / "a.zip", {"meta.json": text, "arrays.safetensors": b""})
    with pytest.raises(CheckpointError, match=message):
        read_archive(path)
