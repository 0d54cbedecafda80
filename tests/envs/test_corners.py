import numpy as np
import pytest

from metagym.envs.corners import (
    CORNERS,
    FAR,
    SIDE,
    check_radius,
    draw_goals,
    draw_scene,
    length,
    pixel,
    unit_vectors,
)
from metagym.errors import TaskError
from metagym.render import canvas

ONE = np.nextafter(1.0, 0.0)


def test_quarters_of_the_unit_interval_are_the_four_corners():
    goals = draw_goals(np.array([0.0, 0.25, 0.5, ONE]), "train")
    assert goals.tolist() == [[-2.0, -2.0], [2.0, -2.0], [-2.0, 2.0], [2.0, 2.0]]
    assert length(goals).tolist() == [FAR] * 4


def test_ood_goals_lie_on_the_same_circle_more_than_ten_degrees_from_every_corner():
    noise = np.concatenate([np.linspace(0.0, ONE, 4001), [0.25, 0.5, 0.75]])
    goals = draw_goals(noise, "ood")
    assert length(goals) == pytest.approx(np.full(len(noise), FAR))
    cosines = (goals[:, None] * CORNERS[None]).sum(axis=2) / FAR**2
    assert cosines.max() <= np.cos(np.deg2rad(10.0)) + 1e-12
    sectors = np.floor(np.rad2deg(np.arctan2(goals[:, 1], goals[:, 0])) / 90.0 - 0.5)
    assert len(np.unique(sectors % 4)) == 4


def test_a_place_off_its_circle_is_refused_by_name():
    check_radius("gap_1", np.array([0.6, 0.8]), 1.0)
    check_radius("gap_1", np.array([1.0 - 1e-7, 0.0]), 1.0)
    with pytest.raises(TaskError, match=r"gap_1=\[1.001, 0.0\]"):
        check_radius("gap_1", np.array([1.001, 0.0]), 1.0)
    with pytest.raises(TaskError, match=r"gap_1=\[0.6, 0.7\] is 0.92\d* from the origin; accepted is 1"):
        check_radius("gap_1", np.array([0.6, 0.7]), 1.0)


def test_lengths_and_unit_vectors_by_hand():
    assert length(np.array([[3.0, -4.0], [0.0, 0.0]])).tolist() == [5.0, 0.0]
    assert unit_vectors(np.array([0.0, np.pi / 2])) == pytest.approx(np.array([[1.0, 0.0], [0.0, 1.0]]))


def test_the_middle_of_a_picture_is_the_origin_and_up_is_north():
    assert pixel(np.zeros(2)) == (200.0, 200.0)
    assert pixel(np.array([3.4, 3.4])) == pytest.approx((400.0, 0.0))


def test_a_point_that_has_left_the_picture_is_drawn_at_its_border():
    near, far = canvas(SIDE, SIDE), canvas(SIDE, SIDE)
    draw_scene(near, np.zeros(2), CORNERS[0])
    draw_scene(far, np.array([50.0, -50.0]), CORNERS[0])

    assert (far[-9:, -9:] == near[SIDE // 2, SIDE // 2]).all(axis=2).any()
