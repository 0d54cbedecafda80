import numpy as np
import pytest
from scipy import ndimage, stats

from metagym.envs import lake_maps
from metagym.errors import TaskError


def _connected(codes):
    labels, _ = ndimage.label(codes != lake_maps.HOLE)
    return labels[0, 0] == labels[codes == lake_maps.GOAL][0]


@pytest.mark.parametrize("size", [2, 3, 4, 7, 8, 9, 11, 16])
@pytest.mark.parametrize("random_goal", [False, True])
def test_a_map_is_solvable_when_start_and_goal_lie_in_one_component(size, random_goal):
    noise = np.random.default_rng(size).random((300, size * size - (0 if random_goal else 2)))
    maps = lake_maps.propose(noise, size, 0.62, random_goal=random_goal)
    expected = [_connected(codes) for codes in maps]
    assert lake_maps.solvable(maps).tolist() == expected
    assert 0 < sum(expected) < 300


@pytest.mark.parametrize("size", [8, 13, 16])
def test_the_longest_winding_path_is_found_and_one_hole_closes_it(size):
    codes = np.full((size, size), lake_maps.FROZEN)
    codes[1::4, :-1] = lake_maps.HOLE
    codes[3::4, 1:] = lake_maps.HOLE
    codes[0, 0] = lake_maps.START
    codes[-1, :] = lake_maps.HOLE
    # The last row left open is an even one; its far end is the goal.
    last = size - 2 - size % 2
    end = -1 if last % 4 == 0 else 0
    codes[last, end] = lake_maps.GOAL
    closed = codes.copy()
    closed[2, size // 2] = lake_maps.HOLE
    assert lake_maps.solvable(np.stack([codes, closed])).tolist() == [True, False]


def test_a_row_does_not_run_on_into_the_next():
    # The end of the first row and the start of the second are neighbours in the word of bits, not on the ice.
    maps = np.stack([lake_maps.read(["SFF", "HHH", "FFG"]), lake_maps.read(["SFF", "HHF", "FFG"])])
    assert lake_maps.solvable(maps).tolist() == [False, True]


def test_the_three_lakes_of_size_two_have_their_exact_probabilities():
    maps, weights = lake_maps.enumerate_maps(2, 0.8, False)
    found = dict(zip(["".join(lake_maps.text(codes).split()) for codes in maps], weights, strict=True))
    assert found.keys() == {"SFFG", "SHFG", "SFHG"}
    # 0.64, 0.16 and 0.16 before conditioning on a path, which 0.96 of the proposals have.
    assert found["SFFG"] == pytest.approx(0.64 / 0.96)
    assert found["SHFG"] == found["SFHG"] == pytest.approx(0.16 / 0.96)


def test_larger_families_are_not_enumerated():
    assert lake_maps.enumerate_maps(5, 0.8, False) is None
    assert lake_maps.enumerate_maps(4, 0.8, True) is None


def test_impossible_maps_are_not_listed():
    maps, weights = lake_maps.enumerate_maps(3, 1.0, False)
    assert lake_maps.text(maps[0]).split() == list("SFFFFFFFG")
    assert weights.tolist() == [1.0]


@pytest.mark.parametrize(("size", "random_goal"), [(3, False), (2, True), (3, True)])
def test_proposals_that_are_solvable_follow_the_enumerated_probabilities(size, random_goal):
    maps, weights = lake_maps.enumerate_maps(size, 0.5, random_goal)
    noise = np.random.default_rng(5).random((60_000, size * size - (0 if random_goal else 2)))
    drawn = lake_maps.propose(noise, size, 0.5, random_goal=random_goal)
    drawn = drawn[lake_maps.solvable(drawn)].reshape(-1, size * size)
    listed = {codes.tobytes(): row for row, codes in enumerate(maps)}
    counts = np.bincount([listed[codes.tobytes()] for codes in drawn], minlength=len(maps))
    assert stats.chisquare(counts, weights * len(drawn)).pvalue > 1e-3


def test_the_goal_can_be_every_cell_but_the_start_and_nothing_rounds_past_the_last():
    noise = np.full((2, 16), 0.5)
    noise[:, 0] = [0.0, np.nextafter(1.0, 0.0)]
    maps = lake_maps.propose(noise, 4, 0.8, random_goal=True).reshape(2, -1)
    assert maps.argmax(axis=1).tolist() == [1, 15]


def test_every_spelling_of_a_map_is_read_alike():
    rows = ["SFF", "FHF", "FFG"]
    codes = [[0, 1, 1], [1, 2, 1], [1, 1, 3]]
    for spelling in (rows, [row.encode() for row in rows], [list(row) for row in rows], np.asarray(rows, dtype="c")):
        assert lake_maps.read(spelling).tolist() == codes
    assert lake_maps.read(codes) is codes


@pytest.mark.parametrize("value", [["SF", "FFG"], ["SX", "FG"], "SF\nFG", [["S", "F"], ["G"]]])
def test_text_that_is_no_map_is_refused(value):
    with pytest.raises(TaskError, match="map="):
        lake_maps.read(value)


def test_the_agent_is_in_brackets():
    assert lake_maps.text(lake_maps.read(["SF", "HG"]), 1) == " S [F]\n H  G"


def test_the_picture_shows_the_agent_where_it_is():
    codes = lake_maps.read(["SF", "HG"])
    images = [lake_maps.picture(codes, agent) for agent in range(4)]
    assert images[0].shape == (144, 144, 3)
    assert images[0].dtype == np.uint8
    assert [image[108, 36].tolist() == [236, 112, 20] for image in images] == [False, False, True, False]
