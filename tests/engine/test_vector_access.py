"""The vector env beyond reset and step: tasks, access by name, copies, checkpoints, and what is refused."""

import copy
import pickle

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import metagym
from metagym.engine import TaskEnv, TaskVectorEnv
from metagym.errors import ConfigError, TaskError
from metagym.registry import make_family
from tests.parity import MODES, Pair, assert_parity, assert_same, disturb
from tests.strategies import (
    random_actions,
    scalar_env,
    vector_env,
)

LAKE = ("MetaFrozenLake-v0", {"episode_length": 7})
POINT = ("MetaPointGoal-v0", {"variant": "pearl", "episode_length": 5})
TINY = ("MetaFrozenLake-v0", {"size": 2})

# --- tasks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_pinned_tasks_survive_three_autoresets_and_go_when_unpinned(mode):
    env = vector_env(TINY, 2, autoreset_mode=mode)
    lake = vector_env(LAKE, 2, autoreset_mode=mode, split="test")
    tasks = lake.sample_tasks(2)
    lake.set_tasks(tasks)
    lake.reset(seed=0)
    num_finished = np.zeros(2, np.int64)
    while (num_finished < 4).any():
        *_, terminated, truncated, infos = lake.step(lake.action_space.sample())
        num_finished += terminated | truncated
        assert infos["task_id"].tolist() == [task.id for task in tasks]
        if mode is AutoresetMode.DISABLED and (terminated | truncated).any():
            lake.reset(options={"reset_mask": terminated | truncated})
    lake.set_tasks([None, None])
    ids = {int(task_id) for _ in range(6) for task_id in lake.reset()[1]["task_id"]}
    assert len(ids) > 6
    env.reset(seed=0)


def test_set_tasks_changes_nothing_before_the_next_reset():
    env = vector_env(LAKE, 2)
    env.reset(seed=0)
    before, new = env.get_tasks(), env.sample_tasks(2)
    env.set_tasks(new)
    assert env.get_tasks() == before
    env.step(np.zeros(2, np.int64))
    assert env.get_tasks() == before
    env.reset(options={"reset_mask": np.array([False, True])})
    assert env.get_tasks() == (before[0], new[1])


def test_env_ids_choose_rows_in_any_order():
    env = vector_env(LAKE, 4)
    first, second = env.sample_tasks(2)
    env.set_tasks([first, second], env_ids=[3, 1])
    env.reset(seed=0)
    tasks = env.get_tasks()
    assert (tasks[3], tasks[1]) == (first, second)
    unpinned = vector_env(LAKE, 4)
    unpinned.reset(seed=0)
    assert (tasks[0], tasks[2]) == (unpinned.get_tasks()[0], unpinned.get_tasks()[2])
    env.set_tasks([first], env_ids=0)
    env.reset()
    assert env.get_tasks()[0] == first


def test_the_sampled_tasks_are_those_of_a_scalar_env_with_the_seed_of_row_0():
    env, scalar = vector_env(LAKE, 3), scalar_env(LAKE)
    env.reset(seed=6)
    scalar.reset(seed=6)
    assert env.sample_tasks(2) + env.sample_tasks(3) == scalar.sample_tasks(5)


def test_drawing_from_a_given_distribution():
    family = make_family("MetaFrozenLake-v0", success_rate=(0.0, 1.0))
    distribution = metagym.TaskDistribution(family).split("test").where(lambda tasks: tasks.success_rate > 0.9)
    env = TaskVectorEnv(family, 5, distribution=distribution)
    env.reset(seed=0)
    assert all(task in distribution for task in env.get_tasks())
    assert_parity(env, lambda: TaskEnv(family, distribution=distribution), num_steps=30)


# --- access by name --------------------------------------------------------------------------------------------------


def test_call_get_attr_and_set_attr_speak_for_every_row():
    env = vector_env(LAKE, 2, render_mode="ansi")
    assert env.get_attr("task") == (None, None)
    task, other = env.sample_tasks(2)
    env.set_attr("task", [task, other])
    env.reset(seed=0)
    assert env.get_attr("task") == env.call("get_task") == (task, other)
    env.set_attr("task", task)
    env.reset()
    assert env.call("task") == (task, task)
    assert env.call("set_task", other) == (None, None)
    env.reset()
    assert env.get_tasks() == (other, other)
    env.call("set_task", task=None)
    env.reset(seed=3)
    assert env.get_tasks() != (other, other)
    assert len(env.call("sample_task")) == 2
    assert env.call("render") == env.render()
    assert env.get_attr("task_space") == (env.single_task_space,) * 2
    assert env.get_attr("render_mode") == ("ansi", "ansi")
    with pytest.raises(ConfigError, match="no 'colour'"):
        env.get_attr("colour")
    with pytest.raises(ConfigError, match=r"only 'task' can be set.*'gravity'"):
        env.set_attr("gravity", 3.0)


@pytest.mark.parametrize("mode", ["ansi", "rgb_array"])
def test_render_gives_one_picture_a_row_equal_to_that_of_the_scalar_env(mode):
    for setting in (LAKE, POINT, ("MetaBandit-v0", {})):
        env = vector_env(setting, 2, render_mode=mode)
        env.reset(seed=0)
        frames = env.render()
        scalars = [scalar_env(setting, render_mode=mode) for _ in range(2)]
        for seed, scalar in enumerate(scalars):
            scalar.reset(seed=seed)
        assert_same(frames, tuple(scalar.render() for scalar in scalars))
    assert vector_env(LAKE, 2).render() == (None, None)


# --- copies and checkpoints ------------------------------------------------------------------------------------------


def _through_state(env):
    other = vector_env(LAKE, env.num_envs, autoreset_mode=env.autoreset_mode)
    other.set_state(env.get_state())
    return other


COPIES = {
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
    "cloudpickle": lambda env: cloudpickle.loads(cloudpickle.dumps(env)),
    "deepcopy": copy.deepcopy,
    "state": _through_state,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", COPIES)
def test_a_copy_made_at_any_time_continues_identically_and_leaves_the_original_alone(name, mode):
    pair, rng = Pair(vector_env(LAKE, 3, autoreset_mode=mode), lambda: scalar_env(LAKE)), np.random.default_rng(1)
    pair.reset(seed=0)
    pair.actual.action_space.seed(0)
    for step in range(60):
        if pair.finished.any():
            pair.reset(reset_mask=pair.finished.copy())
        pair.step(pair.actual.action_space.sample())
        if rng.random() < 0.3:
            disturb(pair, rng)
        if step % 7 == 0:
            abandoned, pair.actual = pair.actual, COPIES[name](pair.actual)
            abandoned.reset(seed=99)
            abandoned.set_tasks([abandoned.sample_tasks(1)[0]] * 3)
            abandoned.step(np.zeros(3, np.int64))


def test_a_copy_made_before_the_first_reset_continues_identically():
    env = vector_env(LAKE, 2)
    env.set_tasks([env.sample_tasks(1)[0], None])
    copies = {name: make(env) for name, make in COPIES.items()}
    expected = (env.reset(), env.step(np.zeros(2, np.int64)), env.sample_tasks(2))
    for name, other in copies.items():
        assert_same((other.reset(), other.step(np.zeros(2, np.int64)), other.sample_tasks(2)), expected, name)


def test_the_state_is_a_flat_dict_of_arrays_that_saves_without_pickles(tmp_path):
    env = vector_env(LAKE, 2)
    env.reset(seed=0)
    np.savez(tmp_path / "state.npz", allow_pickle=False, **env.get_state())
    with np.load(tmp_path / "state.npz", allow_pickle=False) as data:
        restored = vector_env(LAKE, 2)
        restored.set_state(dict(data))
    actions = random_actions(env, 30)
    assert_same([restored.step(action) for action in actions], [env.step(action) for action in actions])


def test_the_state_of_an_env_that_was_not_reset_makes_one_that_needs_a_reset():
    env = vector_env(LAKE, 2)
    state = env.get_state()
    env.reset()
    env.set_state(state)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(2, np.int64))


def test_the_state_of_another_env_is_refused_and_changes_nothing():
    env = vector_env(LAKE, 2)
    env.reset(seed=0)
    before = env.get_state()
    for other in (vector_env(LAKE, 1), vector_env(LAKE, 3), vector_env(POINT, 2), vector_env(TINY, 2)):
        other.reset(seed=1)
        with pytest.raises(ConfigError, match="state"):
            env.set_state(other.get_state())
        assert_same(env.get_state(), before)
    with pytest.raises(ConfigError, match="state"):
        env.set_state({})
    assert_same(env.get_state(), before)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_envs": 0}, "num_envs.*at least 1.*0"),
        ({"num_envs": -3}, "-3"),
        ({"num_envs": 2.0}, r"2\.0"),
        ({"num_envs": True}, "True"),
        ({"num_envs": 2, "autoreset_mode": "sometimes"}, "autoreset_mode='sometimes'.*NEXT_STEP"),
        ({"num_envs": 2, "max_episode_steps": 0}, "max_episode_steps.*at least 1.*0"),
        ({"num_envs": 2, "render_mode": "human"}, "render_mode='human'.*rgb_array"),
        ({"num_envs": 2, "split": "validation"}, "split='validation'.*'train', 'test', 'ood'"),
    ],
)
def test_bad_arguments_are_refused_by_name_value_and_range(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        TaskVectorEnv(make_family("MetaFrozenLake-v0"), **kwargs)


def _good(setting):
    return vector_env(setting, 1).sample_tasks(1)[0]


@pytest.mark.parametrize(
    ("kwargs", "kind", "message"),
    [
        ({"options": {"colour": 1}}, ConfigError, "colour.*accepted.*reset_mask"),
        ({"options": {"reset_mask": [True, False, True]}}, ConfigError, r"boolean array of shape \(3,\)"),
        ({"options": {"reset_mask": np.ones(2, np.bool_)}}, ConfigError, r"\(3,\)"),
        ({"options": {"reset_mask": np.ones(3)}}, ConfigError, "boolean"),
        ({"options": {"reset_mask": np.zeros(3, np.bool_)}}, ConfigError, "no row"),
        ({"options": {"tasks": []}}, ConfigError, "each of 3 rows, got 0"),
        ({"options": {"tasks": _good(LAKE)}}, ConfigError, "each of 3 rows"),
        ({"options": {"tasks": 3}}, ConfigError, "each of 3 rows"),
        ({"options": {"task": _good(LAKE), "tasks": [_good(LAKE)] * 3}}, ConfigError, "either task or tasks"),
        ({"options": {"task": _good(LAKE), "repeat_task": True}}, ConfigError, "repeat_task"),
        ({"options": {"task": _good(POINT)}}, TaskError, "'PointGoal' was given to family 'FrozenLake'"),
        ({"options": {"task": _good(TINY)}}, TaskError, r"\(2, 2\).*\(4, 4\)"),
        ({"options": {"task": 5}}, TypeError, "int"),
        ({"seed": -1}, ConfigError, "-1"),
        ({"seed": 1.5}, ConfigError, r"1\.5"),
        ({"seed": True}, ConfigError, "True"),
        ({"seed": [1, 2]}, ConfigError, "each of 3 rows, got 2"),
        ({"seed": [1, -2, 3]}, ConfigError, "-2"),
        ({"seed": [1, 2.5, 3]}, ConfigError, r"2\.5"),
        ({"seed": "abc"}, ConfigError, "'a"),
    ],
)
def test_a_bad_reset_is_refused_and_changes_nothing(kwargs, kind, message):
    env = vector_env(LAKE, 3)
    env.reset(seed=0)
    env.step(np.zeros(3, np.int64))
    before = env.get_state()
    with pytest.raises(kind, match=message):
        env.reset(**kwargs)
    assert_same(env.get_state(), before)


@pytest.mark.parametrize(
    ("setting", "actions", "message"),
    [
        (LAKE, [0, 1, 4], "0..3.*4"),
        (LAKE, [0, -1, 0], "0..3.*-1"),
        (LAKE, [0, 1], r"\(2,\).*\(3,\)"),
        (LAKE, [0.0, 1.0, 2.0], "integers.*float64"),
        (LAKE, ["a", "b", "c"], "integers"),
        (LAKE, [None, 1, 2], "integers"),
        (LAKE, np.array([1, 2, 2**64 - 1], np.uint64), "0..3"),
        (LAKE, [[0], [1], [2]], r"\(3, 1\)"),
        (POINT, np.zeros((3, 3)), r"\(3, 3\).*\(3, 2\)"),
        (POINT, np.full((3, 2), np.nan), "finite"),
        (POINT, np.full((3, 2), np.inf), "finite"),
        (POINT, [["a", "b"]] * 3, "numbers"),
        (POINT, [[None, 1.0]] * 3, "numbers"),
        (POINT, np.zeros((3, 2), complex), "numbers"),
        (POINT, [[1.0], [1.0, 2.0], [1.0, 2.0]], "numbers"),
    ],
)
def test_a_bad_action_is_refused_and_changes_nothing(setting, actions, message):
    env = vector_env(setting, 3)
    env.reset(seed=0)
    before = env.get_state()
    with pytest.raises(ConfigError, match=message):
        env.step(actions)
    assert_same(env.get_state(), before)


@pytest.mark.parametrize(
    ("args", "kind", "message"),
    [
        (([_good(LAKE)],), ConfigError, "each of 3 rows, got 1"),
        ((_good(LAKE),), ConfigError, "one Task"),
        (([_good(LAKE)], [3]), ConfigError, r"0..2, got \[3\]"),
        (([_good(LAKE)], [-1]), ConfigError, "-1"),
        (([_good(LAKE)], [0.5]), ConfigError, r"0\.5"),
        (([_good(LAKE), None], [1, 1]), ConfigError, "twice"),
        (([_good(LAKE), _good(LAKE), _good(POINT)],), TaskError, "PointGoal"),
        (([_good(LAKE), None, {"map": "nonsense"}],), TaskError, "map"),
        (([_good(LAKE), None, 7],), TypeError, "int"),
    ],
)
def test_bad_tasks_are_refused_and_nothing_is_pinned(args, kind, message):
    env = vector_env(LAKE, 3)
    env.reset(seed=0)
    before = env.get_state()
    with pytest.raises(kind, match=message):
        env.set_tasks(*args)
    assert_same(env.get_state(), before)


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "3", None])
def test_a_bad_number_of_tasks_is_refused_and_the_stream_stays(n):
    env = vector_env(LAKE, 2)
    env.reset(seed=0)
    before = env.get_state()
    with pytest.raises(ConfigError, match=f"at least 1.*{n}"):
        env.sample_tasks(n)
    assert_same(env.get_state(), before)


def test_everything_that_needs_a_reset_says_so():
    env = vector_env(LAKE, 2, render_mode="ansi")
    needs = [
        lambda: env.step(np.zeros(2, np.int64)),
        env.get_tasks,
        env.render,
        lambda: env.reset(options={"reset_mask": np.array([True, False])}),
    ]
    for call in needs:
        with pytest.raises(gym.error.ResetNeeded, match="reset"):
            call()
    with pytest.raises(ConfigError, match="played before"):
        env.reset(options={"repeat_task": True})
    env.reset(seed=0)


def test_a_finished_row_cannot_be_stepped_in_disabled_mode():
    env = vector_env(("MetaBandit-v0", {}), 3, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    env.step(np.zeros(3, np.int64))
    before = env.get_state()
    with pytest.raises(gym.error.ResetNeeded, match=r"\[0, 1, 2\]"):
        env.step(np.zeros(3, np.int64))
    assert_same(env.get_state(), before)
    env.reset(options={"reset_mask": np.array([True, False, True])})
    with pytest.raises(gym.error.ResetNeeded, match=r"\[1\]"):
        env.step(np.zeros(3, np.int64))
    env.reset(options={"reset_mask": np.array([False, True, False])})
    env.step(np.zeros(3, np.int64))


def test_closing_twice_is_fine():
    env = vector_env(LAKE, 2)
    env.reset()
    env.close()
    env.close()
    assert env.closed
