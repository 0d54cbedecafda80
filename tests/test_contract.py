"""What holds for every registered id: Gymnasium's and SB3's checkers, and properties stated for all families at once."""

import copy
import json
import os
import pickle
import random
import subprocess
import sys
import warnings
from pathlib import Path

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as check_env_sb3

import metagym
from metagym.registry import make_family
from tests.parity import MODES, assert_same
from tests.strategies import (
    FAMILIES,
    IDS,
    SETTINGS,
    anything,
    arrays_in,
    everything,
    label,
    make_sync,
    random_actions,
    rollout,
    scalar_env,
    seeds,
    settings_of_ids,
    vector_env,
)

every_id = pytest.mark.parametrize("name", IDS)
every_setting = pytest.mark.parametrize("setting", SETTINGS, ids=label)

# --- the checkers of others ------------------------------------------------------------------------------------------


@every_setting
@pytest.mark.parametrize("reveal_task", [False, True])
def test_gymnasiums_check_env_finds_nothing(setting, reveal_task):
    name, kwargs = setting
    env = gym.make(name, reveal_task=reveal_task, **kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
        # Closing and render modes are checked by making the spec again; Gymnasium remarks on wrapped envs as such.
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version.*")
        check_env(gym.make(name, reveal_task=reveal_task, **kwargs), skip_close_check=True)


@every_setting
@pytest.mark.parametrize("reveal_task", [False, True])
def test_sb3s_check_env_finds_nothing(setting, reveal_task):
    name, kwargs = setting
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*symmetric and normalized Box action space.*")
        check_env_sb3(gym.make(name, reveal_task=reveal_task, **kwargs), warn=True)
        check_env_sb3(gym.make(name, reveal_task=reveal_task, **kwargs).unwrapped, warn=True)


@every_setting
def test_the_passive_checker_says_nothing_in_three_episodes(setting):
    name, kwargs = setting
    env = gym.make(name, **kwargs)
    env.action_space.seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(3):
            env.reset(seed=seed)
            over = False
            while not over:
                *_, terminated, truncated, _ = env.step(env.action_space.sample())
                over = terminated or truncated
    assert over


@every_id
def test_types_are_those_that_gymnasium_and_sb3_expect(name):
    env = gym.make(name).unwrapped
    observation, info = env.reset(seed=0)
    for action in random_actions(env, 5):
        assert observation in env.observation_space
        assert np.asarray(observation).dtype == env.observation_space.dtype
        assert set(info) == {"task_id", "trial_start"} | ({"is_success"} if env.family.has_success else set())
        assert type(info["task_id"]) is int
        assert type(info["trial_start"]) is bool
        assert type(info.get("is_success", False)) is bool
        observation, reward, terminated, truncated, info = env.step(action)
        assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)
        assert info["trial_start"] is False


# --- pictures --------------------------------------------------------------------------------------------------------


@every_id
def test_every_render_mode_gives_its_type_twice_the_same_and_closes_twice(name):
    kinds = {"ansi": str, "rgb_array": np.ndarray}
    assert set(gym.make(name).metadata["render_modes"]) == set(kinds)
    for mode, kind in kinds.items():
        env = gym.make(name, render_mode=mode)
        env.reset(seed=0)
        for action in random_actions(env, 2):
            frame = env.render()
            assert type(frame) is kind
            assert_same(env.render(), frame)
            if mode == "rgb_array":
                assert (frame.dtype, frame.ndim, frame.shape[2]) == (np.uint8, 3, 3)
                frame[...] = 0
                assert env.render().any()
            env.step(action)
        env.close()
        env.close()


@every_id
def test_pictures_show_the_state(name):
    env = gym.make(name, render_mode="rgb_array").unwrapped
    frames = set()
    for seed in range(4):
        env.reset(seed=seed)
        frames.add(env.render().tobytes())
    assert len(frames) > 1


@every_id
def test_rendering_without_a_mode_warns_and_gives_none(name):
    env = gym.make(name).unwrapped
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="without a render mode"):
        assert env.render() is None


@every_id
def test_a_list_of_pictures_comes_from_gymnasium(name):
    env = gym.make(name, render_mode="rgb_array_list")
    env.reset(seed=0)
    env.step(env.action_space.sample())
    assert len(env.render()) == 2


@every_id
def test_a_window_comes_from_gymnasium(name):
    with pytest.warns(UserWarning, match="HumanRendering wrapper is being applied"):
        env = gym.make(name, render_mode="human")
    assert env.render_mode == "human"
    assert env.unwrapped.render_mode == "rgb_array"


# --- determinism -----------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(anything, seeds)
def test_equal_seeds_give_equal_trajectories_and_tasks(setting, seed):
    first, second = scalar_env(setting), scalar_env(setting)
    actions = random_actions(first, 30)
    assert_same(rollout(first, actions, seed=seed), rollout(second, actions, seed=seed))
    assert first.sample_tasks(2) == second.sample_tasks(2)
    assert first.get_task() == second.get_task()
    assert_same(rollout(first, actions, seed=seed), rollout(second, actions, seed=seed))


@settings(max_examples=15)
@given(settings_of_ids, seeds)
def test_different_seeds_give_different_tasks_and_noise(setting, seed):
    env = scalar_env(setting)
    ids, others = (
        [env.reset(seed=seed + k)[1]["task_id"], *(env.reset()[1]["task_id"] for _ in range(5))] for k in (0, 1)
    )
    assert ids != others


@pytest.mark.parametrize("hash_seed", ["0", "4321"])
def test_other_processes_with_other_hash_seeds_get_the_same(hash_seed):
    code = (
        "import json; from tests.strategies import IDS, everything; "
        "print(json.dumps({name: everything(name) for name in IDS}))"
    )
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)}
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(output.stdout) == {name: everything(name) for name in IDS}


@settings(max_examples=20)
@given(anything, seeds)
def test_looking_changes_no_trajectory(setting, seed):
    watched, alone = scalar_env(setting, render_mode="ansi"), scalar_env(setting)
    actions = random_actions(alone, 20)
    expected = rollout(alone, actions, seed=seed)
    actual = [watched.reset(seed=seed)]
    for action in actions:
        watched.sample_tasks(2), watched.get_task(), watched.task, watched.render()
        actual.append(watched.step(action))
        if actual[-1][2] or actual[-1][3]:
            watched.sample_task()
            actual.append(watched.reset())
    assert_same(actual, expected)


def _forbid(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a global random number generator was used")

    for module in (random, np.random):
        for name in dir(module):
            if name[0].islower() and callable(getattr(module, name)) and name not in {"default_rng", "test"}:
                monkeypatch.setattr(module, name, refuse)


@every_setting
def test_no_global_random_number_generator_is_used(setting, monkeypatch):
    actions, both = random_actions(scalar_env(setting), 20), random_actions(vector_env(setting, 2), 20)
    _forbid(monkeypatch)
    with pytest.raises(AssertionError, match="global"):
        np.random.rand()  # noqa: NPY002 (that it is refused is the point)
    env = scalar_env(setting, render_mode="rgb_array")
    rollout(env, actions)
    rollout(env, actions, seed=0)
    env.set_task(env.sample_task())
    env.reset()
    env.render()
    vector = vector_env(setting, 2)
    rollout(vector, both)
    rollout(vector, both, seed=0)
    vector.sample_tasks(3)


@every_setting
def test_the_tasks_of_later_trials_do_not_depend_on_how_long_earlier_ones_lasted(setting):
    patient, hasty = scalar_env(setting), scalar_env(setting)
    patient.reset(seed=5)
    hasty.reset(seed=5)
    for trial, action in enumerate(random_actions(patient, 6)):
        for _ in range(trial):
            patient.step(action)
        patient.reset()
        hasty.reset()
        assert patient.get_task() == hasty.get_task()


@every_setting
def test_the_task_set_does_not_move_the_other_streams(setting):
    pinned, free = scalar_env(setting), scalar_env(setting)
    task = free.sample_task()
    pinned.set_task(task)
    pinned.reset(seed=1)
    free.reset(seed=1, options={"task": task})
    actions = random_actions(free, 15)
    # Both have played one set task: the next drawn one is the first of the stream, and the noise is the same.
    for action in actions:
        assert_same(pinned.step(action), free.step(action))
    pinned.set_task(None)
    assert_same(pinned.reset(), free.reset())
    assert pinned.get_task() == scalar_first_task(setting, 1)


def scalar_first_task(setting, seed):
    env = scalar_env(setting)
    env.reset(seed=seed)
    return env.get_task()


# --- observations, rewards, memory -----------------------------------------------------------------------------------


@every_setting
def test_observations_stay_in_their_space_and_rewards_finite_for_100_000_steps(setting):
    env = vector_env(setting, 500, autoreset_mode=AutoresetMode.SAME_STEP)
    space = env.single_observation_space
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    is_box = isinstance(env.single_action_space, gym.spaces.Box)
    # Half of the rows push one way all the time, to get as far as the space claims one can get.
    push = np.where(np.arange(500)[:, None] < 250, 1e3, 0.0) * rng.choice([-1.0, 1.0], (500, 2)) if is_box else 0
    for _ in range(200):
        low = rng.uniform(-2.0, 2.0, (500, 2)) + push if is_box else rng.integers(0, env.single_action_space.n, 500)
        observation, reward, *_, infos = env.step(low)
        assert observation.dtype == space.dtype
        if isinstance(space, gym.spaces.Box):
            assert ((observation >= space.low) & (observation <= space.high)).all()
        else:
            assert ((observation >= 0) & (observation < space.n)).all()
        assert np.isfinite(reward).all()
        for final in infos.get("final_obs", np.array([]))[infos.get("_final_obs", np.array([], bool))][:5]:
            assert final in space


@every_id
def test_no_bounded_quantity_has_infinite_bounds(name):
    env = gym.make(name)
    for space in (env.observation_space, env.action_space, *env.unwrapped.task_space.values()):
        if isinstance(space, gym.spaces.Box):
            assert space.is_bounded()


@settings(max_examples=20)
@given(anything, seeds)
def test_what_a_scalar_env_returns_is_never_changed_later_nor_shared(setting, seed):
    env = scalar_env(setting, reveal_task=True)
    results = rollout(env, random_actions(env, 15), seed=seed)
    copies = copy.deepcopy(results)
    rollout(env, random_actions(env, 20, seed=1))
    assert_same(results, copies)
    arrays = [array for array in arrays_in(results) if array.size]
    assert not any(np.shares_memory(a, b) for index, a in enumerate(arrays) for b in arrays[:index])
    before = env.get_task()
    for array in arrays:
        array[...] = 0
    assert env.get_task() == before


@every_id
def test_options_and_actions_are_not_changed(name):
    env = gym.make(name).unwrapped
    options = {"task": env.sample_task()}
    env.reset(seed=0, options=options)
    assert set(options) == {"task"}
    action = env.action_space.sample()
    before = copy.deepcopy(action)
    env.step(action)
    assert data_equivalence(action, before)


# --- tasks -----------------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(anything, seeds)
def test_a_task_set_is_the_task_played_from_the_next_reset_until_it_is_unset(setting, seed):
    env = scalar_env(setting)
    env.reset(seed=seed)
    first, task = env.get_task(), env.sample_task()
    env.set_task(dict(task))
    assert env.get_task() == env.task == first
    env.step(env.action_space.sample())
    assert env.task == first
    for _ in range(3):
        assert env.reset()[1]["task_id"] == task.id
        assert env.task == task
    other = env.sample_task()
    env.reset(options={"task": other})
    assert env.task == other
    env.reset(options={"repeat_task": True})
    assert env.task == other
    env.reset()
    assert env.task == task
    env.task = None
    env.reset()
    expected = scalar_env(setting)
    expected.reset(seed=seed)
    expected.reset()
    assert env.task == expected.task


@settings(max_examples=20)
@given(anything, seeds)
def test_sampled_tasks_lie_in_the_task_space_and_survive_every_round_trip(setting, seed):
    env = scalar_env(setting)
    env.reset(seed=seed)
    task = env.sample_task()
    assert {key: _plain(env.task_space[key], value) for key, value in task.items()} in env.task_space
    assert task in env.task_distribution
    assert metagym.Task.from_json(task.to_json()) == pickle.loads(pickle.dumps(task)) == task  # noqa: S301
    assert env.task_distribution.coerce(task) == env.task_distribution.coerce(dict(task)) == task
    (column,) = (env.family.params_of([task]),)
    assert all(np.array_equal(column.columns()[key][0], task[key]) for key in task)


def _plain(space, value):
    return value[()] if isinstance(space, gym.spaces.Discrete) else value


@every_id
def test_the_revealed_task_is_the_task_played_at_every_step(name):
    env = gym.make(name, reveal_task=True).unwrapped
    _, info = env.reset(seed=0)
    for action in random_actions(env, 5):
        task = env.get_task()
        assert_same(info["task"], {key: np.array(value) for key, value in task.items()})
        *_, info = env.step(action)


@every_id
def test_the_first_observation_does_not_tell_the_task(name):
    env = gym.make_vec(name, num_envs=400)
    observation, infos = env.reset(seed=0)
    assert len(np.unique(infos["task_id"])) > 100
    assert len(np.unique(observation, axis=0)) == 1


@every_id
@pytest.mark.parametrize("split", ["train", "test", "ood", None])
def test_the_split_keyword_of_make_and_make_vec_gives_that_part(name, split):
    kwargs = {"size": 3} if "Lake" in name else {}
    envs = [gym.make(name, split=split, **kwargs), gym.make_vec(name, num_envs=64, split=split, **kwargs)]
    expected = metagym.TaskDistribution(make_family(name, **kwargs)).part(split)
    for env in envs:
        distribution = env.unwrapped.task_distribution
        assert repr(distribution) == repr(expected)
        tasks = env.unwrapped.sample_tasks(50)
        env.reset(seed=0)
        tasks += env.unwrapped.get_tasks() if hasattr(env, "num_envs") else [env.unwrapped.get_task()]
        assert all(task in expected for task in tasks)
        if split in {"train", "test"}:
            other = metagym.TaskDistribution(make_family(name, **kwargs)).part(
                {"train": "test", "test": "train"}[split]
            )
            assert not any(task in other for task in tasks)


# --- specs and copies ------------------------------------------------------------------------------------------------


@every_setting
def test_specs_survive_json_and_make_the_same_env(setting):
    name, kwargs = setting
    env = gym.make(name, split="test", **kwargs)
    again = EnvSpec.from_json(env.spec.to_json())
    # Tuples become lists in JSON; all else is equal.
    assert json.loads(again.to_json()) == json.loads(env.spec.to_json())
    actions = random_actions(env, 10)
    expected = rollout(env.unwrapped, actions, seed=1)
    for spec in (env.spec, again):
        made = gym.make(spec)
        assert made.spec == spec or made.spec.to_json() == spec.to_json()
        assert_same(rollout(made.unwrapped, actions, seed=1), expected)


@every_id
def test_vector_specs_make_the_same_env(name):
    env = gym.make_vec(name, num_envs=3, autoreset_mode=AutoresetMode.SAME_STEP, split="test")
    again = gym.make_vec(env.spec, num_envs=3)
    assert again.spec == env.spec
    assert again.autoreset_mode is AutoresetMode.SAME_STEP
    actions = random_actions(env, 10)
    assert_same(rollout(again, actions, seed=0), rollout(env, actions, seed=0))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: cloudpickle.loads(cloudpickle.dumps(env)),
                                    lambda env: pickle.loads(pickle.dumps(env))])  # fmt: skip  # noqa: S301
@pytest.mark.parametrize("setting", [*SETTINGS, *FAMILIES], ids=str)
def test_a_copy_in_mid_episode_continues_identically_and_apart(setting, copied):
    env = scalar_env(setting)
    env.reset(seed=0)
    env.set_task(env.sample_task())
    env.step(env.action_space.sample())
    other, spoiled = copied(env), copied(env)
    spoiled.reset(seed=9)
    spoiled.set_task(None)
    actions = random_actions(env, 20)
    step = lambda one: [
        one.step(actions[0]),
        rollout(one, actions),
        one.sample_tasks(2),
        one.set_task(None),
        one.reset(),
    ]  # noqa: E731, E501
    assert_same(step(other)[:2], step(env)[:2])
    assert other.sample_tasks(2) == env.sample_tasks(2)


@pytest.mark.parametrize("mode", MODES)
@every_id
def test_gymnasiums_checkers_accept_the_envs_inside_sync_vector_envs(name, mode):
    env = make_sync(name, 2, mode)
    env.reset(seed=0)
    assert env.metadata["autoreset_mode"] is mode
    assert "autoreset_mode" not in metagym.TaskEnv.metadata
    env.close()


# --- golden values ---------------------------------------------------------------------------------------------------

GOLDEN = Path(__file__).with_name("golden.json")


def golden():
    """What seeds 0..9 give, by id: a change of these asks for a new version of the id."""
    return {label(setting): _golden(setting) for setting in SETTINGS if setting[1].get("variant") != "semicircle"}


def _golden(setting):
    ids = []
    for split in ("train", "test"):
        env = scalar_env(setting, split=split)
        for seed in range(10):
            ids += [env.reset(seed=seed)[1]["task_id"], env.sample_task().id]
    env = scalar_env(setting)
    results = rollout(env, _actions_of(env), seed=0)
    rewards = [result[1] for result in results if len(result) == 5]
    last = np.asarray(results[-1][0]).tolist()
    return {"ids": ids, "rewards": rewards, "steps_and_resets": len(results), "last": last}


def _actions_of(env):
    # Written out, since Gymnasium may change how spaces draw.
    if isinstance(env.action_space, gym.spaces.Discrete):
        return [step * 7 % 5 % int(env.action_space.n) for step in range(40)]
    return [np.array([((step * 7) % 11 - 5) / 64, ((step * 5) % 13 - 6) / 64]) for step in range(40)]


def test_golden_tasks_and_trajectories_are_unchanged():
    assert golden() == json.loads(GOLDEN.read_text())
