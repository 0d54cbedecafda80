import numpy as np
import pytest

from metagym.envs.mujoco.ant import AntDir
from metagym.envs.mujoco.half_cheetah import HalfCheetahDir
from metagym.envs.mujoco.sketch import View, sketch
from tests.envs.mujoco.bodies import MADE

SIDE = View(azimuth=90.0, elevation=0.0, scale=100.0, height=1.0)
ABOVE = View(azimuth=90.0, elevation=90.0, scale=50.0, height=0.0)


@pytest.mark.parametrize(
    ("view", "point", "pixel"),
    [
        (SIDE, [0.0, 0.0, 1.0], [200.0, 200.0]),
        (SIDE, [1.0, 7.0, 1.5], [300.0, 150.0]),
        (ABOVE, [1.0, 2.0, 0.0], [250.0, 100.0]),
        (SIDE.following([3.0, 0.0, 5.0]), [3.0, 0.0, 1.0], [200.0, 200.0]),
    ],
)
def test_points_lie_where_the_projection_puts_them(view, point, pixel):
    assert view.place([point])[0, :2] == pytest.approx(pixel)


def test_what_is_nearer_to_the_observer_has_the_larger_depth():
    assert SIDE.place([[0.0, -1.0, 0.0]])[0, 2] > SIDE.place([[0.0, 1.0, 0.0]])[0, 2]
    assert ABOVE.place([[0.0, 0.0, 1.0]])[0, 2] > ABOVE.place([[0.0, 0.0, 0.0]])[0, 2]


@pytest.mark.parametrize("view", [SIDE, ABOVE, View(60.0, 40.0, 75.0, 0.4)])
def test_the_axes_are_orthonormal_and_right_handed(view):
    right, up, near = view.axes()
    assert view.axes() @ view.axes().T == pytest.approx(np.eye(3), abs=1e-12)
    assert np.cross(right, up) == pytest.approx(near)
    assert up[2] >= -1e-12


def test_a_view_that_does_not_follow_stays():
    view = View(60.0, 40.0, 75.0, 0.4, follows=False)
    assert view.following([3.0, 2.0, 1.0]) == view


@pytest.mark.parametrize(("kind", "view"), [(HalfCheetahDir, SIDE), (AntDir, View(60.0, 40.0, 75.0, 0.4))])
def test_bodies_are_drawn_over_what_lies_on_the_ground(kind, view):
    simulator = MADE[kind].simulator
    mark = [1, 2, 3]
    simulator._mujoco.mj_resetData(simulator.model, simulator.data)
    simulator._mujoco.mj_forward(simulator.model, simulator.data)

    def paint(image):
        image[...] = mark

    image = sketch(simulator.model, simulator.data, view, paint)
    assert image.shape == (400, 400, 3)
    painted = (image == mark).all(axis=2)
    assert 0.3 < painted.mean() < 0.99
    assert (image == [236, 112, 20]).all(axis=2).sum() > 100
