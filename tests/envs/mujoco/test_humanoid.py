import numpy as np
import pytest

from metagym.envs.mujoco.directions import DirectionParams
from metagym.envs.mujoco.humanoid import HumanoidDir
from metagym.errors import ConfigError
from tests.envs.mujoco.bodies import MADE, begin, move, play, sample


def _state(family, params, centre, height=1.4, force=0.0):
    state = move(family, begin(family, params), x2=height)
    readings = np.zeros_like(state.readings)
    readings[:, :2], readings[:, -1] = centre, force
    return state._replace(readings=readings)


def _judge(params, before, after, action=0.0):
    reward, terminated = MADE[HumanoidDir].judge(before, after, np.full((1, 17), action), params)
    return reward[0], bool(terminated[0])


@pytest.mark.parametrize(("angle", "metres"), [(0.0, 0.03), (np.pi, -0.03), (np.pi / 2.0, 0.015)])
def test_moving_the_centre_of_mass_in_the_direction_of_the_task_is_paid(angle, metres):
    family, params = MADE[HumanoidDir], DirectionParams(np.array([angle]))
    before, after = _state(family, params, [0.0, 0.0]), _state(family, params, [0.03, 0.015])
    # A step takes 0.015 s.
    reward = 1.25 * metres / 0.015 + 5.0
    assert _judge(params, before, after) == (pytest.approx(reward), False)
    assert _judge(params, before, after, action=0.4)[0] == pytest.approx(reward - 0.1 * 17 * 0.16)
    pushed = _state(family, params, [0.03, 0.015], force=1000.0)
    assert _judge(params, before, pushed)[0] == pytest.approx(reward - 0.5)
    crushed = _state(family, params, [0.03, 0.015], force=1e6)
    assert _judge(params, before, crushed)[0] == pytest.approx(reward - 10.0)


@pytest.mark.parametrize(("height", "ends"), [(1.0, True), (1.01, False), (1.99, False), (2.0, True)])
def test_a_humanoid_that_fell_ends_its_episode_without_the_bonus(height, ends):
    family, params = MADE[HumanoidDir], DirectionParams(np.zeros(1))
    before, after = _state(family, params, [0.0, 0.0]), _state(family, params, [0.0, 0.0], height=height)
    assert _judge(params, before, after) == (pytest.approx(0.0 if ends else 5.0), ends)


def test_the_centre_read_is_that_of_all_parts():
    family = MADE[HumanoidDir]
    params = sample(family, 1)
    state = begin(family, params, seed=3)
    model, data = family.simulator.model, family.simulator.data
    centre = (model.body_mass[:, None] * data.xipos).sum(axis=0) / model.body_mass.sum()
    assert state.readings[0, :2] == pytest.approx(centre[:2], abs=1e-12)


def test_observations_do_not_show_where_the_humanoid_is_nor_where_it_should_go():
    family = MADE[HumanoidDir]
    params = sample(family, 4)
    noise = np.tile(np.random.default_rng(0).random((1, family.num_initial_draws)), (4, 1))
    state = family.initial(params, noise)
    moved = move(family, state, x0=4.0, x1=-2.0)
    readings = moved.readings.copy()
    readings[:, :2] += [4.0, -2.0]
    observations = np.concatenate(
        [family.observe(state, params), family.observe(moved._replace(readings=readings), params)]
    )
    assert len(np.unique(observations, axis=0)) == 1


def test_directions_are_chosen_by_keyword():
    assert set(sample(HumanoidDir(directions="forward_backward"), 100, "train").angle.tolist()) == {0.0, np.pi}
    assert sample(HumanoidDir(directions="half_circle"), 100, "ood").angle.min() > np.pi
    with pytest.raises(ConfigError, match="HumanoidDir with directions='circle' has no ood region"):
        sample(MADE[HumanoidDir], 2, "ood")
    with pytest.raises(ConfigError, match="directions="):
        HumanoidDir(directions="down")


@pytest.mark.slow
def test_random_actions_earn_about_the_documented_return():
    family = MADE[HumanoidDir]
    returns = play(family, sample(family, 100, "train"), 200)
    assert returns.mean() == pytest.approx(109, abs=6.0 * returns.std() / 100**0.5)
