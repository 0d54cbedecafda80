from math import pi

import gymnasium as gym
import numpy as np
import pytest
from scipy import stats

from metagym.distributions import TaskDistribution
from metagym.envs.acrobot import Acrobot, AcrobotParams, AcrobotState
from metagym.errors import ConfigError, TaskError

NONE = np.empty((1, 0))
SPANS = Acrobot.spans
SUPPORT = np.array([SPANS[name].support for name in AcrobotParams.names()])
every_way = pytest.mark.parametrize("compiled", [False, True], ids=["numpy", "compiled"])


def _params(tasks):
    return AcrobotParams(*np.array(tasks, np.float64).T.copy())


def _nominal(num_rows=1):
    return _params([[SPANS[name].nominal for name in AcrobotParams.names()]] * num_rows)


def _state(rows):
    return AcrobotState(*np.array(rows, np.float64).T.copy())


@every_way
@pytest.mark.parametrize("num_rows", [1, 3])
def test_whole_episodes_equal_gymnasiums_on_the_nominal_task(num_rows, compiled):
    if compiled:
        pytest.importorskip("numba")
    family, params, rng = Acrobot(compiled=compiled), _nominal(num_rows), np.random.default_rng(0)
    lengths = []
    for skill in (0.0, 1.0):
        peers = [gym.make("Acrobot-v1") for _ in range(num_rows)]
        for seed, peer in enumerate(peers):
            peer.reset(seed=seed)
        state = _state([peer.unwrapped.state for peer in peers])
        running = np.ones(num_rows, bool)
        for time in range(family.episode_length):
            along = np.where(state.theta_2_dot > 0.0, 2, 0)
            action = np.where(rng.random(num_rows) < skill, along, rng.integers(0, 3, num_rows))
            step = family.step(state, action, params, NONE)
            state, seen = step.state, family.observe(step.state, params)
            for row in np.flatnonzero(running):
                observation, reward, terminated, truncated, _ = peers[row].step(int(action[row]))
                assert [column[row] for column in state] == pytest.approx(list(peers[row].unwrapped.state), abs=1e-9)
                assert seen[row] == pytest.approx(observation, abs=1e-6)
                assert (step.reward[row], step.terminated[row], step.success[row]) == (reward, terminated, terminated)
                assert truncated == (time == 499)
                if terminated or truncated:
                    running[row] = False
                    lengths.append(time + 1)
    assert max(lengths) == 500
    assert min(lengths) < 150
    assert family.observation_space == peers[0].observation_space
    assert family.action_space == peers[0].action_space


@pytest.mark.parametrize("seed", range(5))
def test_other_constants_equal_gymnasiums_equations_set_to_them(seed):
    params = _params(np.random.default_rng(seed).uniform(*SUPPORT.T, (1, 8)))
    peer = gym.make("Acrobot-v1").unwrapped
    peer.reset(seed=0)
    for name, column in (
        ("LINK_LENGTH_1", params.link_length_1),
        ("LINK_MASS_1", params.link_mass_1),
        ("LINK_MASS_2", params.link_mass_2),
        ("LINK_COM_POS_1", params.link_com_1 * params.link_length_1),
        ("LINK_COM_POS_2", params.link_com_2 * params.link_length_2),
        ("LINK_MOI", params.link_moi),
    ):
        setattr(peer, name, float(column[0]))
    params.gravity[0] = 9.8  # a number in Gymnasium's equations
    family, rng = Acrobot(), np.random.default_rng(seed)
    for _ in range(60):
        state, action = _state([peer.state]), rng.integers(0, 3)
        peer.step(action)
        step = family.step(state, np.array([action]), params, NONE)
        assert [column[0] for column in step.state] == pytest.approx(list(peer.state), abs=1e-9)


def test_without_torque_energy_is_nearly_kept():
    params = _nominal()

    def energy(state):
        # Links of mass 1 and length 1, centres of mass in their middles, inertia 1 about them.
        first, second, first_dot, second_dot = (float(column[0]) for column in state)
        both = first_dot + second_dot
        kinetic = 0.5 * (0.25 + 1.0) * first_dot**2 + 0.5 * both**2
        kinetic += 0.5 * (first_dot**2 + 0.25 * both**2 + first_dot * both * np.cos(second))
        return kinetic - 9.8 * (1.5 * np.cos(first) + 0.5 * np.cos(first + second))

    state = _state([[0.4, -0.3, 0.0, 0.0]])
    before = energy(state)
    for _ in range(50):
        state = Acrobot().step(state, np.array([1]), params, NONE).state
    assert energy(state) == pytest.approx(before, abs=0.1)


@pytest.mark.parametrize(
    ("lengths", "angles", "above"),
    [
        ((1.0, 1.0), (pi, 0.0), True),
        ((1.0, 1.0), (pi, pi / 2 + 0.2), False),
        ((0.5, 2.0), (pi / 2, pi / 2), True),
        ((2.0, 0.5), (pi / 2, pi / 2), False),
        ((2.0, 0.5), (pi, pi), False),
    ],
)
def test_an_episode_ends_when_the_free_end_is_higher_than_the_upper_link_is_long(lengths, angles, above):
    task = {name: SPANS[name].nominal for name in AcrobotParams.names()}
    task |= {"link_length_1": lengths[0], "link_length_2": lengths[1], "gravity": 2.0}
    step = Acrobot().step(_state([[*angles, 0.0, 0.0]]), np.array([1]), _params([[*task.values()]]), NONE)
    assert step.terminated.tolist() == step.success.tolist() == [above]
    assert step.reward.tolist() == [0.0 if above else -1.0]
    assert not np.shares_memory(step.terminated, step.success)


def test_starts_are_uniform_and_single_precision():
    state = Acrobot().initial(_nominal(5000), np.random.default_rng(0).random((5000, 4)))
    for column in state:
        assert column.flags.c_contiguous
        assert column.astype(np.float32).astype(np.float64).tolist() == column.tolist()
        assert stats.kstest(column, stats.uniform(-0.1, 0.2).cdf).pvalue > 1e-3


@every_way
def test_rows_have_the_same_bits_however_many_there_are(compiled):
    if compiled:
        pytest.importorskip("numba")
    rng = np.random.default_rng(5)
    params = _params(rng.uniform(*SUPPORT.T, (64, 8)))
    state = _state(rng.uniform(-1, 1, (64, 4)) * [pi, pi, 4 * pi, 9 * pi])
    action = rng.integers(0, 3, 64)
    whole, family = Acrobot().step(state, action, params, NONE), Acrobot(compiled=compiled)
    for size in (1, 2, 7, 64):
        for first in range(0, 64 - size + 1, size):
            rows = np.arange(first, first + size)
            part = AcrobotState(*(column[rows] for column in state))
            step = family.step(part, action[rows], params.take(rows), NONE)
            for column, expected in zip((*step.state, step.reward), (*whole.state, whole.reward), strict=True):
                assert column.tobytes() == expected[rows].tobytes()
            seen = family.observe(step.state, params.take(rows))
            assert seen.tolist() == family.observe(whole.state, params)[rows].tolist()


def test_states_stay_within_their_bounds_from_the_wildest_ones_on():
    rng = np.random.default_rng(6)
    params = _params(rng.uniform(*SUPPORT.T, (4000, 8)))
    state = _state(rng.choice([-1.0, 1.0], (4000, 4)) * [pi, pi, 4 * pi, 9 * pi])
    for _ in range(25):
        state = Acrobot().step(state, rng.integers(0, 3, 4000), params, NONE).state
        assert max(np.abs(state.theta_1).max(), np.abs(state.theta_2).max()) <= pi
        assert np.abs(state.theta_1_dot).max() <= 4 * pi
        assert np.abs(state.theta_2_dot).max() <= 9 * pi


def test_the_documented_share_of_tasks_that_pushing_along_the_velocity_solves():
    family, rng = Acrobot(), np.random.default_rng(0)
    for part, share in (("train", 0.99), ("ood", 0.91)):
        keys = rng.integers(0, 2**64, 1000, np.uint64)
        params, _ = TaskDistribution(family).part(part).draw(keys)
        state, solved = family.initial(params, rng.random((1000, 4))), np.zeros(1000, bool)
        for _ in range(family.episode_length):
            step = family.step(state, np.where(state.theta_2_dot > 0.0, 2, 0), params, NONE)
            state, solved = step.state, solved | step.terminated
        assert solved.mean() == pytest.approx(share, abs=0.02)


def test_the_nominal_task_is_gymnasiums():
    peer, task = gym.make("Acrobot-v1").unwrapped, Acrobot.nominal()
    names = ["LINK_LENGTH_1", "LINK_LENGTH_2", "LINK_MASS_1", "LINK_MASS_2", "LINK_COM_POS_1", "LINK_COM_POS_2"]
    fields = list(AcrobotParams.names())
    assert [float(task[name]) for name in fields[:6]] == [getattr(peer, name) for name in names]
    assert (float(task["link_moi"]), float(task["gravity"])) == (peer.LINK_MOI, 9.8)
    assert TaskDistribution(Acrobot()).coerce(task) == task


def test_what_is_out_of_range_is_refused_by_name():
    with pytest.raises(TaskError, match="link_com_1="):
        TaskDistribution(Acrobot()).coerce({**Acrobot.nominal(), "link_com_1": 1.0})
    for keywords in ({"episode_length": 0}, {"compiled": 1}):
        with pytest.raises(ConfigError, match=f"{next(iter(keywords))}="):
            Acrobot(**keywords)


def test_the_picture_shows_both_links():
    family, params = Acrobot(), _nominal()
    image = family.draw(_state([[0.0, pi / 2, 0.0, 0.0]]), params)
    assert image.shape == (440, 440, 3)
    assert image.dtype == np.uint8
    scale = 440 / 8.4
    middle = round(220 + scale / 2)
    assert image[middle, 220].tolist() == [0, 114, 178]
    assert image[round(220 + scale), middle].tolist() == [236, 112, 20]
    assert image[int(220 - scale), 10].tolist() == [0, 158, 115]


def test_the_text_tells_state_and_constants():
    text = Acrobot().describe(_state([[pi / 2, 0.0, 0.5, -1.0]]), _nominal())
    assert text.startswith(
        "upper link at +90.0 degrees turning at +0.50 rad/s, lower link at +0.0 degrees turning at -1"
    )
    assert "gravity 9.8" in text
