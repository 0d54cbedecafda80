"""Splits, trials and revealed tasks of every id."""

import gymnasium as gym
import numpy as np
import pytest

import metagym
from metagym import ConfigError, TaskDistribution
from metagym.registry import make_family
from metagym.wrappers import RL2Context, Trial
from tests.exemptions import FEW_TASKS, NO_OOD
from tests.parity import assert_same
from tests.strategies import EVERY_ID, SIMULATED, random_actions, some_ids


@some_ids(EVERY_ID)
@pytest.mark.parametrize("split", ["train", "test", "ood", None])
def test_the_split_keyword_of_make_and_make_vec_gives_that_part(name, split):
    if split == "ood" and name in NO_OOD:
        with pytest.raises(ConfigError, match="ood"):
            gym.make(name, split=split).reset()
        return
    whole = TaskDistribution(make_family(name))
    if split == "test" and whole.family.unsplit is not None:
        with pytest.raises(ConfigError, match="no test part"):
            gym.make(name, split=split)
        return
    envs = [gym.make(name, split=split), gym.make_vec(name, num_envs=16, split=split)]
    expected = whole.part(split)
    for env in envs:
        assert repr(env.unwrapped.task_distribution) == repr(expected)
        tasks = env.unwrapped.sample_tasks(20)
        env.reset(seed=0)
        tasks += env.unwrapped.get_tasks() if hasattr(env, "num_envs") else [env.unwrapped.get_task()]
        assert all(task in expected for task in tasks)
        if split in {"train", "test"} and whole.family.unsplit is None:
            other = whole.part({"train": "test", "test": "train"}[split])
            assert not any(task in other for task in tasks)


@some_ids(EVERY_ID)
def test_ten_thousand_structures_of_train_and_test_are_apart(name):
    family = make_family(name)
    if family.unsplit is not None:
        pytest.skip(family.unsplit)
    whole = TaskDistribution(family)
    rng = np.random.default_rng(0)
    found = []
    for split in ("train", "test"):
        columns = whole.split(split).draw(rng.integers(0, 2**64, 5000, dtype=np.uint64))[0].columns()
        rows = zip(
            *(np.ascontiguousarray(columns[field]).reshape(5000, -1) for field in family.structural), strict=True
        )
        found.append({b"".join(part.tobytes() for part in row) for row in rows})

    assert found[0] & found[1] == set()
    assert min(map(len, found)) >= 1
    assert name in FEW_TASKS or len(found[0]) > 1


@some_ids(EVERY_ID)
def test_the_revealed_task_is_the_task_played_at_every_step(name):
    env = gym.make(name, reveal_task=True).unwrapped
    _, info = env.reset(seed=0)
    for action in random_actions(env, 3):
        task = env.get_task()
        assert_same(info["task"], {key: np.array(value) for key, value in task.items()})
        *_, info = env.step(action)


@some_ids(EVERY_ID)
def test_options_and_actions_are_not_changed(name):
    env = gym.make(name).unwrapped
    options = {"task": env.sample_task()}
    env.reset(seed=0, options=options)
    assert set(options) == {"task"}
    action = env.action_space.sample()
    before = np.array(action)
    env.step(action)
    assert np.array_equal(action, before)


@some_ids(EVERY_ID)
def test_a_trial_holds_its_episodes_of_one_task_and_tells_of_each(name):
    episodes, limit = 3, 4
    env = Trial(gym.make(name, max_episode_steps=limit), episodes_per_trial=episodes)
    env.action_space.seed(0)
    for seed in (5, None):
        _, info = env.reset(seed=seed)
        task, over, log, total, length = env.get_task(), False, [], 0.0, 0
        assert (info["trial_start"], info["episode_start"], info["trial_episode"]) == (True, True, 0)
        while not over:
            _, reward, over, truncated, info = env.step(env.action_space.sample())
            total, length = total + reward, length + 1
            assert not truncated
            assert info["trial_start"] is False
            assert info["task_id"] == task.id
            assert env.get_task() == task
            assert info["episode_end"] == (info["episode_start"] or over)
            if info["episode_end"]:
                assert (info["last_episode_return"], info["last_episode_length"]) == (total, length)
                log.append(info["trial_episode"])
                total, length = 0.0, 0
        assert log == list(range(episodes))


@some_ids(EVERY_ID)
def test_rl2_sees_the_last_action_reward_and_boundary_across_episodes(name):
    num_steps = 9
    env = RL2Context(Trial(gym.make(name, max_episode_steps=3), steps_per_trial=num_steps))
    width = gym.spaces.flatdim(env.action_space)
    seen, _ = env.reset(seed=1)
    env.action_space.seed(1)
    assert seen[-1] == 1.0
    assert not seen[-width - 2 : -1].any()
    for step in range(1, num_steps + 1):
        action = env.action_space.sample()
        seen, reward, over, _, info = env.step(action)
        assert over == (step == num_steps)
        assert seen[-1] == float(info["episode_start"])
        assert seen[-2] == np.float32(reward)
        assert np.array_equal(seen[-width - 2 : -2], gym.spaces.flatten(env.action_space, action).astype(np.float32))


@some_ids(EVERY_ID)
def test_tasks_of_later_trials_do_not_depend_on_how_long_earlier_ones_lasted(name):
    if name in FEW_TASKS:
        pytest.skip(FEW_TASKS[name])
    patient, hasty = gym.make(name).unwrapped, gym.make(name).unwrapped
    ids = [patient.reset(seed=5)[1]["task_id"]]
    assert hasty.reset(seed=5)[1]["task_id"] == ids[0]
    for trial, action in enumerate(random_actions(patient, 4)):
        for _ in range(trial):
            patient.step(action)
        ids.append(patient.reset()[1]["task_id"])
        assert hasty.reset()[1]["task_id"] == ids[-1]
    assert len(set(ids)) > 1


@some_ids(SIMULATED)
def test_simulated_rows_do_not_depend_on_their_neighbours(name):
    env, alone = gym.make_vec(name, num_envs=3), gym.make_vec(name, num_envs=1)
    tasks = env.unwrapped.sample_tasks(3)
    metagym.set_tasks(env, tasks)
    metagym.set_tasks(alone, tasks[2:])
    first, single = env.reset(seed=[1, 2, 3])[0], alone.reset(seed=[3])[0]
    for actions in random_actions(env, 10):
        assert first[2].tobytes() == single[0].tobytes()
        first, single = env.step(actions)[0], alone.step(actions[2:])[0]
