"""What holds for every registered id, stated for all families at once; see also the tests in `contract`."""

import copy
import json
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from hypothesis import given, settings

import metagym
from tests.parity import assert_same
from tests.strategies import (
    EVERY_ID,
    IDS,
    SETTINGS,
    SIMULATED,
    anything,
    arrays_in,
    everything,
    has_simulator,
    label,
    random_actions,
    rollout,
    scalar_env,
    seeds,
    settings_of_ids,
    vector_env,
)

every_id = pytest.mark.parametrize("name", IDS)
every_setting = pytest.mark.parametrize("setting", SETTINGS, ids=label)

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
def test_other_processes_with_other_hash_seeds_get_the_same_for_every_id(hash_seed):
    names = [name for name in EVERY_ID if has_simulator or name not in SIMULATED]
    code = (
        "import json, sys; from tests.strategies import everything; "
        "print(json.dumps({name: everything(name) for name in json.loads(sys.argv[1])}))"
    )
    root = Path(__file__).parents[1]
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(paths)}
    output = subprocess.run(
        [sys.executable, "-c", code, json.dumps(names)],
        cwd=root, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert json.loads(output.stdout) == {name: everything(name) for name in names}


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


# --- memory -----------------------------------------------------------------------------------------------------------


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
    assert metagym.Task.from_json(task.to_json()) == pickle.loads(pickle.dumps(task)) == task
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
