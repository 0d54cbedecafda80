"""The scalar env: what is refused, what needs a reset, where tasks come from."""

import copy

import gymnasium as gym
import numpy as np
import pytest

import metagym
from metagym.engine import TaskEnv
from metagym.envs import FrozenLake, PointGoal
from metagym.errors import ConfigError, TaskError
from tests.parity import assert_same
from tests.strategies import FAMILIES, SETTINGS, random_actions, rollout, scalar_env

LAKE = ("MetaFrozenLake-v0", {"episode_length": 7})
POINT = ("MetaPointGoal-v0", {"variant": "pearl", "episode_length": 5})


def _task(setting):
    return scalar_env(setting).sample_task()


def _future(env):
    """All that the env would do next, found out on a copy."""
    copied = copy.deepcopy(env)
    return rollout(copied, random_actions(copied, 12)), copied.sample_tasks(2), copied.reset(), copied.get_task()


# --- the clock -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 5])
def test_episodes_are_truncated_at_their_length(length):
    env = scalar_env(("MetaPointGoal-v0", {"variant": "pearl", "episode_length": length}))
    for seed in range(2):
        env.reset(seed=seed)
        flags = [env.step(np.zeros(2))[2:4] for _ in range(length)]
        assert flags == [(False, False)] * (length - 1) + [(False, True)]


def test_an_episode_that_terminates_at_its_length_is_not_truncated():
    env = scalar_env(("MetaBandit-v0", {}))
    env.reset(seed=0)
    assert env.step(0)[2:4] == (True, False)


# --- what needs a reset ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", [*SETTINGS, *FAMILIES], ids=str)
def test_everything_that_needs_a_reset_says_so_and_the_task_is_none(setting):
    env = scalar_env(setting, render_mode="ansi")
    assert env.task is None
    for call in (lambda: env.step(env.action_space.sample()), env.get_task, env.render):
        with pytest.raises(gym.error.ResetNeeded, match="reset"):
            call()
    with pytest.raises(ConfigError, match="played before"):
        env.reset(options={"repeat_task": True})
    env.set_task(env.sample_task())
    assert env.task is None
    env.reset()
    assert isinstance(env.task, metagym.Task)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"render_mode": "human"}, "render_mode='human'.*'ansi', 'rgb_array'"),
        ({"render_mode": 3}, "render_mode=3"),
        ({"split": "validation"}, "split='validation'.*'train', 'test', 'ood' and None"),
        ({"split": 3}, "split=3"),
    ],
)
def test_bad_arguments_are_refused(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        TaskEnv(FrozenLake(), **kwargs)


@pytest.mark.parametrize(
    ("setting", "action", "message"),
    [
        (LAKE, 4, r"0\.\.3, got 4"),
        (LAKE, -1, "-1"),
        (LAKE, 2**70, "0..3"),
        (LAKE, 1.0, r"integer, got 1\.0"),
        (LAKE, "1", "integer, got '1'"),
        (LAKE, None, "None"),
        (LAKE, np.array([1]), r"integer, got array\(\[1\]\)"),
        (LAKE, np.nan, "nan"),
        (POINT, np.zeros(3), r"\(2,\)"),
        (POINT, 0.5, r"\(2,\)"),
        (POINT, np.array([np.nan, 0.0]), "finite.*nan"),
        (POINT, np.array([0.0, -np.inf]), "finite.*inf"),
        (POINT, ["a", "b"], "Box.*'a'"),
        (POINT, [None, 0.0], "Box.*None"),
        (POINT, [[0.0], [0.0, 1.0]], "Box"),
        (POINT, np.zeros(2, complex), "Box"),
    ],
)
def test_a_bad_action_is_refused_and_changes_nothing(setting, action, message):
    env = scalar_env(setting)
    env.reset(seed=0)
    expected = _future(env)
    with pytest.raises(ConfigError, match=message):
        env.step(action)
    assert_same(_future(env), expected)


@pytest.mark.parametrize("action", [2, np.int64(2), np.uint8(2), np.array(2), np.int32(2)])
def test_integer_actions_of_any_kind_mean_the_same(action):
    env = scalar_env(LAKE)
    env.reset(seed=0)
    expected = scalar_env(LAKE)
    expected.reset(seed=0)
    assert_same(env.step(action), expected.step(2))


@pytest.mark.parametrize("action", [[9.0, -9.0], (5, -3), np.array([1e30, -1e30], np.float32)])
def test_box_actions_out_of_bounds_are_clipped(action):
    env = scalar_env(POINT)
    env.reset(seed=0)
    expected = scalar_env(POINT)
    expected.reset(seed=0)
    assert_same(env.step(action), expected.step(np.array([0.1, -0.1])))


@pytest.mark.parametrize(
    ("kwargs", "kind", "message"),
    [
        ({"seed": -1}, ConfigError, "non-negative integer.*-1"),
        ({"seed": 1.5}, ConfigError, r"1\.5"),
        ({"seed": "3"}, ConfigError, "'3'"),
        ({"seed": True}, ConfigError, "True"),
        ({"seed": [1]}, ConfigError, r"\[1\]"),
        ({"seed": 3, "options": {"colour": 1}}, ConfigError, "colour.*accepted.*'repeat_task', 'task'"),
        ({"seed": 3, "options": {"reset_mask": np.ones(1, bool)}}, ConfigError, "reset_mask"),
        ({"seed": 3, "options": {"task": _task(POINT)}}, TaskError, "'PointGoal' was given to family 'FrozenLake'"),
        ({"seed": 3, "options": {"task": {"map": "nonsense"}}}, TaskError, "map"),
        ({"seed": 3, "options": {"task": 3}}, TypeError, "int"),
        ({"seed": 3, "options": {"task": _task(LAKE), "repeat_task": True}}, ConfigError, "no other task"),
    ],
)
def test_a_bad_reset_is_refused_and_changes_nothing(kwargs, kind, message):
    env = scalar_env(LAKE)
    env.reset(seed=0)
    env.step(1)
    expected = _future(env)
    with pytest.raises(kind, match=message):
        env.reset(**kwargs)
    assert_same(_future(env), expected)


@pytest.mark.parametrize(
    ("task", "kind", "message"),
    [
        (_task(POINT), TaskError, "PointGoal"),
        ({"map": ["SF", "FG"]}, TaskError, r"map has shape \(2, 2\); accepted is shape \(4, 4\)"),
        ({"map": ["SHHH", "HHHH", "HHHH", "HHHG"]}, TaskError, "path"),
        ({}, TaskError, r"missing \['map'\]"),
        ({**_task(LAKE), "colour": 1}, TaskError, "unknown.*colour"),
        ({**_task(LAKE), "success_rate": np.nan}, TaskError, "success_rate=nan.*0.0, 1.0"),
        ([_task(LAKE)], TypeError, "list"),
        ("task", TypeError, "str"),
    ],
)
@pytest.mark.parametrize("attribute", [False, True])
def test_a_bad_task_is_refused_at_once_and_changes_nothing(task, kind, message, attribute):
    env = scalar_env(LAKE)
    env.set_task(env.sample_task())
    env.reset(seed=0)
    expected = _future(env)
    with pytest.raises(kind, match=message):
        setattr(env, "task", task) if attribute else env.set_task(task)
    assert_same(_future(env), expected)


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "3", None])
def test_a_bad_number_of_tasks_is_refused_and_the_stream_stays(n):
    env = scalar_env(LAKE)
    env.reset(seed=0)
    expected = _future(env)
    with pytest.raises(ConfigError, match=f"at least 1.*{n}"):
        env.sample_tasks(n)
    assert_same(_future(env), expected)


# --- tasks -----------------------------------------------------------------------------------------------------------


def test_an_option_beats_the_pin_and_the_pin_beats_a_draw():
    env = scalar_env(LAKE)
    env.reset(seed=1)  # without a seed, one draw in thirty is a lake that was drawn before: few holes are likely
    pinned, option = env.sample_tasks(2)
    env.set_task(pinned)
    ids = [
        env.reset(seed=0)[1]["task_id"],
        env.reset(options={"task": option})[1]["task_id"],
        env.reset()[1]["task_id"],
    ]
    assert ids == [pinned.id, option.id, pinned.id]
    assert env.reset(options={"task": None})[1]["task_id"] == pinned.id
    env.set_task(None)
    assert env.reset()[1]["task_id"] not in ids


def test_a_pinned_task_outlives_reseeding():
    env = scalar_env(LAKE)
    task = env.sample_task()
    env.set_task(task)
    for seed in (0, 0, None, 7):
        assert env.reset(seed=seed)[1]["task_id"] == task.id


def test_drawing_from_a_given_distribution():
    family = PointGoal()
    right = metagym.TaskDistribution(family).where(lambda tasks: tasks.goal[:, 0] > 0.4)
    env = TaskEnv(family, distribution=right)
    for _ in range(40):
        env.reset()
        assert env.get_task()["goal"][0] > 0.4
    assert env.task_distribution is right
    assert all(task["goal"][0] > 0.4 for task in env.sample_tasks(20))


def test_unseeded_envs_differ():
    ids = [scalar_env(LAKE).reset()[1]["task_id"] for _ in range(6)]
    assert len(set(ids)) > 3
    assert len({scalar_env(LAKE).sample_task().id for _ in range(6)}) > 3


def test_metadata_of_one_env_is_not_that_of_another():
    env = scalar_env(LAKE)
    env.metadata["autoreset_mode"] = "changed"
    assert "autoreset_mode" not in scalar_env(LAKE).metadata
    assert "autoreset_mode" not in TaskEnv.metadata


@pytest.mark.parametrize("seed", [0, np.int64(5), 2**100])
def test_seeds_of_any_size_and_kind_are_accepted(seed):
    env = scalar_env(LAKE)
    assert_same(env.reset(seed=seed), env.reset(seed=int(seed)))
