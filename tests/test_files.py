from pathlib import Path

import pytest

from metagym.files import replacing, with_suffix


def write_half(path):
    with replacing(path) as partial:
        partial.write_text("ne")
        raise RuntimeError("half")


def test_a_finished_file_takes_the_place_of_the_old_one(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half"):
        write_half(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("given", "expected"), [("a", "a.npz"), ("a.npz", "a.npz"), ("a.b", "a.b.npz")])
def test_a_suffix_is_appended_where_it_is_missing(given, expected):
    assert with_suffix(given, ".npz") == Path(expected)
