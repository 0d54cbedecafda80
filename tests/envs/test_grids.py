import numpy as np
import pytest

from metagym.envs import grids
from metagym.errors import TaskError
from metagym.render import PALETTE


def test_walls_hold_back_and_moves_go_where_they_say():
    neighbours = grids.neighbours(3, grids.MOVES)
    assert neighbours[4].tolist() == [4, 1, 5, 7, 3]  # from the centre: stay, up, right, down, left
    assert neighbours[0].tolist() == [0, 0, 1, 3, 0]
    assert neighbours[8].tolist() == [8, 5, 8, 8, 7]


def test_neighbours_are_those_of_clipped_coordinates():
    for cell, (row, column) in enumerate(grids.coordinates(4).tolist()):
        for action, (down, right) in enumerate(grids.MOVES):
            after = min(max(row + down, 0), 3) * 4 + min(max(column + right, 0), 3)
            assert grids.neighbours(4, grids.MOVES)[cell, action] == after


def test_orders_are_all_permutations_and_the_first_changes_nothing():
    assert grids.ORDERS[0].tolist() == [0, 1, 2, 3, 4]
    assert len({tuple(order) for order in grids.ORDERS.tolist()}) == len(grids.ORDERS) == 120
    for order in grids.ORDERS:
        grids.check_order(order.tolist())


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [0, 1, 2, 3, 3], [1, 2, 3, 4, 5]])
def test_an_order_that_lacks_a_move_is_refused(order):
    with pytest.raises(TaskError, match="permutation"):
        grids.check_order(order)


def test_coordinates_name_a_cell_and_nothing_else_is_changed():
    assert grids.cell_at("goal", (1, 2), 5) == 7
    assert grids.cell_at("goal", (1.0, 2.0), 5) == 7
    assert grids.cell_at("goal", np.array([4, 4]), 5) == 24
    ragged = [[1], [2, 3]]
    for other in (7, 7.5, (1, 2, 3), ("a", "b"), "ab", ragged):
        assert grids.cell_at("goal", other, 5) is other


@pytest.mark.parametrize("place", [(1, 5), (5, 1), (-1, 0), (0, -1), (0.5, 1.0), (float("nan"), 0.0)])
def test_coordinates_outside_the_grid_are_refused_with_the_accepted_ones(place):
    with pytest.raises(TaskError, match=r"key=.* lies outside the grid; accepted are two coordinates from 0 to 4"):
        grids.cell_at("key", place, 5)


def test_a_text_has_the_agent_in_brackets_and_rows_downwards():
    assert grids.text({5: "G"}, 3, 0) == "[.] .  .\n .  .  G\n .  .  .\n"


def test_upwards_the_first_coordinate_points_right_and_the_second_up():
    # Cell 1 is (0, 1): above the start (0, 0), which is at the bottom left.
    assert grids.text({1: "A", 3: "B"}, 3, 0, upwards=True) == " .  .  .\n A  .  .\n[.] B  .\n"


@pytest.mark.parametrize("size", [2, 9, 32])
def test_a_picture_shows_marks_and_the_agent_where_they_are(size):
    side = max(16, min(64, 432 // size))
    image = grids.picture({0: "goal"}, size, 1)
    assert image.shape == (side * size, side * size, 3)
    assert image.dtype == np.uint8
    assert image[side // 2, side // 2].tolist() == list(PALETTE["goal"])
    assert image[side // 2, side + side // 2].tolist() == list(PALETTE["agent"])
    flipped = grids.picture({0: "goal"}, size, 1, upwards=True)
    assert flipped[-side // 2, side // 2].tolist() == list(PALETTE["goal"])
    assert flipped[-side - side // 2, side // 2].tolist() == list(PALETTE["agent"])
