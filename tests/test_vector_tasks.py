"""One task a row in everybody's vector env."""

import functools
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as wrappers
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor, VecNormalize

import metagym
from metagym.errors import ConfigError, TaskError
from metagym.wrappers.sb3 import VectorEnvAdapter

LAKE = "MetaFrozenLake-v0"
KWARGS = {"episode_length": 3, "is_slippery": False}


# Made of names alone: other processes import metagym because the id says so.
_make = functools.partial(gym.make, f"metagym:{LAKE}", **KWARGS)


def _native(mode=AutoresetMode.NEXT_STEP):
    return gym.make_vec(LAKE, num_envs=2, autoreset_mode=mode, **KWARGS)


GYMNASIUM = {
    "native": _native,
    "native, wrapped": lambda: wrappers.RecordEpisodeStatistics(_native()),
    "sync": lambda: SyncVectorEnv([_make] * 2),
    "sync, wrapped": lambda: wrappers.RecordEpisodeStatistics(SyncVectorEnv([_make] * 2)),
    "sync, envs wrapped": lambda: SyncVectorEnv([lambda: gym.wrappers.RecordEpisodeStatistics(_make())] * 2),
    "make_vec sync": lambda: gym.make_vec(LAKE, num_envs=2, vectorization_mode="sync", **KWARGS),
}
SB3 = {
    "dummy": lambda: DummyVecEnv([_make] * 2),
    "dummy, wrapped": lambda: VecMonitor(DummyVecEnv([_make] * 2)),
    "dummy of make_vec_env": lambda: make_vec_env(LAKE, 2, env_kwargs=KWARGS),
    "normalised": lambda: VecNormalize(DummyVecEnv([_make] * 2), norm_obs=False),
    "adapter": lambda: VectorEnvAdapter(_native(AutoresetMode.SAME_STEP)),
}
TASKS = metagym.TaskDistribution(metagym.make_family(LAKE, **KWARGS)).sample(np.random.default_rng(0), 4)


def _ids_of_gymnasium(env, num_steps=8):
    first = env.reset(seed=0)[1]["task_id"].tolist()
    return [first, *(env.step(np.zeros(2, np.int64))[4]["task_id"].tolist() for _ in range(num_steps))]


def _ids_of_sb3(env, num_steps=8):
    env.seed(0)
    env.reset()
    ids = []
    for _ in range(num_steps):
        infos = env.step(np.zeros(2, np.int64))[3]
        # The adapter fills the infos of rows that finished alone; the others are in those of their reset.
        at_reset = env.unwrapped.reset_infos
        ids.append([(info if "task_id" in info else at_reset[row])["task_id"] for row, info in enumerate(infos)])
    return ids


def _check(env, ids_of):
    first, second = [task.id for task in TASKS[:2]], [task.id for task in TASKS[2:]]
    metagym.set_tasks(env, TASKS[:2])
    assert all(ids == first for ids in ids_of(env))  # through several autoresets
    metagym.set_tasks(env, tuple(TASKS[2:]))
    assert all(ids == second for ids in ids_of(env))
    metagym.set_tasks(env, [TASKS[0], None])
    ids = ids_of(env)
    assert {row[0] for row in ids} == {first[0]}
    assert not {row[1] for row in ids} & {*first, *second}


@pytest.mark.parametrize("name", GYMNASIUM)
def test_vector_envs_of_gymnasium(name):
    _check(GYMNASIUM[name](), _ids_of_gymnasium)


@pytest.mark.parametrize("name", SB3)
def test_vec_envs_of_sb3(name):
    _check(SB3[name](), _ids_of_sb3)


@pytest.mark.parametrize("context", ["forkserver", "spawn"])
def test_async_vector_env_in_other_processes(context):
    env = AsyncVectorEnv([_make] * 2, context=context)
    try:
        _check(env, _ids_of_gymnasium)
        sync = SyncVectorEnv([_make] * 2)
        metagym.set_tasks(sync, [None, None])
        metagym.set_tasks(env, [None, None])
        assert _ids_of_gymnasium(env) == _ids_of_gymnasium(sync)
    finally:
        env.close()


@pytest.mark.parametrize("start_method", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_subproc_vec_env_in_other_processes(start_method):
    env = SubprocVecEnv([_make] * 2, start_method=start_method)
    try:
        _check(env, _ids_of_sb3)
    finally:
        env.close()


@pytest.mark.parametrize("make", [*GYMNASIUM.values(), *SB3.values()])
def test_wrong_numbers_and_kinds_of_tasks_are_refused(make):
    env = make()
    for tasks, given in (([TASKS[0]], "1 tasks"), (TASKS[:3], "3 tasks"), (TASKS[0], "one Task"), ([], "0 tasks")):
        with pytest.raises(ConfigError, match=f"each of 2 rows, got {given}"):
            metagym.set_tasks(env, tasks)
    for tasks in ({"map": 1, "x": 2}, 3, None, "ab", iter(TASKS[:2])):
        with pytest.raises(ConfigError, match="list of one task for each of 2 rows"):
            metagym.set_tasks(env, tasks)
    with pytest.raises(TaskError, match="'Other'"):
        metagym.set_tasks(env, [TASKS[0], metagym.Task("Other", TASKS[0])])


@pytest.mark.parametrize("env", [None, 3, "MetaFrozenLake-v0", _make(), SimpleNamespace(num_envs=2)])
def test_what_is_no_vector_env_is_refused(env):
    with pytest.raises(ConfigError, match="vector env of Gymnasium, SB3 or metagym"):
        metagym.set_tasks(env, TASKS[:2])


def test_vector_envs_without_tasks_are_refused():
    for make in (
        lambda: SyncVectorEnv([lambda: gym.make("FrozenLake-v1")] * 2),
        lambda: gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="vector_entry_point"),
        lambda: DummyVecEnv([lambda: gym.make("FrozenLake-v1")] * 2),
    ):
        with pytest.raises(ConfigError, match=r"have no tasks|cannot be given tasks"):
            metagym.set_tasks(make(), TASKS[:2])
