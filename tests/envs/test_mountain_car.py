import itertools

import gymnasium as gym
import numpy as np
import pytest
from scipy import stats

from metagym.distributions import TaskDistribution
from metagym.envs.mountain_car import (
    MountainCar,
    MountainCarContinuous,
    MountainCarContinuousParams,
    MountainCarParams,
    MountainCarState,
)
from metagym.errors import ConfigError, TaskError

NONE = np.empty((1, 0))
PEERS = {MountainCar: "MountainCar-v0", MountainCarContinuous: "MountainCarContinuous-v0"}
every_way = pytest.mark.parametrize("compiled", [False, True], ids=["numpy", "compiled"])
both = pytest.mark.parametrize("kind", list(PEERS), ids=lambda kind: kind.__name__)


def _params(kind, tasks):
    return kind.params_type(*np.array(tasks, np.float64).T.copy())


def _nominal(kind, num_rows=1):
    return _params(kind, [[span.nominal for span in kind.spans.values()]] * num_rows)


def _state(kind, rows):
    dtype = np.float32 if kind is MountainCarContinuous else np.float64
    return MountainCarState(*np.array(rows, dtype).T.copy())


def _along(kind, velocity, rng, skill):
    """Pushes along the velocity, or, with probability 1 - skill, others."""
    direction = np.where(velocity >= 0.0, 1, -1)
    if kind is MountainCar:
        return np.where(rng.random(len(velocity)) < skill, 1 + direction, rng.integers(0, 3, len(velocity)))
    keep = rng.random(len(velocity)) < skill
    return np.where(keep, direction, rng.uniform(-1.0, 1.0, len(velocity)))[:, None]


@both
@every_way
@pytest.mark.parametrize("num_rows", [1, 3])
def test_whole_episodes_equal_gymnasiums_on_the_nominal_task(kind, num_rows, compiled):
    if compiled:
        pytest.importorskip("numba")
    family, params, rng = kind(compiled=compiled), _nominal(kind, num_rows), np.random.default_rng(1)
    lengths = []
    for skill in (0.0, 0.7, 1.0):
        peers = [gym.make(PEERS[kind], disable_env_checker=True) for _ in range(num_rows)]
        state = family.initial(params, rng.random((num_rows, 1)))
        for row, peer in enumerate(peers):
            peer.reset(seed=row)
            peer.unwrapped.state = np.array([column[row] for column in state])
        running = np.ones(num_rows, bool)
        for time in range(family.episode_length):
            action = _along(kind, state.velocity, rng, skill)
            step = family.step(state, action, params, NONE)
            state, seen = step.state, family.observe(step.state, params)
            for row in np.flatnonzero(running):
                observation, reward, terminated, truncated, _ = peers[row].step(action[row])
                assert [column[row] for column in state] == pytest.approx(list(peers[row].unwrapped.state), abs=1e-12)
                assert np.abs(seen[row] - observation).max() <= 1e-9
                assert step.reward[row] == pytest.approx(reward, abs=1e-12)
                assert step.terminated[row] == step.success[row] == terminated
                assert truncated == (time == family.episode_length - 1)
                if terminated or truncated:
                    running[row] = False
                    lengths.append(time + 1)
    assert max(lengths) == {MountainCar: 200, MountainCarContinuous: 999}[kind]
    assert min(lengths) < 130
    assert family.action_space == peers[0].action_space
    low, high = family.observation_space.low, family.observation_space.high
    assert (low[0], high[0]) == (peers[0].observation_space.low[0], peers[0].observation_space.high[0])


@pytest.mark.parametrize(("reach", "dtype"), [(1.0, np.float32), (2.0, np.float32), (2.0, np.float64)])
def test_single_precision_and_clipped_actions_differ_from_gymnasiums_by_single_precision_only(reach, dtype):
    family, rng = MountainCarContinuous(), np.random.default_rng(1)
    peer = gym.make("MountainCarContinuous-v0").unwrapped
    peer.reset(seed=0)
    for _ in range(100):
        state, action = _state(MountainCarContinuous, [peer.state]), rng.uniform(-reach, reach, (1, 1)).astype(dtype)
        _, reward, *_ = peer.step(action[0])
        step = family.step(state, action, _nominal(MountainCarContinuous), NONE)
        assert [column[0] for column in step.state] == pytest.approx(peer.state.tolist(), abs=2e-7)
        assert step.reward[0] == pytest.approx(reward, abs=1e-6)


def test_one_step_by_hand():
    params = MountainCarParams(*(np.array([value]) for value in (0.0015, 0.002, 0.5, 0.1)))
    step = MountainCar().step(_state(MountainCar, [[0.0, 0.01]]), np.array([2]), params, NONE)
    assert step.state.velocity.tolist() == pytest.approx([0.01 + 0.0015 - 0.002])
    assert step.state.position.tolist() == pytest.approx([0.0095])
    assert step.reward.tolist() == [-1.0]
    params = MountainCarContinuousParams(*(np.array([value]) for value in (0.002, 0.002, 0.5, 0.1)))
    step = MountainCarContinuous().step(_state(MountainCarContinuous, [[0.0, 0.01]]), np.array([[0.5]]), params, NONE)
    assert step.state.velocity.tolist() == pytest.approx([0.01 + 0.001 - 0.002])
    assert step.reward.tolist() == pytest.approx([-0.025])


@both
@every_way
def test_the_left_end_stops_the_car_and_speeds_are_limited(kind, compiled):
    if compiled:
        pytest.importorskip("numba")
    family, action = kind(compiled=compiled), {MountainCar: [0, 0], MountainCarContinuous: [[-1.0], [-1.0]]}[kind]
    step = family.step(_state(kind, [[-1.19, -0.05], [-0.2, -0.0699]]), np.array(action), _nominal(kind, 2), NONE)
    assert step.state.position[0] == pytest.approx(-1.2)
    assert step.state.velocity.tolist() == pytest.approx([0.0, -0.07])


@both
def test_an_episode_ends_at_the_flag_but_not_on_the_way_back(kind):
    family = kind()
    flag = float(kind.nominal()["goal_position"])
    rows = [[flag - 0.01, 0.02], [flag + 0.05, -0.01], [flag - 0.01, 0.001]]
    action = {MountainCar: np.array([2, 0, 2]), MountainCarContinuous: np.array([[1.0], [-3.0], [1.0]])}[kind]
    step = family.step(_state(kind, rows), action, _nominal(kind, 3), NONE)
    assert step.terminated.tolist() == step.success.tolist() == [True, False, False]
    assert not np.shares_memory(step.terminated, step.success)
    if kind is MountainCarContinuous:
        # The action is clipped where it moves the car, and not where it is paid for.
        assert step.reward.tolist() == pytest.approx([99.9, -0.9, -0.1])


@both
def test_starts_are_uniform_in_the_valley_at_rest(kind):
    state = kind().initial(_nominal(kind, 5000), np.random.default_rng(0).random((5000, 1)))
    assert stats.kstest(state.position, stats.uniform(-0.6, 0.2).cdf).pvalue > 1e-3
    assert not state.velocity.any()
    # Gymnasium's continuous car lives in single precision, from its start on here.
    assert {column.dtype for column in state} == {np.dtype(np.float32 if kind is MountainCarContinuous else np.float64)}


@both
def test_pushing_along_the_velocity_reaches_the_flag_in_every_task(kind):
    rng, support = np.random.default_rng(0), np.array([span.support for span in kind.spans.values()])
    tasks = np.concatenate([rng.uniform(*support.T, (3000, 4)), list(itertools.product(*support))])
    params = _params(kind, np.repeat(tasks, 5, axis=0))
    family, within = kind(), {MountainCar: 200, MountainCarContinuous: 250}[kind]
    state = _state(kind, [[start, 0.0] for start in np.tile(np.linspace(-0.6, -0.4, 5), len(tasks))])
    arrived = np.zeros(len(params), bool)
    for _ in range(within):
        direction = np.where(state.velocity >= 0.0, 1, -1)
        action = 1 + direction if kind is MountainCar else direction[:, None].astype(np.float32)
        step = family.step(state, action, params, NONE)
        state, arrived = step.state, arrived | step.terminated
    assert arrived.all()


@both
def test_the_documented_return_of_pushing_along_the_velocity(kind):
    family, params = kind(), _nominal(kind, 400)
    state = family.initial(params, (np.arange(400.0)[:, None] + 0.5) / 400)
    total, running = np.zeros(400), np.ones(400, bool)
    for _ in range(family.episode_length):
        direction = np.where(state.velocity >= 0.0, 1, -1)
        step = family.step(state, 1 + direction if kind is MountainCar else 1.0 * direction[:, None], params, NONE)
        total += running * step.reward
        state, running = step.state, running & ~step.terminated
    assert total.mean() == pytest.approx({MountainCar: -119.4, MountainCarContinuous: 89.3}[kind], abs=0.1)
    assert family.optimal_return(params) is None
    assert family.random_return(params) is None


@both
@every_way
def test_rows_have_the_same_bits_however_many_there_are(kind, compiled):
    if compiled:
        pytest.importorskip("numba")
    rng, support = np.random.default_rng(5), np.array([span.support for span in kind.spans.values()])
    params = _params(kind, rng.uniform(*support.T, (64, 4)))
    state = _state(kind, np.stack([rng.uniform(-1.2, 0.6, 64), rng.uniform(-0.1, 0.1, 64)], axis=1))
    action = rng.integers(0, 3, 64) if kind is MountainCar else rng.normal(size=(64, 1)).astype(np.float32)
    whole, family = kind().step(state, action, params, NONE), kind(compiled=compiled)
    for size in (1, 2, 7, 64):
        for first in range(0, 64 - size + 1, size):
            rows = np.arange(first, first + size)
            part = MountainCarState(*(column[rows] for column in state))
            step = family.step(part, action[rows], params.take(rows), NONE)
            for column, expected in zip((*step.state, step.reward), (*whole.state, whole.reward), strict=True):
                assert (column.dtype, column.tobytes()) == (expected.dtype, expected[rows].tobytes())
            assert step.terminated.tolist() == whole.terminated[rows].tolist()
            assert step.terminated.dtype == np.bool_


@both
def test_the_nominal_task_is_gymnasiums(kind):
    peer = gym.make(PEERS[kind]).unwrapped
    expected = {name: getattr(peer, name, 0.0025) for name in kind.params_type.names()}
    assert {name: float(value) for name, value in kind.nominal().items()} == expected
    assert TaskDistribution(kind()).coerce(kind.nominal()) == kind.nominal()


@both
def test_what_is_out_of_range_is_refused_by_name(kind):
    with pytest.raises(TaskError, match="goal_position="):
        TaskDistribution(kind()).coerce({**kind.nominal(), "goal_position": 0.7})
    for keywords in ({"episode_length": 0}, {"compiled": 1}):
        with pytest.raises(ConfigError, match=f"{next(iter(keywords))}="):
            kind(**keywords)


@both
def test_the_picture_shows_car_and_flag(kind):
    family, params = kind(), _nominal(kind)
    image = family.draw(_state(kind, [[-0.3, 0.0]]), params)
    assert image.shape == (400, 600, 3)
    assert image.dtype == np.uint8
    agent = np.argwhere((image == [236, 112, 20]).all(axis=2))
    assert agent.mean(axis=0)[1] == pytest.approx(300, abs=1)
    flag = np.argwhere((image == [0, 158, 115]).all(axis=2))
    assert flag[:, 1].min() == pytest.approx((params.goal_position[0] + 1.2) * 600 / 1.8, abs=3)


@both
def test_the_text_tells_state_and_constants(kind):
    text = kind().describe(_state(kind, [[-0.5, 0.01]]), _nominal(kind))
    assert text.startswith("at -0.5000, velocity +0.01000\n")
    assert "gravity 0.0025" in text
