from itertools import product

import numpy as np
import pytest

from metagym.envs import cliff_maps
from metagym.errors import TaskError

NOMINAL = ["F" * 12] * 3 + ["S" + "C" * 10 + "G"]


def _has_a_way(codes):
    """Breadth-first, cell by cell."""
    height, width = codes.shape
    frontier, seen = [(height - 1, 0)], {(height - 1, 0)}
    while frontier:
        row, column = frontier.pop()
        if codes[row, column] == cliff_maps.GOAL:
            return True
        for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            inside = 0 <= near[0] < height and 0 <= near[1] < width
            if inside and near not in seen and codes[near] != cliff_maps.CLIFF:
                seen.add(near)
                frontier.append(near)
    return False


def _maps(height, width, share=0.35, random_goal=True, n=300):
    goals = cliff_maps.goal_cells(height, width, random_goal=random_goal, on_top=False)
    return cliff_maps.propose(np.random.default_rng(0).random((n, height * width)), height, width, share, goals)


@pytest.mark.parametrize("size", [(2, 4), (2, 9), (9, 2), (4, 12), (16, 16), (16, 5)])
def test_maps_with_a_way_are_those_that_a_walk_finds_one_in(size):
    maps = _maps(*size)
    expected = [_has_a_way(codes) for codes in maps]
    assert cliff_maps.solvable(maps).tolist() == expected
    assert any(expected)
    assert not all(expected)


def test_a_map_survives_spelling():
    codes = cliff_maps.read(NOMINAL)
    assert codes.dtype == np.uint8
    assert codes.shape == (4, 12)
    assert cliff_maps.text(codes).replace(" ", "").split("\n") == NOMINAL
    assert cliff_maps.text(codes, 36).endswith("[S] C  C  C  C  C  C  C  C  C  C  G")
    assert cliff_maps.read(codes.tolist()) == codes.tolist()
    for spelling in ([row.encode() for row in NOMINAL], [list(row) for row in NOMINAL], np.asarray(NOMINAL, dtype="c")):
        assert cliff_maps.read(spelling).tolist() == codes.tolist()
    with pytest.raises(TaskError, match="map="):
        cliff_maps.read([[0, 1], [2]])


@pytest.mark.parametrize("rows", [["FF", "S"], ["FF", "SH"]])
def test_rows_that_are_no_map_are_refused(rows):
    with pytest.raises(TaskError, match="letters S, F, C, G"):
        cliff_maps.read(rows)


def test_proposed_maps_have_start_goal_and_the_share_of_cliffs():
    maps = _maps(4, 12, share=0.25, n=4000)
    assert (maps[:, -1, 0] == cliff_maps.START).all()
    assert ((maps == cliff_maps.START).sum(axis=(1, 2)) == 1).all()
    assert ((maps == cliff_maps.GOAL).sum(axis=(1, 2)) == 1).all()
    assert (maps == cliff_maps.CLIFF).sum() / (4000 * 46) == pytest.approx(0.25, abs=0.005)


def test_goals_are_where_they_may_be():
    assert cliff_maps.goal_cells(2, 3, random_goal=False, on_top=False).tolist() == [5]
    assert cliff_maps.goal_cells(2, 3, random_goal=True, on_top=False).tolist() == [4, 5]
    assert cliff_maps.goal_cells(3, 3, random_goal=True, on_top=False).tolist() == [3, 4, 5, 7, 8]
    assert cliff_maps.goal_cells(3, 3, random_goal=True, on_top=True).tolist() == [0, 1, 2]


@pytest.mark.parametrize("random_goal", [False, True])
def test_enumerated_maps_are_all_and_their_weights_those_of_the_proposals(random_goal):
    maps, weights = cliff_maps.enumerate_maps(2, 3, 0.3, random_goal)
    goals = cliff_maps.goal_cells(2, 3, random_goal=random_goal, on_top=False)
    expected = {}
    for goal, *free in product(goals.tolist(), *[(False, True)] * 4):
        codes = np.full(6, cliff_maps.FLOOR)
        codes[3], codes[goal] = cliff_maps.START, cliff_maps.GOAL
        codes[[cell for cell in range(6) if cell not in {3, goal}]] += np.array(free, np.uint8)
        if _has_a_way(codes.reshape(2, 3)):
            expected[codes.tobytes()] = 0.3 ** sum(free) * 0.7 ** (4 - sum(free))
    total = sum(expected.values())
    actual = {codes.tobytes(): weight for codes, weight in zip(maps, weights.tolist(), strict=True)}
    assert actual == pytest.approx({codes: weight / total for codes, weight in expected.items()})


def test_many_maps_are_not_enumerated():
    assert cliff_maps.enumerate_maps(4, 12, 0.25, False) is None
    assert cliff_maps.enumerate_maps(3, 6, 0.25, False) is not None


def test_a_picture_of_every_shape():
    for height, width in ((2, 2), (4, 12), (16, 16)):
        image = cliff_maps.picture(_maps(height, width, n=1)[0], 0)
        side = image.shape[0] // height
        assert image.shape == (height * side, width * side, 3)
        assert image[side // 2, side // 2].tolist() == [236, 112, 20]
