import copy
import pickle
import re
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest

from metagym.envs.mujoco import simulator as module
from metagym.envs.mujoco.ant import AntDir, AntGoal
from metagym.envs.mujoco.directions import DirectionParams
from metagym.envs.mujoco.half_cheetah import HalfCheetahDir, HalfCheetahVel
from metagym.envs.mujoco.humanoid import HumanoidDir
from metagym.envs.mujoco.random_params import HopperParams, Walker2DParams
from metagym.envs.mujoco.simulator import squares
from metagym.errors import ConfigError
from tests.envs.mujoco.bodies import FAMILIES, MADE, actions_of, begin, move, mujoco, sample, step

every_family = pytest.mark.parametrize("kind", FAMILIES, ids=lambda kind: kind.__name__)

# The task that is Gymnasium's env, and its id; observations of the two are equal.
NOMINAL = [
    (HalfCheetahDir, {"direction": np.ones(1)}, "HalfCheetah-v5", {}),
    (AntDir, {"angle": np.zeros(1)}, "Ant-v5", {}),
    (AntGoal, {"goal": np.zeros((1, 2))}, "Ant-v5", {"exclude_current_positions_from_observation": False}),
    (HumanoidDir, {"angle": np.zeros(1)}, "Humanoid-v5", {}),
    (HopperParams, None, "Hopper-v5", {}),
    (Walker2DParams, None, "Walker2d-v5", {}),
]

every_nominal = pytest.mark.parametrize(
    ("kind", "fields", "env_id", "kwargs"), NOMINAL, ids=[row[0].__name__ for row in NOMINAL]
)


def _nominal_params(family, fields):
    fields = fields or {name: np.zeros((1, *space.shape)) for name, space in family.task_space.items()}
    return family.params_type(**fields)


def _same(left, right):
    return all(a.tobytes() == b.tobytes() for a, b in zip(left, right, strict=True))


# --- parity with Gymnasium -----------------------------------------------------------------------------------------


@every_nominal
def test_the_nominal_task_is_gymnasiums_env_over_a_whole_episode(kind, fields, env_id, kwargs):
    family = MADE[kind]
    params = _nominal_params(family, fields)
    state = begin(family, params, seed=5)
    env = gym.make(env_id, **kwargs).unwrapped
    env.reset(seed=0)
    mujoco.mj_resetData(env.model, env.data)  # as its `reset` does
    ends = family.num_positions, family.num_positions + family.num_velocities
    env.set_state(state.physics[0, : ends[0]], state.physics[0, ends[0] : ends[1]])
    assert family.observe(state, params)[0] == pytest.approx(env._get_obs(), abs=1e-12)
    for action in actions_of(family, (200,), seed=1):
        result = step(family, state, action[None], params)
        observation, reward, terminated, _, _ = env.step(action)
        state = result.state
        # The pose bit for bit; sums of forces to rounding.
        assert state.physics[0, : ends[1]].tobytes() == np.concatenate([env.data.qpos, env.data.qvel]).tobytes()
        assert family.observe(state, params)[0].tobytes() == observation.tobytes()
        if kind is not AntGoal:
            assert result.reward[0] == pytest.approx(reward, abs=1e-9)
            assert result.terminated[0] == terminated


@every_nominal
def test_constants_and_spaces_are_those_of_gymnasiums_env(kind, fields, env_id, kwargs):
    family, env = MADE[kind], gym.make(env_id, **kwargs).unwrapped
    assert family.seconds == pytest.approx(env.dt, rel=1e-15)
    assert family.action_space == env.action_space
    assert family.observation_space.shape == env.observation_space.shape
    assert family.observation_space.dtype == env.observation_space.dtype
    assert family.start_noise == env._reset_noise_scale
    if kind is not AntGoal:
        assert family.control_cost == env._ctrl_cost_weight
    assert (family.num_positions, family.num_velocities, family.num_actions) == (
        env.model.nq, env.model.nv, env.model.nu,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "normal"),
    [(HalfCheetahVel, True), (AntGoal, True), (HumanoidDir, False), (HopperParams, False), (Walker2DParams, False)],
)
def test_starts_are_distributed_as_gymnasiums(kind, normal):
    family = MADE[kind]
    state = begin(family, sample(family, 500), seed=3)
    noise = state.physics[:, : family.num_positions] - family.simulator.start
    velocities = state.physics[:, family.num_positions : family.num_positions + family.num_velocities]
    scale = family.start_noise
    assert np.abs(noise).max() <= scale * (1.0 + 1e-9)
    assert noise.var() == pytest.approx(scale**2 / 3.0, rel=0.08)
    assert velocities.var() == pytest.approx(scale**2 if normal else scale**2 / 3.0, rel=0.08)
    assert (np.abs(velocities).max() > scale) == normal


# --- rows ----------------------------------------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("size", [1, 2, 3])
def test_rows_do_not_depend_on_each_other_nor_on_what_was_simulated_before(kind, size):
    family, rng = MADE[kind], np.random.default_rng(size)
    params, actions = sample(family, 5), actions_of(family, (4, 5)).astype(np.float32)
    noise = rng.random((5, family.num_initial_draws))

    def trajectory(rows):
        tasks = params.take(rows)
        state = family.initial(tasks, noise[rows])
        found = [*state]
        for action in actions:
            result = step(family, state, action[rows], tasks)
            state = result.state
            found += [*state, result.reward, result.terminated, family.observe(state, tasks)]
        return found

    whole = trajectory(np.arange(5))
    rows = rng.permutation(5)[:size]
    assert _same([column[rows] for column in whole], trajectory(rows))


@every_family
def test_a_step_is_a_function_of_its_arguments_alone(kind):
    used, fresh = MADE[kind], kind()
    params = sample(used, 2)
    state = begin(used, params)
    action = actions_of(used, (2,))
    before = [column.copy() for column in state]
    first = step(used, state, action, params)
    step(used, first.state, -action, sample(used, 2, seed=9))
    used.draw(type(state)(*(column[:1] for column in first.state)), params.take(np.arange(1)))
    begin(used, sample(used, 3, seed=8))
    for again in (step(used, state, action, params), step(fresh, state, action, params)):
        assert _same([*again.state, again.reward, again.terminated], [*first.state, first.reward, first.terminated])
        assert not any(np.shares_memory(a, b) for a in again.state for b in (*first.state, *state) if a.size and b.size)
    assert _same(before, state)


@every_family
def test_pickles_and_copies_of_a_family_continue_where_it_was(kind):
    family = MADE[kind]
    params = sample(family, 2)
    state, action = begin(family, params), actions_of(family, (2,))
    expected = step(family, state, action, params)
    for other in (pickle.loads(pickle.dumps(family)), copy.deepcopy(family)):
        restored = pickle.loads(pickle.dumps(state))
        result = step(other, restored, action, params)
        assert _same([*result.state, result.reward], [*expected.state, expected.reward])
        assert other.simulator is not family.simulator
    assert len(pickle.dumps(family)) < 20_000


@every_family
def test_observations_lie_in_their_space_and_are_fresh(kind):
    family = MADE[kind]
    params = sample(family, 2)
    state = begin(family, params)
    for action in actions_of(family, (20, 2)):
        state = step(family, state, action * 5.0, params).state
    observation = family.observe(state, params)
    assert observation.dtype == np.float64
    assert all(row in family.observation_space for row in observation)
    assert not any(np.shares_memory(observation, column) for column in state if column.size)


@every_family
def test_actions_are_clipped_before_they_are_paid_for(kind):
    family = MADE[kind]
    params = sample(family, 1)
    state = begin(family, params)
    beyond = step(family, state, np.full((1, family.num_actions), 7.0), params)
    most = step(family, state, np.full((1, family.num_actions), family.action_limit), params)
    assert _same([*beyond.state, beyond.reward], [*most.state, most.reward])


# --- a family and its env ------------------------------------------------------------------------------------------


@every_family
def test_the_documented_observations_are_those_of_the_space(kind):
    text = kind.__doc__.partition("## Observation Space")[2].partition("## Rewards")[0]
    rows = re.findall(r"^ *\| ([\d-]+) \| [^|]+ \| ([^|]+) \| ([^|]+) \|", text, flags=re.MULTILINE)
    bounds = []
    for numbers, low, high in rows:
        first, _, last = numbers.partition("-")
        bounds += [(index, float(low), float(high)) for index in range(int(first), int(last or first) + 1)]
    space = MADE[kind].observation_space
    assert bounds == [*zip(range(space.shape[0]), space.low.tolist(), space.high.tolist(), strict=True)]


@every_family
def test_scalar_and_vector_env_agree_bit_for_bit(kind):
    name = f"Meta{kind.__name__}-v0"
    vector = gym.make_vec(name, num_envs=2)
    scalars = [gym.make(name).unwrapped for _ in range(2)]
    observation, _ = vector.reset(seed=[3, 4])
    alone = [env.reset(seed=seed)[0] for env, seed in zip(scalars, (3, 4), strict=True)]
    assert observation.tobytes() == np.array(alone).tobytes()
    for action in actions_of(MADE[kind], (5, 2)).astype(np.float32):
        observation, reward, *_ = vector.step(action)
        results = [env.step(act) for env, act in zip(scalars, action, strict=True)]
        assert observation.tobytes() == np.array([result[0] for result in results]).tobytes()
        assert reward.tolist() == [result[1] for result in results]


@every_family
def test_a_vector_env_continues_in_mid_episode_where_another_one_was(kind):
    name = f"Meta{kind.__name__}-v0"
    first, second = (gym.make_vec(name, num_envs=3) for _ in range(2))
    actions = actions_of(MADE[kind], (8, 3)).astype(np.float32)
    first.reset(seed=1)
    second.reset(seed=2)
    for action in actions[:4]:
        first.step(action)
        second.step(-action)
    second.set_state(pickle.loads(pickle.dumps(first.get_state())))
    copied = pickle.loads(pickle.dumps(first))
    # One row starts anew, in the middle of the episodes of the others.
    masks = {"reset_mask": np.array([False, True, False])}
    observations = [env.reset(options=masks)[0] for env in (first, second, copied)]
    assert observations[0].tobytes() == observations[1].tobytes() == observations[2].tobytes()
    for action in actions[4:]:
        results = [env.step(action) for env in (first, second, copied)]
        for other in results[1:]:
            assert _same(results[0][:4], other[:4])


@every_family
def test_the_picture_shows_the_body_and_moves_with_it(kind):
    family = MADE[kind]
    params = sample(family, 1)
    state = begin(family, params)
    here, there = family.draw(state, params), family.draw(move(family, state, x0=0.7), params)
    assert here.shape == (400, 400, 3)
    assert here.dtype == np.uint8
    assert (here == [236, 112, 20]).all(axis=2).sum() > 50
    assert np.any(here != there)
    assert family.describe(state, params).count("\n") == 1


@pytest.mark.parametrize(
    "keywords", [{"control_cost": -0.1}, {"control_cost": "0.1"}, {"episode_length": 0}, {"episode_length": 1.5}]
)
def test_keywords_out_of_range_are_refused_by_name(keywords):
    with pytest.raises(ConfigError, match=f"{next(iter(keywords))}="):
        HalfCheetahDir(**keywords)


def test_squares_are_summed_by_row():
    assert squares(np.array([[1.0, 2.0], [3.0, 4.0]])).tolist() == [5.0, 25.0]


# --- without MuJoCo ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("found", [None, module])  # not there, or a folder of that name
def test_without_mujoco_the_constructor_says_what_to_install(monkeypatch, found):
    monkeypatch.setitem(sys.modules, "mujoco", found)
    with pytest.raises(gym.error.DependencyNotInstalled, match=re.escape('pip install "metagym-rl[mujoco]"')):
        HalfCheetahVel()


def test_neither_metagym_nor_its_families_import_mujoco_before_one_is_made():
    code = (
        "import sys, metagym, metagym.envs.mujoco.ant, metagym.envs.mujoco.random_params; "
        "print([name for name in sys.modules if name.startswith(('mujoco', 'gymnasium.envs.mujoco'))])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"


def test_the_simulator_is_made_at_the_first_use():
    family = AntDir()
    assert family._simulator is None
    begin(family, DirectionParams(np.zeros(1)))
    assert family._simulator is not None
