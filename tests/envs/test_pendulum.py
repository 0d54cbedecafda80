from math import pi

import gymnasium as gym
import numpy as np
import pytest
from scipy import stats

from metagym.distributions import TaskDistribution
from metagym.envs.pendulum import Pendulum, PendulumParams, PendulumState
from metagym.errors import ConfigError, TaskError

NONE = np.empty((1, 0))
SUPPORT = np.array([Pendulum.spans[name].support for name in PendulumParams.names()])
every_way = pytest.mark.parametrize("compiled", [False, True], ids=["numpy", "compiled"])


def _params(tasks):
    return PendulumParams(*np.array(tasks, np.float64).T.copy())


def _nominal(num_rows=1):
    return _params([[10.0, 1.0, 1.0, 0.05]] * num_rows)


def _state(rows):
    return PendulumState(*np.array(rows, np.float64).T.copy())


@every_way
@pytest.mark.parametrize("num_rows", [1, 3])
def test_whole_episodes_equal_gymnasiums_on_the_nominal_task(num_rows, compiled):
    if compiled:
        pytest.importorskip("numba")
    family, params, rng = Pendulum(compiled=compiled), _nominal(num_rows), np.random.default_rng(0)
    peers = [gym.make("Pendulum-v1", disable_env_checker=True) for _ in range(num_rows)]
    for seed, peer in enumerate(peers):
        peer.reset(seed=seed)
    state = _state([peer.unwrapped.state for peer in peers])
    for time in range(family.episode_length):
        # Push along the velocity for a while, which swings up, then anyhow, also out of bounds.
        swing = np.sign(state.theta_dot)[:, None] * 2.0
        action = swing if time < 80 else rng.uniform(-3.0, 3.0, (num_rows, 1))
        step = family.step(state, action, params, NONE)
        state, seen = step.state, family.observe(step.state, params)
        for row, peer in enumerate(peers):
            observation, reward, terminated, truncated, _ = peer.step(action[row])
            assert [state.theta[row], state.theta_dot[row]] == peer.unwrapped.state.tolist()
            assert seen[row].tolist() == observation.tolist()
            assert step.reward[row] == pytest.approx(reward, abs=1e-12)
            assert step.terminated[row] == terminated
            assert truncated == (time == 199)
    assert family.observation_space == peers[0].observation_space
    assert family.action_space == peers[0].action_space


def test_single_precision_actions_differ_from_gymnasiums_by_single_precision_only():
    family, peer, rng = Pendulum(), gym.make("Pendulum-v1").unwrapped, np.random.default_rng(1)
    peer.reset(seed=0)
    for _ in range(100):
        state, action = _state([peer.state]), rng.uniform(-2.0, 2.0, (1, 1)).astype(np.float32)
        _, reward, *_ = peer.step(action[0])
        step = family.step(state, action, _nominal(), NONE)
        assert [column[0] for column in step.state] == pytest.approx(peer.state.tolist(), abs=1e-6)
        assert step.reward[0] == pytest.approx(reward, abs=1e-6)


def test_one_step_by_hand():
    # Level, at rest, torque 1: acceleration 3 g / 2 l + 3 / m l² = 15 + 6, in 0.1 s; the cost is of the old state.
    step = Pendulum().step(_state([[pi / 2, 0.0]]), np.array([[1.0]]), _params([[5.0, 2.0, 0.5, 0.1]]), NONE)
    assert step.state.theta_dot.tolist() == pytest.approx([2.1])
    assert step.state.theta.tolist() == pytest.approx([pi / 2 + 0.21])
    assert step.reward.tolist() == pytest.approx([-(pi**2 / 4 + 0.001)])
    assert (step.terminated.tolist(), step.success) == ([False], None)


def test_torques_and_speeds_are_clipped_and_angles_normalised_in_the_cost():
    step = Pendulum().step(_state([[2 * pi + 0.1, 7.9]]), np.array([[50.0]]), _nominal(), NONE)
    assert step.state.theta_dot.tolist() == [8.0]
    assert step.reward.tolist() == pytest.approx([-(0.01 + 0.1 * 7.9**2 + 0.004)])


def test_derived_constants():
    params = _params([[8.0, 2.0, 0.5, 0.05]])
    assert params.pull.tolist() == [24.0]
    assert params.response.tolist() == [6.0]


def test_starts_are_uniform():
    state = Pendulum().initial(_nominal(5000), np.random.default_rng(0).random((5000, 2)))
    assert stats.kstest(state.theta, stats.uniform(-pi, 2 * pi).cdf).pvalue > 1e-3
    assert stats.kstest(state.theta_dot, stats.uniform(-1, 2).cdf).pvalue > 1e-3


@every_way
def test_rows_have_the_same_bits_however_many_there_are(compiled):
    if compiled:
        pytest.importorskip("numba")
    rng = np.random.default_rng(5)
    params = _params(rng.uniform(*SUPPORT.T, (64, 4)))
    state, action = _state(rng.normal(size=(64, 2)) * [20.0, 4.0]), rng.normal(size=(64, 1)).astype(np.float32) * 2
    whole, family = Pendulum().step(state, action, params, NONE), Pendulum(compiled=compiled)
    for size in (1, 2, 7, 64):
        for first in range(0, 64 - size + 1, size):
            rows = np.arange(first, first + size)
            step = family.step(
                PendulumState(*(column[rows] for column in state)), action[rows], params.take(rows), NONE
            )
            for column, expected in zip((*step.state, step.reward), (*whole.state, whole.reward), strict=True):
                assert column.tobytes() == expected[rows].tobytes()
            seen = family.observe(step.state, params.take(rows))
            assert seen.tolist() == family.observe(whole.state, params)[rows].tolist()


def test_the_nominal_task_is_gymnasiums():
    peer = gym.make("Pendulum-v1").unwrapped
    assert {name: float(value) for name, value in Pendulum.nominal().items()} == {
        name: getattr(peer, name) for name in PendulumParams.names()
    }
    assert TaskDistribution(Pendulum()).coerce(Pendulum.nominal()) == Pendulum.nominal()


def test_what_is_out_of_range_is_refused_by_name():
    with pytest.raises(TaskError, match="dt="):
        TaskDistribution(Pendulum()).coerce({**Pendulum.nominal(), "dt": 0.0})
    for keywords in ({"episode_length": 0}, {"compiled": 1}):
        with pytest.raises(ConfigError, match=f"{next(iter(keywords))}="):
            Pendulum(**keywords)


def test_no_limits_are_claimed():
    assert Pendulum().optimal_return(_nominal()) is None
    assert Pendulum().random_return(_nominal()) is None


def test_the_picture_shows_the_rod_where_it_points():
    family, params = Pendulum(), _nominal()
    up, left = (family.draw(_state([[angle, 0.0]]), params) for angle in (0.0, pi / 2))
    assert up.shape == (400, 400, 3)
    assert up.dtype == np.uint8
    assert up[150, 200].tolist() == left[200, 150].tolist() == [213, 94, 0]
    assert up[200, 150].tolist() == left[150, 200].tolist() == left[200, 250].tolist() == [249, 248, 244]


def test_the_text_tells_state_and_constants():
    text = Pendulum().describe(_state([[2 * pi + 0.1, -1.0]]), _nominal())
    assert text == "+5.7 degrees from upright, turning at -1.000 rad/s\ng 10, m 1, l 1, dt 0.05\n"
