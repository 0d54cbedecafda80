import itertools
import math

import gymnasium as gym
import numpy as np
import pytest
from scipy import stats
from scipy.linalg import solve_discrete_are

from metagym.distributions import TaskDistribution
from metagym.engine import TaskEnv, TaskVectorEnv
from metagym.envs.cart_pole import THETA_LIMIT, X_LIMIT, CartPole, CartPoleParams, CartPoleState
from metagym.errors import ConfigError, TaskError

NONE = np.empty((1, 0))
NAMES = CartPoleParams.names()
SUPPORT = np.array([CartPole.spans[name].support for name in NAMES])


def _params(tasks):
    """Columns from an array of constants, (N, 6)."""
    return CartPoleParams(*np.array(tasks, np.float64).T.copy())


def _nominal(num_rows=1):
    return _params([[CartPole.spans[name].nominal for name in NAMES]] * num_rows)


def _state(rows):
    return CartPoleState(*np.array(rows, np.float64).T.copy())


def _corners(intervals):
    return np.array(list(itertools.product(*intervals)))


def _regulators(params):
    """Gains (N, 4) of a linear-quadratic regulator for each task, linearised where the pole stands upright."""
    gains = []
    for gravity, _, masspole, length, force_mag, tau in zip(*params.columns().values(), strict=True):
        mass = params.total_mass[len(gains)]
        inertia = length * (4 / 3 - masspole / mass)
        lever = masspole * length / mass
        dynamics = np.eye(4)
        dynamics[0, 1] = dynamics[2, 3] = tau
        dynamics[3, 2], dynamics[1, 2] = tau * gravity / inertia, -tau * lever * gravity / inertia
        control = tau * np.array([[0.0], [1 / mass + lever / (mass * inertia)], [0.0], [-1 / (mass * inertia)]])
        cost, effort = np.diag([0.3, 0.3, 3.0, 0.3]), np.array([[0.1 / force_mag**2]])
        value = solve_discrete_are(dynamics, control, cost, effort)
        gains.append(np.linalg.solve(effort + control.T @ value @ control, control.T @ value @ dynamics)[0])
    return np.array(gains)


def _push(gains, state):
    """Towards the side that the regulator asks for."""
    return (sum(gain * column for gain, column in zip(gains.T, state, strict=True)) < 0.0).astype(np.int64)


# --- Gymnasium's own env ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("num_rows", [1, 3])
def test_whole_episodes_equal_gymnasiums_to_the_last_bit_on_the_nominal_task(num_rows, compiled):
    if compiled:
        pytest.importorskip("numba")
    family, params = CartPole(compiled=compiled), _nominal(num_rows)
    gains, rng = _regulators(params), np.random.default_rng(3)
    lengths = []
    for skill in (0.0, 0.5, 0.8, 1.0):
        peers = [gym.make("CartPole-v1") for _ in range(num_rows)]
        for seed, peer in enumerate(peers):
            peer.reset(seed=seed)
        state = _state([peer.unwrapped.state for peer in peers])
        running = np.ones(num_rows, bool)
        for _ in range(family.episode_length):
            action = np.where(rng.random(num_rows) < skill, _push(gains, state), rng.integers(0, 2, num_rows))
            step = family.step(state, action, params, NONE)
            state, seen = step.state, family.observe(step.state, params)
            for row in np.flatnonzero(running):
                observation, reward, terminated, truncated, _ = peers[row].step(int(action[row]))
                assert [column[row] for column in state] == peers[row].unwrapped.state.tolist()
                assert np.array_equal(seen[row], observation)
                assert observation.dtype == seen.dtype
                assert (step.reward[row], step.terminated[row]) == (reward, terminated)
                running[row] = not (terminated or truncated)
                if truncated or terminated:
                    lengths.append(peers[row].get_wrapper_attr("_elapsed_steps"))
    assert max(lengths) == 500
    assert min(lengths) < 60


def test_the_sutton_barto_rewards_are_gymnasiums():
    peer = gym.make("CartPole-v1", sutton_barto_reward=True).unwrapped
    family, params = CartPole(sutton_barto_reward=True), _nominal()
    peer.reset(seed=0)
    state = _state([peer.state])
    for _ in range(30):
        _, reward, terminated, _, _ = peer.step(1)
        step = family.step(state, np.array([1]), params, NONE)
        assert (step.reward[0], step.terminated[0]) == (reward, terminated)
        state = step.state
        if terminated:
            break
    assert reward == -1.0


# --- transitions by hand ---------------------------------------------------------------------------------------------


def test_one_push_from_rest_by_hand():
    # Upright and at rest: temp = F / M, angular acceleration -F / (M l (4/3 - m / M)), x'' = (F - m l theta'') / M.
    params = _params([[10.0, 1.5, 0.5, 0.25, 8.0, 0.01]])
    step = CartPole().step(_state([[0.0, 0.0, 0.0, 0.0]]), np.array([1]), params, NONE)
    theta_acc = -(8.0 / 2.0) / (0.25 * (4 / 3 - 0.25))
    assert [column[0] for column in step.state] == pytest.approx(
        [0.0, 0.01 * (4.0 - 0.125 * theta_acc / 2.0), 0.0, 0.01 * theta_acc]
    )
    assert (step.reward.tolist(), step.terminated.tolist(), step.success) == ([1.0], [False], None)


@pytest.mark.parametrize(
    ("state", "terminated"),
    [
        ([X_LIMIT, 0.0, 0.0, 0.0], False),
        ([np.nextafter(X_LIMIT, 3.0), 0.0, 0.0, 0.0], True),
        ([-2.39, -1.0, 0.0, 0.0], True),
        ([0.0, 0.0, THETA_LIMIT, 0.0], False),
        ([0.0, 0.0, -np.nextafter(THETA_LIMIT, 1.0), 0.0], True),
    ],
)
@pytest.mark.parametrize("num_rows", [1, 2])
def test_an_episode_ends_beyond_the_limits_and_not_on_them(state, terminated, num_rows):
    step = CartPole().step(_state([state] * num_rows), np.ones(num_rows, int), _nominal(num_rows), NONE)
    assert step.terminated.tolist() == [terminated] * num_rows
    assert step.reward.tolist() == [1.0] * num_rows


def test_derived_masses():
    params = _params([[9.8, 1.5, 0.25, 0.5, 10.0, 0.02]])
    assert params.total_mass.tolist() == [1.75]
    assert params.polemass_length.tolist() == [0.125]


def test_starts_are_uniform_within_a_twentieth():
    noise = np.random.default_rng(0).random((5000, 4))
    for column in CartPole().initial(_nominal(5000), noise):
        assert column.flags.c_contiguous
        assert stats.kstest(column, stats.uniform(-0.05, 0.1).cdf).pvalue > 1e-3


def test_the_time_limit_is_that_of_version_one_by_default():
    assert CartPole().episode_length == 500
    assert CartPole(episode_length=200).episode_length == 200


# --- limits ----------------------------------------------------------------------------------------------------------


def _largest(support):
    """Bounds of |x|, |x'|, |theta| and |theta'| whatever is done, by interval arithmetic over a box of tasks."""
    (_, gravity), (cart, _), (pole_low, pole), (short, long), (_, force), (_, tau) = support
    sine, push, share = math.sin(THETA_LIMIT), force / (cart + pole_low), pole / (cart + pole)

    def turning(speed):
        return (gravity * sine + push) / (short * (4 / 3 - share)) + share * sine / (4 / 3 - share) * speed**2

    speed = 0.0
    for _ in range(200):
        speed = tau * turning(speed) + math.sqrt(0.05**2 + 2 * turning(speed) * 2 * THETA_LIMIT)
    swing = share * long * sine * speed**2
    driving = push + swing + share * (gravity * sine + push + share * long * sine * speed**2) / (4 / 3 - share)
    velocity = tau * driving + math.sqrt(0.05**2 + 2 * driving * 2 * X_LIMIT)
    ends = (velocity + tau * driving, speed + tau * turning(speed))
    return [X_LIMIT + tau * velocity, ends[0], THETA_LIMIT + tau * speed, ends[1]]


def test_the_bounds_of_observations_hold_for_every_task_and_all_actions():
    largest = _largest(SUPPORT)
    assert largest == pytest.approx([4.012, 60.6, 0.991, 35.7], rel=1e-3)
    assert np.all(largest < CartPole().observation_space.high)


@pytest.mark.parametrize("compiled", [False, True])
def test_no_run_leaves_the_derived_bounds(compiled):
    if compiled:
        pytest.importorskip("numba")
    tasks = np.repeat(_corners(SUPPORT), 8, axis=0)
    params, family, rng = _params(tasks), CartPole(compiled=compiled), np.random.default_rng(1)
    state, running = family.initial(params, rng.random((512, 4))), np.ones(512, bool)
    gains, largest = _regulators(params), np.zeros(4)
    patience = rng.integers(1, 200, 512)
    for time in range(300):
        # Balance for a while, then push one way.
        action = np.where(time < patience, _push(gains, state), rng.integers(0, 2))
        step = family.step(state, action, params, NONE)
        seen = np.abs(family.observe(step.state, params)[running])
        largest = np.maximum(largest, seen.max(axis=0, initial=0.0))
        state, running = step.state, running & ~step.terminated
    assert np.all(largest < _largest(SUPPORT))
    assert largest[2] > 0.4


def test_the_documented_optimum_is_reached_over_the_whole_task_space():
    rng = np.random.default_rng(0)
    tasks = np.concatenate([_corners(SUPPORT), rng.uniform(*SUPPORT.T, (136, 6))])
    starts = np.concatenate([_corners([(-0.05, 0.05)] * 4), rng.uniform(-0.05, 0.05, (24, 4))])
    gains = np.repeat(_regulators(_params(tasks)), len(starts), axis=0)
    params = _params(np.repeat(tasks, len(starts), axis=0))
    family, state = CartPole(), _state(np.tile(starts, (len(tasks), 1)))
    fallen = np.zeros(len(params), bool)
    for _ in range(family.episode_length):
        step = family.step(state, _push(gains, state), params, NONE)
        state, fallen = step.state, fallen | step.terminated
    assert not fallen.any()
    assert family.optimal_return(_params(tasks)).tolist() == [500.0] * len(tasks)


def test_the_optimum_with_other_keywords():
    params = _nominal(2)
    assert CartPole(episode_length=80).optimal_return(params).tolist() == [80.0, 80.0]
    assert CartPole(sutton_barto_reward=True).optimal_return(params).tolist() == [0.0, 0.0]
    assert CartPole(episode_length=501).optimal_return(params) is None
    assert CartPole().random_return(params) is None


# --- rows and tasks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [False, True])
def test_rows_have_the_same_bits_however_many_there_are(compiled):
    if compiled:
        pytest.importorskip("numba")
    rng = np.random.default_rng(5)
    params = _params(rng.uniform(*SUPPORT.T, (64, 6)))
    state = _state(rng.normal(size=(64, 4)) * [1.0, 3.0, 0.1, 3.0])
    action = rng.integers(0, 2, 64)
    whole = CartPole().step(state, action, params, NONE)
    family = CartPole(compiled=compiled)
    for size in (1, 2, 7, 64):
        for first in range(0, 64 - size + 1, size):
            rows = np.arange(first, first + size)
            part = CartPoleState(*(column[rows] for column in state))
            step = family.step(part, action[rows], params.take(rows), NONE)
            for column, expected in zip(step.state, whole.state, strict=True):
                assert column.tobytes() == expected[rows].tobytes()
            assert step.terminated.tolist() == whole.terminated[rows].tolist()
            assert step.reward.dtype == step.state.x.dtype == np.float64
            assert step.terminated.dtype == np.bool_
            seen = family.observe(step.state, params.take(rows))
            assert seen.tolist() == family.observe(whole.state, params)[rows].tolist()


def test_compiled_envs_go_through_the_same_episodes_scalar_or_vector():
    pytest.importorskip("numba")
    plain, compiled = TaskVectorEnv(CartPole(), 3), TaskVectorEnv(CartPole(compiled=True), 3)
    single = TaskEnv(CartPole(compiled=True))
    rng = np.random.default_rng(2)
    results = [env.reset(seed=4)[0] for env in (plain, compiled)]
    alone = single.reset(seed=5)[0]
    ended = False
    for _ in range(100):
        assert results[0].tolist() == results[1].tolist()
        assert results[0][1].tolist() == alone.tolist()
        action = rng.integers(0, 2, 3)
        results = [env.step(action)[0] for env in (plain, compiled)]
        if ended:
            alone, ended = single.reset()[0], False
        else:
            alone, _, terminated, truncated, _ = single.step(action[1])
            ended = terminated or truncated


def test_the_nominal_task_can_be_set_and_lies_in_the_training_box():
    task = CartPole.nominal()
    env = gym.make("MetaCartPole-v0").unwrapped
    env.set_task(task)
    env.reset(seed=0)
    assert env.get_task() == task
    peer = gym.make("CartPole-v1").unwrapped
    assert {name: float(value) for name, value in task.items()} == {name: getattr(peer, name) for name in NAMES}


@pytest.mark.parametrize(
    ("change", "message"),
    [({"gravity": 25.0}, "gravity="), ({"tau": 0.0}, "tau="), ({"length": np.nan}, "length="), ({"pole": 1.0}, "pole")],
)
def test_tasks_out_of_range_are_refused(change, message):
    with pytest.raises(TaskError, match=message):
        TaskDistribution(CartPole()).coerce({**CartPole.nominal(), **change})


@pytest.mark.parametrize("keywords", [{"episode_length": 0}, {"sutton_barto_reward": 1}, {"compiled": "yes"}])
def test_keywords_out_of_range_are_refused_by_name(keywords):
    with pytest.raises(ConfigError, match=f"{next(iter(keywords))}="):
        CartPole(**keywords)


# --- pictures --------------------------------------------------------------------------------------------------------


def test_the_picture_shows_cart_and_pole_where_they_are():
    family, params = CartPole(), _nominal()
    image = family.draw(_state([[0.0, 0.0, 0.0, 0.0]]), params)
    assert image.shape == (380, 600, 3)
    assert image.dtype == np.uint8
    assert image[340 - 12, 300 - 10].tolist() == [0, 114, 178]
    assert image[340 - 20 - 60, 300].tolist() == [236, 112, 20]
    moved = family.draw(_state([[1.0, 0.0, 0.1, 0.0]]), params)
    assert moved[340 - 12, 400 - 10].tolist() == [0, 114, 178]
    assert np.any(image != moved)


def test_the_text_tells_state_and_constants():
    text = CartPole().describe(_state([[0.5, -1.0, 0.1, 0.0]]), _nominal())
    assert text.startswith("cart at +0.500 m moving at -1.000 m/s, pole at +5.73 degrees turning at +0.00 degrees/s\n")
    assert "masspole 0.1" in text
