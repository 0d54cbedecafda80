import numpy as np
import pytest
from gymnasium.envs.toy_text import taxi
from scipy import stats

from metagym.envs import taxi_layouts
from metagym.errors import TaskError


def _layouts(region="train", share=0.3, n=2000):
    return taxi_layouts.propose(np.random.default_rng(0).random((n, 24)), share, region)


def _reachable(walls):
    """How many cells the taxi can get to from the first one, cell by cell."""
    frontier, seen = [(0, 0)], {(0, 0)}
    while frontier:
        row, column = frontier.pop()
        nexts = [(row + 1, column), (row - 1, column)]
        nexts += [(row, column + 1)] if column < 4 and not walls[row, column] else []
        nexts += [(row, column - 1)] if column > 0 and not walls[row, column - 1] else []
        new = [cell for cell in nexts if 0 <= cell[0] < 5 and cell not in seen]
        seen.update(new)
        frontier += new
    return len(seen)


def test_the_nominal_map_is_gymnasiums():
    assert list(taxi_layouts.NOMINAL) == taxi.MAP
    layout = taxi_layouts.read(taxi.MAP)
    assert layout["stands"].tolist() == [0, 4, 20, 23]
    assert layout["walls"].tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0], [1, 0, 1, 0]]


def test_a_layout_survives_spelling():
    layouts = _layouts(n=20)
    for row in range(20):
        layout = {name: column[row] for name, column in layouts.items()}
        again = taxi_layouts.read(taxi_layouts.text(layout))
        assert {name: column.tolist() for name, column in again.items()} == {
            name: column.tolist() for name, column in layout.items()
        }


def test_letters_one_by_one_are_read_as_gymnasiums_desc_is():
    assert taxi_layouts.read(np.asarray(taxi.MAP, dtype="c"))["stands"].tolist() == [0, 4, 20, 23]


@pytest.mark.parametrize(
    ("row", "line"),
    [(1, "|R: | : :R|"), (1, "|R: | : : |"), (1, "|R: x : :G|"), (1, "|R: | : :G"), (1, ":R: | : :G|"), (0, "-" * 11)],
)
def test_text_that_is_no_map_is_refused(row, line):
    lines = list(taxi.MAP)
    lines[row] = line
    with pytest.raises(TaskError, match="desc must"):
        taxi_layouts.read(lines)


@pytest.mark.parametrize("desc", ["x", None, [], [["a"], ["b", "c"]], 7])
def test_what_is_no_rows_of_text_is_refused_by_name(desc):
    with pytest.raises(TaskError, match=r"desc.* must be 7 rows of 11 characters"):
        taxi_layouts.read(desc)


def test_connected_towns_are_those_that_a_walk_gets_through():
    walls = _layouts(share=0.6, n=500)["walls"]
    expected = [_reachable(town) == 25 for town in walls]
    assert taxi_layouts.connected(walls).tolist() == expected
    assert 50 < sum(expected) < 450


@pytest.mark.parametrize(("region", "cells"), [("train", 16), ("ood", 9)])
def test_stands_are_different_cells_of_their_region_and_uniform(region, cells):
    layouts = _layouts(region, n=8000)
    stands = layouts["stands"]
    assert (np.diff(np.sort(stands, axis=1), axis=1) > 0).all()
    for stand in range(4):
        found, counts = np.unique(stands[:, stand], return_counts=True)
        assert len(found) == cells
        assert stats.chisquare(counts).pvalue > 1e-3
    inner = {6, 7, 8, 11, 12, 13, 16, 17, 18}
    assert set(np.unique(stands)) == (inner if region == "ood" else set(range(25)) - inner)
    assert layouts["walls"].mean() == pytest.approx(0.3, abs=0.01)


def test_the_picture_shows_taxi_and_passenger():
    layout = taxi_layouts.read(taxi.MAP)
    waiting, aboard = (taxi_layouts.picture(layout, 12, passenger, 1) for passenger in (0, 4))
    assert waiting.shape == (400, 400, 3)
    assert waiting[200, 200].tolist() == [236, 112, 20]
    assert aboard[200, 200].tolist() == [35, 40, 52]
    assert waiting[18, 18].tolist() == [35, 40, 52]
