import numpy as np
import pytest
from scipy import stats

from metagym.distributions import TaskDistribution
from metagym.envs.mujoco.half_cheetah import (
    CheetahDirectionParams,
    CheetahVelocityParams,
    HalfCheetahDir,
    HalfCheetahVel,
)
from metagym.errors import ConfigError, TaskError
from tests.envs.mujoco.bodies import MADE, actions_of, begin, move, play, sample, step

ONE = np.nextafter(1.0, 0.0)


def _judge(family, advance, params, action=0.0):
    """Reward of a step in which x went on by `advance` metres."""
    state = begin(family, params)
    before, after = move(family, state, x0=1.0), move(family, state, x0=1.0 + advance)
    return family.judge(before, after, np.full((len(params), 6), action), params)


@pytest.mark.parametrize(("direction", "advance", "reward"), [(1, 0.1, 2.0), (-1, 0.1, -2.0), (-1, -0.05, 1.0)])
def test_running_in_the_direction_of_the_task_is_paid_by_the_metre_per_second(direction, advance, reward):
    family, params = MADE[HalfCheetahDir], CheetahDirectionParams(np.array([float(direction)]))
    found, terminated = _judge(family, advance, params)
    assert found == pytest.approx([reward])
    assert terminated.tolist() == [False]
    paid, _ = _judge(family, advance, params, action=0.5)
    assert paid == pytest.approx([reward - 0.1 * 6 * 0.25])


@pytest.mark.parametrize(("velocity", "advance", "reward"), [(2.0, 0.1, 0.0), (3.0, 0.1, -1.0), (0.5, -0.1, -2.5)])
def test_missing_the_velocity_of_the_task_costs_the_difference(velocity, advance, reward):
    family, params = MADE[HalfCheetahVel], CheetahVelocityParams(np.array([velocity]))
    found, terminated = _judge(family, advance, params)
    assert found == pytest.approx([reward])
    assert terminated.tolist() == [False]
    literature = HalfCheetahVel(control_cost=0.05)
    assert _judge(literature, advance, params, action=1.0)[0] == pytest.approx([reward - 0.05 * 6])


def test_two_directions_share_one_body():
    family = MADE[HalfCheetahDir]
    params = CheetahDirectionParams(np.array([1.0, -1.0]))
    state = begin(family, params)
    state = type(state)(*(column[[0, 0]] for column in state))
    action = actions_of(family, (1,))[[0, 0]]
    result = step(family, state, action, params)
    assert result.state.physics[0].tolist() == result.state.physics[1].tolist()
    cost = 0.1 * np.square(action).sum(axis=1)
    assert result.reward[0] + cost[0] == pytest.approx(-(result.reward[1] + cost[1]))


# --- tasks ---------------------------------------------------------------------------------------------------------


def test_both_directions_are_for_training_and_as_likely():
    direction = sample(MADE[HalfCheetahDir], 2000, "train").direction
    assert set(direction.tolist()) == {-1.0, 1.0}
    assert abs(direction.mean()) < 4.0 / 2000**0.5


def test_directions_leave_no_test_part_and_no_ood_region():
    with pytest.raises(ConfigError, match="HalfCheetahDir has no test part here: forwards and backwards are all"):
        sample(MADE[HalfCheetahDir], 3, "test")
    with pytest.raises(ConfigError, match="HalfCheetahDir has no ood region"):
        sample(MADE[HalfCheetahDir], 3, "ood")


@pytest.mark.parametrize("highest", [2.0, 3.0])
def test_velocities_are_uniform_and_ood_is_beyond(highest):
    family = HalfCheetahVel(max_velocity=highest)
    for part, low, high in (("train", 0.0, highest), ("test", 0.0, highest), ("ood", highest, 1.5 * highest)):
        velocity = sample(family, 3000, part).velocity
        assert np.all((velocity >= low) & (velocity <= high))
        assert stats.kstest(velocity, stats.uniform(low, high - low).cdf).pvalue > 1e-3
    for noise in (0.0, 0.5, ONE):
        beyond = family.draw_structure(np.array([[noise]]), "ood")["velocity"]
        assert beyond[0] > highest
        assert np.asarray(beyond[0]) in family.task_space["velocity"]


def test_train_and_test_share_no_velocity():
    train, test = (set(sample(MADE[HalfCheetahVel], 1000, part).velocity.tolist()) for part in ("train", "test"))
    assert len(train) == len(test) == 1000
    assert not train & test


@pytest.mark.parametrize(
    ("kind", "task", "message"),
    [
        (HalfCheetahDir, {"direction": 0.5}, "accepted are -1 and 1"),
        (HalfCheetahDir, {"direction": 2.0}, "direction="),
        (HalfCheetahVel, {"velocity": -0.1}, "velocity="),
        (HalfCheetahVel, {"speed": 1.0}, "missing"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(kind, task, message):
    with pytest.raises(TaskError, match=message):
        TaskDistribution(MADE[kind]).coerce(task)


@pytest.mark.parametrize("value", [0.0, 11.0, "3"])
def test_a_velocity_out_of_range_is_refused_by_name(value):
    with pytest.raises(ConfigError, match="max_velocity="):
        HalfCheetahVel(max_velocity=value)


def test_the_text_names_the_task():
    family = MADE[HalfCheetahDir]
    for value, word in ((1.0, "forwards"), (-1.0, "backwards")):
        params = CheetahDirectionParams(np.array([value]))
        assert family.describe(begin(family, params), params).startswith(f"direction {word}, at (")
    params = CheetahVelocityParams(np.array([1.25]))
    assert MADE[HalfCheetahVel].describe(begin(family, params), params).startswith("velocity 1.250 m/s, at (")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "documented"), [(HalfCheetahDir, -41), (HalfCheetahVel, -383)])
def test_random_actions_earn_about_the_documented_return(kind, documented):
    family = MADE[kind]
    returns = play(family, sample(family, 200, "train"), 200)
    assert returns.mean() == pytest.approx(documented, abs=6.0 * returns.std() / 200**0.5)
