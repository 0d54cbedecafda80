import numpy as np
import pytest

from metagym.envs import taxi_tables

SOUTH, NORTH, EAST, WEST, STAY, ILLEGAL, PICKUP, DELIVER, DROP = 0, 4, 8, 9, 10, 11, 12, 13, 14


def _state(row, column, passenger, destination):
    return ((row * 5 + column) * 5 + passenger) * 4 + destination


HERE = _state(2, 2, 1, 3)


@pytest.mark.parametrize(
    ("effect", "expected"),
    [
        (SOUTH + 3, [_state(3, 2, 1, 3), HERE, HERE]),  # walls on both sides
        (SOUTH + 1, [_state(3, 2, 1, 3), HERE, _state(2, 1, 1, 3)]),  # wall to the east, on its left
        (NORTH + 1, [_state(1, 2, 1, 3), _state(2, 1, 1, 3), HERE]),
        (EAST, [_state(2, 3, 1, 3), _state(1, 2, 1, 3), _state(3, 2, 1, 3)]),
        (WEST, [_state(2, 1, 1, 3), _state(3, 2, 1, 3), _state(1, 2, 1, 3)]),
        (STAY, [HERE] * 3),
        (ILLEGAL, [500 + HERE] * 3),
        (PICKUP, [_state(2, 2, 4, 3)] * 3),
        (DELIVER, [1000 + 12 * 4 + 3] * 3),
        (DROP + 2, [_state(2, 2, 2, 3)] * 3),
    ],
)
def test_effects_lead_where_they_should(effect, expected):
    rainy, dry = taxi_tables.build(True, False), taxi_tables.build(False, False)
    assert rainy.successors[HERE, effect].tolist() == expected
    assert dry.successors[HERE, effect].tolist() == expected[:1]


def test_the_border_holds_back_whichever_way():
    rainy = taxi_tables.build(True, False)
    corner = _state(4, 4, 0, 1)
    assert rainy.successors[corner, [SOUTH, EAST]].tolist() == [[corner] * 3] * 2
    # North from the corner: left is west, right is off the grid.
    assert rainy.successors[corner, NORTH].tolist() == [_state(3, 4, 0, 1), _state(4, 3, 0, 1), corner]


def test_states_that_are_left_at_once_lead_back_to_the_grid_and_look_like_it():
    tables = taxi_tables.build(False, False)
    assert tables.leads[1, 500 + HERE] == HERE
    assert tables.observations[500 + HERE] == HERE
    delivered = 1000 + 12 * 4 + 3
    assert tables.leads[2, delivered] == tables.observations[delivered] == _state(2, 2, 3, 3)
    assert tables.kinds[[HERE, 500 + HERE, delivered]].tolist() == [0, 1, 2]
    assert tables.cell[[HERE, 500 + HERE, delivered]].tolist() == [12] * 3
    assert tables.errand[[HERE, delivered]].tolist() == [7, 15]


def test_a_fickle_passenger_changes_destination_once_and_only_when_the_taxi_moves():
    tables = taxi_tables.build(False, True)
    aboard = 500 + _state(2, 2, 4, 3)
    assert tables.successors[aboard, EAST].tolist() == [_state(2, 3, 4, other) for other in (0, 1, 2)]
    assert tables.successors[aboard, STAY].tolist() == [aboard] * 3
    assert tables.successors[aboard - 500, EAST].tolist() == [_state(2, 3, 4, 3)] * 3
    waiting = 500 + HERE
    assert tables.successors[waiting, EAST].tolist() == [500 + _state(2, 3, 1, 3)] * 3
    assert tables.successors[waiting, PICKUP].tolist() == [aboard] * 3
    assert len(tables.starts) == 3000
    assert np.count_nonzero(tables.starts >= 500) == 900


def test_tables_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        taxi_tables.build(False, False).successors[0] = 0
