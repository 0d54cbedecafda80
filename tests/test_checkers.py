"""The checkers of Gymnasium and SB3, pictures, specs and copies, for every registered id."""

import copy
import json
import pickle
import warnings

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as check_env_sb3

import metagym
from tests.exemptions import UNBOUNDED
from tests.parity import MODES, assert_same
from tests.strategies import (
    EVERY_ID,
    FAMILIES,
    IDS,
    PLAIN,
    SETTINGS,
    SIMULATED,
    label,
    make_sync,
    random_actions,
    rollout,
    scalar_env,
    some_ids,
)

every_id = some_ids(EVERY_ID)
every_setting = pytest.mark.parametrize(
    "setting", [*SETTINGS, *((name, {}) for name in PLAIN if name not in IDS)], ids=label
)

# --- the checkers of others ------------------------------------------------------------------------------------------


@every_setting
@pytest.mark.parametrize("reveal_task", [False, True])
def test_gymnasiums_check_env_finds_nothing(setting, reveal_task):
    name, kwargs = setting
    env = gym.make(name, reveal_task=reveal_task, **kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*symmetric and normalized space.*")
        check_env(env.unwrapped)
        # Closing and render modes are checked by making the spec again; Gymnasium remarks on wrapped envs as such.
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version.*")
        check_env(gym.make(name, reveal_task=reveal_task, **kwargs), skip_close_check=True)


@some_ids(SIMULATED)
def test_the_checkers_of_others_find_nothing_in_simulators_but_bounds(name):
    env = gym.make(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert name in UNBOUNDED
        warnings.filterwarnings("ignore", message=".*Box observation space m(ax|in)imum value is -?infinity.*")
        check_env(env.unwrapped)
        warnings.filterwarnings("ignore", message=".*symmetric and normalized Box action space.*")
        check_env_sb3(env, warn=True)


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


# --- specs and copies ------------------------------------------------------------------------------------------------


@every_setting
def test_specs_survive_json_and_make_the_same_env(setting):
    name, kwargs = setting
    env = gym.make(name, split=None, **kwargs)
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
    env = gym.make_vec(name, num_envs=3, autoreset_mode=AutoresetMode.SAME_STEP, split=None)
    again = gym.make_vec(env.spec, num_envs=3)
    assert again.spec == env.spec
    assert again.autoreset_mode is AutoresetMode.SAME_STEP
    actions = random_actions(env, 10)
    assert_same(rollout(again, actions, seed=0), rollout(env, actions, seed=0))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: cloudpickle.loads(cloudpickle.dumps(env)),
                                    lambda env: pickle.loads(pickle.dumps(env))])  # fmt: skip
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
    expected, actual = (
        [[one.step(actions[0])], rollout(one, actions), one.sample_tasks(2), one.set_task(None), one.reset()]
        for one in (env, other)
    )
    assert_same(actual, expected)


@pytest.mark.parametrize("mode", MODES)
@every_id
def test_gymnasiums_checkers_accept_the_envs_inside_sync_vector_envs(name, mode):
    env = make_sync(name, 2, mode)
    env.reset(seed=0)
    assert env.metadata["autoreset_mode"] is mode
    assert "autoreset_mode" not in metagym.TaskEnv.metadata
    env.close()
