import pickle
import subprocess
import sys

import numpy as np
import pytest
from gymnasium.error import DependencyNotInstalled
from hypothesis import given
from hypothesis import strategies as st

from metagym.compiled import RowWise

finite = st.floats(-1e100, 1e100)


def _mixture(xp):
    def mixture(first, second, whole):
        low, high = xp.minimum(first, second), xp.maximum(first, second)
        chosen = xp.where(abs(first) > 1.0, low * 3.0, high / 7.0)
        return chosen + whole, (first > second) | (whole == 1), low - high * 0.1

    return mixture


@pytest.fixture(params=[False, True], ids=["numpy", "compiled"])
def mixture(request):
    if request.param:
        pytest.importorskip("numba")
    return RowWise(_mixture, "d?d", compiled=request.param)


def _by_hand(first, second, whole):
    low, high = min(first, second), max(first, second)
    chosen = low * 3.0 if abs(first) > 1.0 else high / 7.0
    return chosen + whole, first > second or whole == 1, low - high * 0.1


def _bits(columns):
    return [(column.dtype, column.tobytes()) for column in columns]


def test_every_way_gives_the_same_bits_as_plain_python(mixture):
    rng = np.random.default_rng(0)
    columns = (rng.normal(size=64), rng.normal(size=64), rng.integers(0, 3, 64))
    rows = [_by_hand(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]
    expected = [np.array(column, dtype) for column, dtype in zip(zip(*rows, strict=True), "d?d", strict=True)]
    for size in (1, 2, 7, 64):
        for first in range(0, 65 - size, size):
            part = slice(first, first + size)
            assert _bits(mixture(*(column[part] for column in columns))) == _bits(column[part] for column in expected)


@given(finite, finite, st.integers(-5, 5))
def test_one_row_is_like_a_row_among_others(first, second, whole):
    function = RowWise(_mixture, "d?d")
    columns = (np.array([first, 1.0]), np.array([second, 2.0]), np.array([whole, 3]))
    one = function(*(column[:1] for column in columns))
    many = function(*columns)
    assert [column[0] for column in one] == [column[0] for column in many]


def test_results_are_fresh(mixture):
    for size in (0, 1, 5):
        columns = (np.ones(size), np.zeros(size), np.ones(size, int))
        first, second = mixture(*columns), mixture(*columns)
        arrays = [*first, *second, *columns]
        assert [len(array) for array in arrays] == [size] * len(arrays)
        assert not any(np.shares_memory(a, b) for index, a in enumerate(arrays) for b in arrays[:index])


def test_functions_survive_pickling(mixture):
    copy = pickle.loads(pickle.dumps(mixture))
    columns = (np.array([0.5, 2.0]), np.array([1.0, 1.0]), np.array([1, 2]))
    assert _bits(copy(*columns)) == _bits(mixture(*columns))


def test_what_is_compiled_once_is_used_again():
    pytest.importorskip("numba")
    first, second = (RowWise(_mixture, "d?d", compiled=True) for _ in range(2))
    assert first._many is second._many


def test_without_numba_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)

    def _fresh(xp):
        return _mixture(xp)

    assert len(RowWise(_fresh, "d?d")(np.ones(2), np.ones(2), np.ones(2))) == 3
    with pytest.raises(DependencyNotInstalled, match=r'pip install "metagym-rl\[compiled\]"'):
        RowWise(_fresh, "d?d", compiled=True)


def test_numba_is_loaded_only_when_it_is_asked_for():
    code = (
        "import sys, gymnasium as gym, metagym; env = gym.make('MetaCartPole-v0'); env.reset(seed=0); env.step(0); "
        "sys.exit('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
