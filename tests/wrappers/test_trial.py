import json
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common import env_checker as sb3_checker
from stable_baselines3.common.vec_env import DummyVecEnv

import metagym
from metagym.engine import RowsVectorEnv
from metagym.errors import ConfigError
from metagym.wrappers import RevealTask, RL2Context, Trial

RIGHT, DOWN = 2, 1
POND = {"map": ["SF", "FG"], "success_rate": 1.0}
OTHER_POND = {"map": ["SH", "FG"], "success_rate": 1.0}
BASE_KEYS = {"task_id", "trial_start", "is_success"}
TRIAL_KEYS = {"episode_start", "episode_end", "trial_episode", "last_episode_return", "last_episode_length"}


def make(**kwargs):
    return gym.make("MetaFrozenLake-v0", **kwargs)


def make_rows(num_envs=3, mode=AutoresetMode.SAME_STEP, **kwargs):
    return gym.make_vec("MetaFrozenLake-v0", num_envs=num_envs, autoreset_mode=mode, **kwargs)


def pond(episode_length=None):
    """A deterministic lake of two by two: right, down is the goal."""
    env = make(size=2, is_slippery=False, split=None, episode_length=episode_length)
    env.unwrapped.set_task({"map": POND["map"]})
    return env


def wrapped_all(env, **kwargs):
    return RevealTask(RL2Context(Trial(env, **(kwargs or {"episodes_per_trial": 3}))))


# --- what a trial is ---------------------------------------------------------------------------------------------


def test_two_episodes_by_hand():
    env = Trial(pond(episode_length=3), episodes_per_trial=2)
    observation, info = env.reset(seed=0)
    task_id = info["task_id"]
    blank = {"episode_end": False, "trial_episode": 0, "last_episode_return": 0.0, "last_episode_length": 0}
    assert observation == 0
    assert info == {"task_id": task_id, "trial_start": True, "is_success": False, "episode_start": True, **blank}
    base = {"task_id": task_id, "trial_start": False, "is_success": False, "episode_start": False}
    assert env.step(RIGHT) == (1, 0.0, False, False, {**base, **blank})
    won = {"is_success": True, "episode_start": True, "episode_end": True}
    record = {"trial_episode": 0, "last_episode_return": 1.0, "last_episode_length": 2}
    assert env.step(DOWN) == (0, 1.0, False, False, {**base, **won, **record})
    blank["trial_episode"] = 1
    assert env.step(RIGHT) == (1, 0.0, False, False, {**base, **blank})
    assert env.step(RIGHT) == (1, 0.0, False, False, {**base, **blank})
    cut = {"episode_end": True, "trial_episode": 1, "last_episode_return": 0.0, "last_episode_length": 3}
    assert env.step(RIGHT) == (1, 0.0, True, False, {**base, **cut})


def test_a_trial_of_three_steps_cuts_its_second_episode():
    env = Trial(pond(), steps_per_trial=3)
    env.reset(seed=0)
    assert env.step(RIGHT)[2:4] == (False, False)
    assert env.step(DOWN)[:4] == (0, 1.0, False, False)
    observation, reward, terminated, truncated, info = env.step(RIGHT)
    assert (observation, reward, terminated, truncated) == (1, 0.0, True, False)
    assert info["episode_end"]
    assert not info["episode_start"]
    assert (info["trial_episode"], info["last_episode_return"], info["last_episode_length"]) == (1, 0.0, 1)


def test_an_episode_that_ends_with_the_steps_of_the_trial_counts_once():
    env = Trial(pond(), steps_per_trial=2)
    env.reset(seed=0)
    env.step(RIGHT)
    observation, _, terminated, _, info = env.step(DOWN)
    assert observation == 3
    assert terminated
    assert (info["episode_end"], info["episode_start"], info["last_episode_length"]) == (True, False, 2)


def test_infos_have_python_types_and_the_same_keys_at_reset_and_at_every_step():
    env = Trial(make(episode_length=5), episodes_per_trial=2)
    _, first = env.reset(seed=3)
    env.action_space.seed(3)
    terminated = False
    while not terminated:
        *_, terminated, truncated, info = env.step(env.action_space.sample())
        assert (type(terminated), type(truncated)) == (bool, bool)
        assert {key: type(value) for key, value in info.items()} == {key: type(first[key]) for key in info}
        assert set(info) == set(first) == BASE_KEYS | TRIAL_KEYS
    assert isinstance(info["last_episode_return"], float)
    assert isinstance(info["last_episode_length"], int)


def test_no_return_yet_is_a_plain_zero_where_rewards_are_negative():
    env = Trial(gym.make("MetaPointGoal-v0"), steps_per_trial=3)
    env.reset(seed=0)
    action = np.zeros(2, np.float32)
    steps = [env.step(action) for _ in range(3)]
    assert all(reward < 0.0 for _, reward, *_ in steps)
    returns = [info["last_episode_return"] for *_, info in steps]
    assert [str(value) for value in returns[:2]] == ["0.0", "0.0"]
    assert returns[2] == sum(reward for _, reward, *_ in steps)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    budget=st.one_of(
        st.integers(1, 4).map(lambda count: {"episodes_per_trial": count}),
        st.integers(1, 15).map(lambda count: {"steps_per_trial": count}),
    ),
    actions=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    episode_length=st.integers(1, 6),
)
def test_a_trial_is_the_bare_env_reset_with_repeat_task_by_hand(seed, budget, actions, episode_length):
    env = Trial(make(size=3, episode_length=episode_length), **budget)
    bare = make(size=3, episode_length=episode_length).unwrapped
    episodes, steps = budget.get("episodes_per_trial"), budget.get("steps_per_trial")
    observation, info = env.reset(seed=seed)
    expected, _ = bare.reset(seed=seed)
    assert observation == expected
    count, index, rewards, is_over = 0, 0, [], False
    for action in actions:
        if is_over:
            expected, _ = bare.reset()
            observation, info = env.reset()
            assert (observation, info["task_id"], info["trial_start"]) == (expected, bare.get_task().id, True)
            count, index, rewards = 0, 0, []
        observation, reward, is_over, truncated, info = env.step(action)
        expected, expected_reward, terminated, cut, plain = bare.step(action)
        count, rewards = count + 1, [*rewards, expected_reward]
        ends = terminated or cut
        over = count == steps or (ends and index + 1 == episodes)
        if ends and not over:
            expected, _ = bare.reset(options={"repeat_task": True})
        assert (observation, reward, is_over, truncated) == (expected, expected_reward, over, False)
        closed = ends or over
        assert info == {
            **plain,
            "episode_start": ends and not over,
            "episode_end": closed,
            "trial_episode": index,
            "last_episode_return": sum(rewards) if closed else 0.0,
            "last_episode_length": len(rewards) if closed else 0,
        }
        if closed:
            index, rewards = index + 1, []


# --- tasks -------------------------------------------------------------------------------------------------------


def play_trial(env):
    """Task ids seen in one trial, from its reset on."""
    _, info = env.reset()
    ids, terminated = [info["task_id"]], False
    while not terminated:
        *_, terminated, _, info = env.step(env.action_space.sample())
        ids.append(info["task_id"])
    return ids


def test_the_task_is_constant_within_a_trial_and_repeated_episodes_leave_the_task_stream_alone():
    env, bare = Trial(make(), episodes_per_trial=4), make()
    env.action_space.seed(0)
    env.reset(seed=5)
    bare.reset(seed=5)
    for _ in range(8):
        ids = set(play_trial(env))
        assert ids == {bare.reset()[1]["task_id"]}
    assert len({play_trial(env)[0] for _ in range(8)}) > 1


def test_a_task_set_within_a_trial_waits_for_the_next_trial():
    env = Trial(make(size=2, split=None), episodes_per_trial=3)
    env.action_space.seed(0)
    env.reset(seed=0, options={"task": POND})
    first = env.get_task()
    env.set_task(OTHER_POND)
    terminated = False
    while not terminated:
        assert env.get_task() == first
        *_, terminated, _, _ = env.step(env.action_space.sample())
    env.reset()
    assert env.get_task() == env.task_distribution.coerce(OTHER_POND)
    env.reset(options={"task": POND})
    assert env.get_task() == first
    env.reset()
    assert env.task == env.task_distribution.coerce(OTHER_POND)
    env.task = None
    assert len({env.reset()[1]["task_id"] for _ in range(20)}) > 1


def test_a_reset_may_repeat_the_task_for_a_whole_trial():
    env = Trial(make(), episodes_per_trial=2)
    _, info = env.reset(seed=1)
    _, again = env.reset(options={"repeat_task": True})
    assert again == info


def test_scalar_wrappers_forward_the_tasks_of_the_env():
    env = wrapped_all(make(size=2, split=None))
    assert env.task is None
    task = env.sample_task()
    assert env.sample_tasks(2)[0].family == "FrozenLake"
    env.set_task(task)
    env.reset(seed=0)
    assert env.get_task() == env.task == task
    assert env.family is env.unwrapped.family
    assert env.task_space == env.unwrapped.task_space
    assert env.task_distribution is env.unwrapped.task_distribution


def test_tasks_of_single_rows_reach_through_gymnasiums_and_sb3s_vector_envs():
    makers = [lambda: wrapped_all(make(size=2, split=None))] * 2
    tasks = make(size=2, split=None).unwrapped.sample_tasks(2)
    rows = SyncVectorEnv(makers)
    rows.set_attr("task", tasks)
    rows.reset(seed=0)
    assert rows.get_attr("task") == tuple(tasks)
    dummy = DummyVecEnv(makers)
    for row, task in enumerate(tasks):
        dummy.env_method("set_task", task, indices=row)
    dummy.reset()
    assert dummy.get_attr("task") == tasks
    dummy.set_attr("task", tasks[0])  # lands on the outermost wrapper, which passes it on
    dummy.reset()
    assert dummy.get_attr("task") == [tasks[0]] * 2


def test_rows_forward_everything_of_the_vector_env():
    inner = make_rows(render_mode="ansi")
    env = wrapped_all(inner)
    assert isinstance(env, RowsVectorEnv)
    assert env.unwrapped is inner
    assert env.family is inner.family
    assert env.task_distribution is inner.task_distribution
    assert env.single_task_space is inner.single_task_space
    assert env.spec is inner.spec
    assert env.render_mode == "ansi"
    assert env.autoreset_mode is env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert env.metadata["render_modes"] == inner.metadata["render_modes"]
    assert env.get_attr("task") == (None,) * 3
    env.set_tasks(env.sample_tasks(2), [0, 2])
    env.reset(seed=0)
    assert env.get_attr("task") == env.call("get_task") == env.get_tasks() == inner.get_tasks()
    env.set_attr("task", env.get_tasks()[0])
    env.reset()
    assert len(set(env.get_tasks())) == 1
    assert env.call("episodes_per_trial") == (3, 3, 3)
    assert env.get_attr("steps_per_trial") == (None,) * 3
    assert env.call("observation_space") == (env.single_observation_space,) * 3
    assert env.get_attr("task_space") == (inner.single_task_space,) * 3
    assert env.render() == env.call("render") == inner.render()
    with pytest.raises(ConfigError, match="no_such"):
        env.get_attr("no_such")
    env.close()
    assert inner.closed


def test_wrappers_for_gymnasium_need_neither_torch_nor_sb3():
    code = "import sys, metagym.wrappers as w; w.Trial; assert not {'torch', 'stable_baselines3'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no_such"):
        _ = metagym.wrappers.no_such


# --- other wrappers ----------------------------------------------------------------------------------------------


def test_a_time_limit_inside_ends_episodes_and_one_outside_truncates_the_trial():
    env = TimeLimit(Trial(gym.make("MetaFrozenLake-v0", max_episode_steps=1), episodes_per_trial=9), 3)
    env.reset(seed=0)
    first, second, third = env.step(0), env.step(0), env.step(0)
    assert [step[4]["last_episode_length"] for step in (first, second, third)] == [1, 1, 1]
    assert (first[2:4], second[2:4], third[2:4]) == ((False, False), (False, False), (False, True))
    _, info = env.reset()
    assert info["trial_start"]
    assert env.step(0)[4]["trial_episode"] == 0


@pytest.mark.filterwarnings("ignore:.*Box observation space (minimum|maximum) value is -?infinity")
@pytest.mark.filterwarnings("ignore:We recommend you to use a symmetric and normalized Box action space")
@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
@pytest.mark.parametrize("env_id", ["MetaFrozenLake-v0", "MetaBandit-v0", "MetaPointGoal-v0"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: Trial(env, episodes_per_trial=2),
        lambda env: Trial(env, steps_per_trial=5),
        lambda env: RL2Context(Trial(env, episodes_per_trial=2)),
        RevealTask,
    ],
)
def test_the_checkers_of_gymnasium_and_sb3_have_nothing_to_say(env_id, wrap):
    env = wrap(gym.make(env_id))
    check_env(env, skip_render_check=True)
    sb3_checker.check_env(wrap(gym.make(env_id)), warn=True)


def test_gymnasium_makes_a_wrapped_env_again_from_its_spec():
    for wrapped in (wrapped_all(make(size=2)), RL2Context(Trial(make(), steps_per_trial=7), reward_scale=0.5)):
        spec = EnvSpec.from_json(wrapped.spec.to_json())
        again = gym.make(spec)
        assert json.loads(again.spec.to_json()) == json.loads(wrapped.spec.to_json())
        assert str(again) == str(wrapped)
        assert again.get_wrapper_attr("steps_per_trial") == wrapped.get_wrapper_attr("steps_per_trial")
        assert data_equivalence(again.reset(seed=4), wrapped.reset(seed=4), exact=True)
        terminated = False
        while not terminated:
            step = wrapped.step(0)
            assert data_equivalence(again.step(0), step, exact=True)
            terminated = step[2]
