"""N rows against `SyncVectorEnv` of N scalar envs, bit for bit, and against themselves among other rows."""

import copy
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import TimeLimit

from metagym.engine import row, streams
from tests.parity import MODES, Pair, assert_parity, assert_same
from tests.strategies import (
    FAMILIES,
    IDS,
    SETTINGS,
    arrays_in,
    label,
    make_sync,
    random_actions,
    rollout,
    scalar_env,
    vector_env,
)

LAKE = ("MetaFrozenLake-v0", {"episode_length": 7})
POINT = ("MetaPointGoal-v0", {"variant": "pearl", "episode_length": 5})
TINY = ("MetaFrozenLake-v0", {"size": 2})

# --- against scalar envs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("setting", SETTINGS, ids=label)
def test_rows_equal_scalar_envs_for_every_id_in_every_mode(setting, mode):
    num_finished = assert_parity(vector_env(setting, 3, autoreset_mode=mode), lambda: scalar_env(setting), num_steps=60)
    assert num_finished > 0 or setting[1] == {}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_equal_scalar_envs_for_families_of_users(family, mode):
    env = vector_env(family, 3, autoreset_mode=mode, reveal_task=True)
    assert assert_parity(env, lambda: scalar_env(family, reveal_task=True), num_steps=100) > 10


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_envs", [1, 2, 7])
def test_rows_equal_scalar_envs_whatever_their_number(num_envs, mode):
    env = vector_env(LAKE, num_envs, autoreset_mode=mode)
    assert assert_parity(env, lambda: scalar_env(LAKE), num_steps=60) > 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("setting", [LAKE, POINT, ("MetaBandit-v0", {})], ids=label)
def test_rows_equal_scalar_envs_with_the_task_revealed(setting, mode):
    env = vector_env(setting, 2, autoreset_mode=mode, reveal_task=True)
    assert assert_parity(env, lambda: scalar_env(setting, reveal_task=True), num_steps=60) > 2


@pytest.mark.parametrize("split", ["test", "ood", None])
@pytest.mark.parametrize("setting", [LAKE, POINT], ids=label)
def test_rows_equal_scalar_envs_in_every_split(setting, split):
    assert_parity(vector_env(setting, 2, split=split), lambda: scalar_env(setting, split=split), num_steps=40)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", IDS)
def test_max_episode_steps_of_make_vec_cuts_where_that_of_make_does(name, mode):
    kwargs = {} if "Bandit" in name else {"episode_length": 5}
    for limit in (2, 5, 9):
        env = gym.make_vec(name, num_envs=3, autoreset_mode=mode, max_episode_steps=limit, **kwargs)
        scalar = lambda limit=limit: gym.make(name, max_episode_steps=limit, **kwargs)  # noqa: E731
        assert assert_parity(env, scalar, num_steps=25) > 5


def test_a_time_limit_cuts_rows_that_terminate_as_well_as_gymnasiums_does():
    env = gym.make_vec("MetaBandit-v0", num_envs=2, max_episode_steps=1)
    env.reset(seed=0)
    *_, terminated, truncated, _ = env.step(np.zeros(2, np.int64))
    assert terminated.all()
    assert truncated.all()
    scalar = TimeLimit(scalar_env(("MetaBandit-v0", {})), 1)
    scalar.reset(seed=0)
    assert scalar.step(0)[2:4] == (True, True)


@pytest.mark.parametrize("mode", MODES)
def test_make_vec_sync_and_make_vec_give_the_same(mode):
    ours = gym.make_vec("MetaPointGoal-v0", num_envs=2, autoreset_mode=mode, variant="pearl")
    theirs = make_sync("MetaPointGoal-v0", 2, mode, variant="pearl")
    assert_same(ours.reset(seed=3), theirs.reset(seed=3))
    for action in random_actions(ours, 5):
        assert_same(ours.step(action), theirs.step(action))


# --- how far ahead things are drawn ----------------------------------------------------------------------------------


def _trajectory(setting, num_envs=3):
    env = vector_env(setting, num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
    results = rollout(env, random_actions(env, 60), seed=4)
    env.reset(options={"reset_mask": np.arange(num_envs) == 1})
    return results, env.sample_tasks(3), rollout(env, random_actions(env, 30))


def _scalar_trajectory(setting):
    env = scalar_env(setting)
    results = rollout(env, random_actions(env, 150), seed=4)
    return results, env.sample_tasks(3), rollout(env, random_actions(env, 50))


@pytest.mark.parametrize("setting", [TINY, POINT, *FAMILIES[:2]])
def test_the_depth_of_the_ring_of_tasks_changes_nothing(setting, monkeypatch):
    expected = _trajectory(setting)
    for depth in (1, 2, 5, 64):
        monkeypatch.setattr(streams, "_MAX_DEPTH", depth)
        assert_same(_trajectory(setting), expected)
    monkeypatch.setattr(streams, "_MAX_TASKS", 2)
    assert_same(_trajectory(setting), expected)


@pytest.mark.parametrize("setting", [TINY, POINT, *FAMILIES[:2]])
def test_the_blocks_of_the_scalar_env_change_nothing(setting, monkeypatch):
    expected = _scalar_trajectory(setting)
    for noise_block, task_block in ((1, 1), (2, 3), (7, 64), (4096, 2)):
        monkeypatch.setattr(row, "_NOISE_BLOCK", noise_block)
        monkeypatch.setattr(row, "_TASK_BLOCK", task_block)
        assert_same(_scalar_trajectory(setting), expected)


# --- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", [*SETTINGS, *FAMILIES], ids=str)
def test_row_i_is_the_same_among_any_other_rows(setting):
    seeds = [11, 3, 2**70, 0, 9]
    order = [3, 0, 4, 1, 2]
    large = vector_env(setting, 5, autoreset_mode=AutoresetMode.SAME_STEP)
    actions = random_actions(large, 40)
    expected = rollout(large, actions, seed=seeds)
    permuted = vector_env(setting, 5, autoreset_mode=AutoresetMode.SAME_STEP)
    actual = rollout(permuted, [action[order] for action in actions], seed=[seeds[row] for row in order])
    assert_same(actual, _rows_of(expected, order))
    pair = vector_env(setting, 2, autoreset_mode=AutoresetMode.SAME_STEP)
    chosen = [4, 1]
    actual = rollout(pair, [action[chosen] for action in actions], seed=[seeds[row] for row in chosen])
    assert_same(_dense(actual), _dense(_rows_of(expected, chosen)))


def _rows_of(value, rows):
    if isinstance(value, dict):
        return {key: _rows_of(item, rows) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_rows_of(item, rows) for item in value)
    return value[rows]


def _dense(results):
    # Whether there are final_* keys at all depends on whether any row of the batch finished.
    return [
        (*result[:-1], {key: value for key, value in result[-1].items() if "final" not in key}) for result in results
    ]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("setting", [*SETTINGS, *FAMILIES], ids=str)
def test_nothing_returned_is_changed_later_or_shares_memory_with_another_return(setting, mode):
    env = vector_env(setting, 2, autoreset_mode=mode, reveal_task=True)
    kept = [env.reset(seed=0)]
    for action in random_actions(env, 20):
        kept.append(env.step(action))
        if mode is AutoresetMode.DISABLED:
            kept.append(env.reset(options={"reset_mask": np.array([True, False])}))
            kept.append(env.reset())
    copies = copy.deepcopy(kept)
    rollout(env, random_actions(env, 1))
    env.reset(seed=1)
    assert_same(kept, copies)
    arrays = sorted(((_extent(array), array) for array in arrays_in(kept) if array.size), key=lambda item: item[0])
    for (first, left), (second, right) in pairwise(arrays):
        assert first[1] <= second[0], f"{left!r} and {right!r} share memory"
    for array in arrays_in(kept):
        if array.dtype != object:
            array[...] = 1  # the env does not care what becomes of what it returned
    env.reset(seed=0)
    assert_same(env.reset(seed=0), copies[0])


def _extent(array):
    return np.lib.array_utils.byte_bounds(array)


def test_actions_and_options_are_not_changed():
    env = vector_env(LAKE, 3)
    tasks = [None, env.sample_tasks(1)[0], None]
    options = {"reset_mask": np.array([True, True, True]), "tasks": tasks}
    before = copy.deepcopy(options)
    env.reset(seed=[1, None, 2], options=options)
    assert set(options) == {"reset_mask", "tasks"}
    assert_same(options["reset_mask"], before["reset_mask"])
    assert options["tasks"] is tasks
    assert tasks == before["tasks"]
    for dtype in (np.int64, np.int32, np.uint8):
        actions = np.array([1, 2, 3], dtype)
        env.step(actions)
        assert actions.tolist() == [1, 2, 3]
    point = vector_env(POINT, 2)
    point.reset(seed=0)
    actions = np.full((2, 2), 7.0, np.float32)
    point.step(actions)
    assert (actions == 7.0).all()


@pytest.mark.parametrize("convert", [lambda a: a.astype(np.int32), lambda a: a.astype(np.uint64), lambda a: a.tolist()])
def test_integer_actions_of_any_kind_mean_the_same(convert):
    actual, expected = vector_env(LAKE, 3), vector_env(LAKE, 3)
    actions = random_actions(expected, 10)
    assert_same(rollout(actual, [convert(action) for action in actions], seed=0), rollout(expected, actions, seed=0))


# --- seeds -----------------------------------------------------------------------------------------------------------


def test_an_int_seed_counts_up_over_the_rows():
    env = vector_env(LAKE, 3)
    expected = env.reset(seed=[7, 8, 9])
    assert_same(env.reset(seed=7), expected)
    assert_same(env.reset(seed=np.int64(7)), expected)
    assert_same(env.reset(seed=np.array([7, 8, 9])), expected)


def test_rows_that_are_not_reset_keep_their_streams_though_a_seed_is_given():
    pair = Pair(vector_env(LAKE, 3), lambda: scalar_env(LAKE))
    pair.reset(seed=0)
    pair.reset(seed=5, reset_mask=np.array([False, True, False]))
    for action in random_actions(pair.actual, 30):
        pair.step(action)


def test_fresh_envs_without_a_seed_differ():
    ids = [vector_env(LAKE, 4).reset()[1]["task_id"].tolist() for _ in range(3)]
    assert len({task_id for row in ids for task_id in row}) > 6
