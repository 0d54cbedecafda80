import numpy as np
import pytest
from scipy import stats

from metagym.envs.mujoco.directions import DirectionParams, angle_space, check_angle, draw_angles, list_angles, progress
from metagym.errors import ConfigError, TaskError

ONE = np.nextafter(1.0, 0.0)


def _angles(directions, region="train", num_tasks=4000):
    noise = np.random.default_rng(0).random((num_tasks, 1))
    return draw_angles(directions, noise, region, "Ant")["angle"]


def test_progress_is_the_part_of_a_move_along_the_direction():
    params = DirectionParams(np.array([0.0, np.pi / 2.0, np.pi, np.pi / 4.0]))
    move = np.tile([3.0, 4.0], (4, 1))
    assert progress(move, params) == pytest.approx([3.0, 4.0, -3.0, 7.0 / 2**0.5])


def test_backwards_is_the_opposite_of_forwards():
    # A published ant took the directions 1 and -1 for radians.
    forwards, backwards = np.unique(_angles("forward_backward"))
    move = np.random.default_rng(1).normal(size=(50, 2))
    ahead = progress(move, DirectionParams(np.full(50, forwards)))
    assert progress(move, DirectionParams(np.full(50, backwards))) == pytest.approx(-ahead)
    assert ahead == pytest.approx(move[:, 0])


def test_angles_are_uniform_on_their_arc():
    for directions, region, low, high in (
        ("circle", "train", 0.0, 2.0 * np.pi),
        ("half_circle", "train", 0.0, np.pi),
        ("half_circle", "ood", np.pi, 2.0 * np.pi),
    ):
        angle = _angles(directions, region)
        assert stats.kstest(angle, stats.uniform(low, high - low).cdf).pvalue > 1e-3
        assert all(np.asarray(value) in angle_space()["angle"] for value in angle[:100])


def test_the_halves_of_the_circle_do_not_meet():
    noise = np.array([[0.0], [ONE]])
    upper = draw_angles("half_circle", noise, "train", "Ant")["angle"]
    lower = draw_angles("half_circle", noise, "ood", "Ant")["angle"]
    assert upper.max() < np.pi < lower.min()


@pytest.mark.parametrize("directions", ["circle", "forward_backward"])
def test_where_training_holds_all_directions_there_is_no_ood_region(directions):
    with pytest.raises(ConfigError, match=f"Ant with directions='{directions}' has no ood region"):
        _angles(directions, "ood")


def test_with_two_directions_no_third_is_a_task():
    check_angle("forward_backward", DirectionParams(np.array([np.pi])))
    check_angle("circle", DirectionParams(np.array([1.0])))
    with pytest.raises(TaskError, match=r"angle=1\.0"):
        check_angle("forward_backward", DirectionParams(np.array([1.0])))


def test_two_directions_are_listed_and_more_are_not():
    columns, weights = list_angles("forward_backward")
    assert columns["angle"].tolist() == [0.0, np.pi]
    assert weights.tolist() == [0.5, 0.5]
    assert list_angles("circle") is list_angles("half_circle") is None
