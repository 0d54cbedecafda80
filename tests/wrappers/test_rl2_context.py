from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from metagym.errors import ConfigError
from metagym.wrappers import RevealTask, RL2Context, Trial
from metagym.wrappers.flat import Flat, FlatDict, Kept

RIGHT, DOWN = 2, 1


def pond_context(**kwargs):
    env = gym.make("MetaFrozenLake-v0", size=2, is_slippery=False, split=None, **kwargs)
    env.unwrapped.set_task({"map": ["SF", "FG"]})
    return RL2Context(Trial(env, episodes_per_trial=2))


def test_an_observation_by_hand():
    env = pond_context()
    observation, _ = env.reset(seed=0)
    #                            cell          action        reward  boundary
    expected = np.array([1, 0, 0, 0, 0, 0, 0, 0, 0, 1], np.float32)
    assert observation.tobytes() == expected.tobytes()
    assert observation.dtype == np.float32
    assert env.step(RIGHT)[0].tolist() == [0, 1, 0, 0, *[0, 0, 1, 0], 0, 0]
    assert env.step(DOWN)[0].tolist() == [1, 0, 0, 0, *[0, 1, 0, 0], 1, 1]
    assert env.step(RIGHT)[0].tolist() == [0, 1, 0, 0, *[0, 0, 1, 0], 0, 0]
    observation, _, terminated, _, _ = env.step(DOWN)
    assert terminated
    assert observation.tolist() == [0, 0, 0, 1, *[0, 1, 0, 0], 1, 0]
    assert env.reset()[0].tolist() == expected.tolist()


def test_the_reward_seen_is_scaled_and_the_reward_returned_is_not():
    env = RL2Context(pond_context().env, reward_scale=0.25)
    env.reset(seed=0)
    env.step(RIGHT)
    observation, reward, *_ = env.step(DOWN)
    assert reward == 1.0
    assert observation[-2] == 0.25


def test_bounds_are_those_of_the_parts():
    low, high = pond_context().observation_space.low, pond_context().observation_space.high
    assert low.tolist() == [0] * 8 + [-np.inf, 0]
    assert high.tolist() == [1] * 8 + [np.inf, 1]
    point = RL2Context(Trial(gym.make("MetaPointGoal-v0"), episodes_per_trial=2))
    inner, action, width = point.env.observation_space, point.action_space, point.observation_space.shape[0]
    assert width == inner.shape[0] + action.shape[0] + 2
    assert point.observation_space.high.tolist() == [*inner.high, *action.high, np.inf, 1]
    assert point.observation_space.low.tolist() == [*inner.low, *action.low, -np.inf, 0]


def test_actions_out_of_bounds_are_seen_clipped():
    env = RL2Context(Trial(gym.make("MetaPointGoal-v0").unwrapped, episodes_per_trial=2))
    env.reset(seed=0)
    width = env.env.observation_space.shape[0]
    observation, *_ = env.step(np.array([-1e9, 1e9]))
    assert observation[width : width + 2].tolist() == [env.action_space.low[0], env.action_space.high[1]]
    assert observation in env.observation_space


def test_no_boundary_and_no_last_reward_is_ever_lost():
    rows = gym.make_vec("MetaBandit-v0", num_envs=16, autoreset_mode=AutoresetMode.SAME_STEP)
    env = RL2Context(Trial(rows, episodes_per_trial=10))
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    num_arms = int(env.single_action_space.n)
    for step in range(1, 41):
        actions = env.action_space.sample()
        observation, reward, terminated, _, infos = env.step(actions)
        assert (observation[:, -1] == 1).all()  # every pull is an episode, every observation the first of one
        one_hot = np.eye(num_arms, dtype=np.float32)[actions]
        if step % 10:
            assert not terminated.any()
            assert (observation[:, -2] == reward.astype(np.float32)).all()
            assert (observation[:, -2 - num_arms : -2] == one_hot).all()
            assert infos["episode_start"].all()
        else:
            assert terminated.all()
            assert (observation[:, -2 - num_arms : -1] == 0).all()
            final = np.stack(list(infos["final_obs"]))
            assert (final[:, -2] == reward.astype(np.float32)).all()
            assert (final[:, -2 - num_arms : -2] == one_hot).all()
            assert (final[:, -1] == 0).all()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1000),
    episodes=st.integers(1, 3),
    actions=st.lists(st.integers(0, 3), min_size=1, max_size=50),
)
def test_the_context_is_what_the_trial_returned(seed, episodes, actions):
    trial = Trial(gym.make("MetaFrozenLake-v0", size=2, episode_length=5), episodes_per_trial=episodes)
    env = RL2Context(Trial(gym.make("MetaFrozenLake-v0", size=2, episode_length=5), episodes_per_trial=episodes))
    cell, info = trial.reset(seed=seed)
    observation, _ = env.reset(seed=seed)
    last_action, last_reward, terminated = np.zeros(4), 0.0, False
    for action in [*actions, None]:
        expected = [*np.eye(4)[cell], *last_action, last_reward, float(info["episode_start"])]
        assert observation.tolist() == expected
        if action is None:
            return
        if terminated:
            (cell, info), (observation, _) = trial.reset(), env.reset()
            last_action, last_reward, terminated = np.zeros(4), 0.0, False
            assert info["episode_start"]
        else:
            cell, last_reward, terminated, _, info = trial.step(action)
            observation, *_ = env.step(action)
            last_action = np.eye(4)[action]


def test_observations_returned_are_never_written_to_again():
    env = RL2Context(Trial(gym.make_vec("MetaFrozenLake-v0", num_envs=2), episodes_per_trial=2))
    kept = [env.reset(seed=0)[0]]
    copies = [kept[0].copy()]
    for _ in range(20):
        kept.append(env.step(np.array([1, 2]))[0])
        copies.append(kept[-1].copy())
    assert all((left == right).all() for left, right in zip(kept, copies, strict=True))
    assert not any(np.shares_memory(left, right) for left, right in pairwise(kept))


@pytest.mark.parametrize("scale", [0, -1.0, np.inf, np.nan, "1", True, None])
def test_a_scale_that_is_no_positive_number_is_refused(scale):
    with pytest.raises(ConfigError, match="reward_scale"):
        RL2Context(Trial(gym.make("MetaBandit-v0"), episodes_per_trial=2), reward_scale=scale)


@pytest.mark.parametrize("env", [gym.make("MetaBandit-v0"), gym.make_vec("MetaBandit-v0", num_envs=2)])
def test_without_trials_the_error_says_what_to_do(env):
    with pytest.raises(ConfigError, match=r"RL2Context\(Trial\(env"):
        RL2Context(env)
    with pytest.raises(ConfigError, match="wrap it in Trial first"):
        RL2Context(RevealTask(env))


# --- the oracle --------------------------------------------------------------------------------------------------


def test_the_oracle_sees_the_task_as_gymnasium_flattens_it():
    env = RevealTask(gym.make("MetaFrozenLake-v0", size=2, remap_actions=True))
    for seed in range(5):
        observation, _ = env.reset(seed=seed)
        flat = spaces.flatten(env.task_space, dict(env.get_task()))
        assert observation.tolist() == [1, 0, 0, 0, *flat.astype(np.float32)]
        assert observation in env.observation_space
        assert env.step(0)[0][4:].tolist() == observation[4:].tolist()


def test_the_oracle_sees_each_trials_own_task():
    rows = gym.make_vec("MetaFrozenLake-v0", num_envs=3, autoreset_mode=AutoresetMode.SAME_STEP)
    env = RevealTask(Trial(rows, episodes_per_trial=2))
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    seen = set()
    for _ in range(40):
        for row, task in enumerate(env.get_tasks()):
            flat = spaces.flatten(env.single_task_space, dict(task)).astype(np.float32)
            assert observation[row, 16:].tolist() == flat.tolist()
            seen.add(task.id)
        observation, *_ = env.step(env.action_space.sample())
    assert len(seen) > 3


# --- flattening --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 2, (2, 3), np.float64),
        spaces.Box(0, 255, (2, 2), np.uint8),
        spaces.Discrete(5, start=-2),
        spaces.MultiBinary((2, 2)),
        spaces.MultiDiscrete([3, 2], start=[1, 0]),
    ],
)
def test_vectors_are_gymnasiums(space):
    flat = Flat(space)
    space.seed(0)
    values = [space.sample() for _ in range(10)]
    out = np.zeros((10, flat.width), np.float32)
    flat.write(np.array(values), out)
    assert out.tolist() == [spaces.flatten(space, value).astype(np.float32).tolist() for value in values]
    assert (out >= flat.low).all()
    assert (out <= flat.high).all()
    both = FlatDict(spaces.Dict(b=space, a=space))
    assert both({"a": np.array(values), "b": np.array(values)}).tolist() == np.hstack([out, out]).tolist()


def test_a_space_without_one_shape_is_refused():
    with pytest.raises(ConfigError, match="FlattenObservation"):
        Flat(spaces.Tuple([spaces.Discrete(2)]))


@pytest.mark.parametrize(
    ("space", "kept"),
    [
        (spaces.Box(0, 255, (36, 36, 3), np.uint8), True),
        (spaces.Dict(a=spaces.Discrete(2)), True),
        (spaces.Box(0, 1, (36, 36, 3), np.float32), False),
        (spaces.Box(0, 255, (36, 36), np.uint8), False),
        (spaces.Box(0, 255, (7, 7, 3), np.uint8), False),
        (spaces.Box(0, 255, (3, 40, 50), np.uint8), True),
        (spaces.Discrete(4), False),
    ],
)
def test_dicts_and_images_are_kept_and_all_else_is_flattened(space, kept):
    assert Kept.is_needed(space) is kept


def test_kept_entries_are_those_there_were_and_one_more():
    image, box = spaces.Box(0, 255, (36, 36, 3), np.uint8), spaces.Box(-1.0, 1.0, (2,), np.float32)
    assert Kept(image).with_entry("more", box) == spaces.Dict(observation=image, more=box)
    assert Kept(spaces.Dict(a=box)).with_entry("b", image) == spaces.Dict(a=box, b=image)
    pictures, numbers = np.zeros((4, 36, 36, 3), np.uint8), np.zeros((4, 2), np.float32)
    assert Kept(image).entries(pictures)["observation"] is pictures
    assert Kept(spaces.Dict(a=box)).entries({"a": numbers})["a"] is numbers
    codes = spaces.Box(0, 255, (2, 2, 3), np.uint8)
    flat = Kept(spaces.Dict(a=codes))
    assert flat.with_entry("b", box)["a"] == spaces.Box(0.0, 255.0, (12,), np.float32)
    seen = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    assert flat.entries({"a": seen})["a"].tolist() == np.arange(24.0).reshape(2, 12).tolist()
    with pytest.raises(ConfigError, match="entry 'a' is Dict"):
        Kept(spaces.Dict(a=spaces.Dict(b=box)))
    with pytest.raises(ConfigError, match="'a' already"):
        Kept(spaces.Dict(a=box)).with_entry("a", image)
