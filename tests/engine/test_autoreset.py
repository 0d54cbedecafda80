"""Autoreset by itself: a counter that ends when it should, and Gymnasium's own wrappers around it."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import vector as wrappers

from metagym.engine import RowsVectorEnv
from metagym.engine.autoreset import check_seed
from metagym.errors import ConfigError
from tests.parity import MODES
from tests.strategies import IDS, make_sync, random_actions

NEXT_STEP, SAME_STEP, DISABLED = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED


class Counters(RowsVectorEnv):
    """Row i counts its steps and terminates at i + 2; rows that do not step must be left out."""

    def __init__(self, num_envs=2, autoreset_mode=NEXT_STEP):
        super().__init__(num_envs, spaces.Discrete(100), spaces.Discrete(2), autoreset_mode)
        self.count = np.zeros(num_envs, np.int64)
        self.calls = []

    def step_rows(self, actions, active):
        self.calls.append(None if active is None else active.tolist())
        self.count += 1
        over = self.count == np.arange(self.num_envs) + 2
        return (
            self.count * 1.0,
            over,
            np.zeros(self.num_envs, np.bool_),
            {"count": self.count.copy(), "deep": {"x": self.count.copy()}},
        )

    def reset_rows(self, rows, *, tasks=None, repeat_task=False):
        self.count[rows] = 0
        return {"count": self.count[rows], "deep": {"x": self.count[rows]}}

    def observe_rows(self, rows):
        return self.count.copy() if rows is None else self.count[rows]

    def seed_rows(self, rows, seeds):
        self.calls.append((rows.tolist(), seeds))

    def coerce(self, task):
        return task


def _steps(env, num_steps):
    env.reset()
    return [env.step(np.zeros(env.num_envs, np.int64)) for _ in range(num_steps)]


def test_next_step_resets_in_the_step_after_with_zero_reward_and_no_flags():
    env = Counters()
    results = _steps(env, 5)
    assert [result[0].tolist() for result in results] == [[1, 1], [2, 2], [0, 3], [1, 0], [2, 1]]
    assert [result[1].tolist() for result in results] == [[1, 1], [2, 2], [0, 3], [1, 0], [2, 1]]
    assert [result[2].tolist() for result in results] == [
        [False] * 2,
        [True, False],
        [False, True],
        [False] * 2,
        [True, False],
    ]
    assert env.calls == [None, None, [False, True], [True, False], None]
    assert all(set(result[4]) == {"count", "_count", "deep", "_deep"} for result in results)
    assert results[2][4]["count"].tolist() == [0, 3]
    assert results[2][4]["deep"]["x"].tolist() == [0, 3]


def test_same_step_resets_at_once_and_keeps_the_last_observation_and_info():
    env = Counters(autoreset_mode=SAME_STEP)
    results = _steps(env, 4)
    assert [result[0].tolist() for result in results] == [[1, 1], [0, 2], [1, 0], [0, 1]]
    assert [result[1].tolist() for result in results] == [[1, 1], [2, 2], [1, 3], [2, 1]]
    assert [result[2].tolist() for result in results] == [[False] * 2, [True, False], [False, True], [True, False]]
    assert env.calls == [None] * 4
    info = results[1][4]
    assert info["final_obs"].tolist() == [2, None]
    assert info["final_info"]["count"].tolist() == [2, 0]
    assert info["final_info"]["deep"]["x"].tolist() == [2, 0]
    assert info["count"].tolist() == [0, 2]
    masks = [info["_final_obs"], info["_final_info"], info["final_info"]["_count"], info["final_info"]["deep"]["_x"]]
    assert [mask.tolist() for mask in masks] == [[True, False]] * 4
    assert "final_obs" not in results[0][4]


def test_disabled_leaves_finished_rows_to_the_caller():
    env = Counters(autoreset_mode=DISABLED)
    _steps(env, 2)
    with pytest.raises(gym.error.ResetNeeded, match=r"rows \[0\] are finished"):
        env.step(np.zeros(2, np.int64))
    observation, infos = env.reset(options={"reset_mask": np.array([True, False])})
    assert observation.tolist() == [0, 2]
    assert infos["_count"].tolist() == [True, False]
    assert infos["deep"]["_x"].tolist() == [True, False]
    assert env.step(np.zeros(2, np.int64))[0].tolist() == [1, 3]


@pytest.mark.parametrize("mode", [NEXT_STEP, DISABLED])
def test_a_partial_reset_leaves_the_other_finished_rows_finished(mode):
    env = Counters(3, mode)
    _steps(env, 2)
    env.reset(options={"reset_mask": np.array([False, True, False])})
    assert env._finished.tolist() == [0]
    env.reset(options={"reset_mask": np.array([True, False, False])})
    assert env._finished.tolist() == []
    assert env.step(np.zeros(3, np.int64))[0].tolist() == [1, 1, 3]


def test_seeds_reach_the_rows_they_are_meant_for():
    env = Counters(3)
    env.reset(seed=5)
    env.reset(seed=[1, None, 3])
    env.reset(seed=7, options={"reset_mask": np.array([False, True, True])})
    env.reset(seed=[None, 4, None], options={"reset_mask": np.array([True, False, True])})
    env.reset(seed=[None] * 3)
    assert env.calls == [([0, 1, 2], [5, 6, 7]), ([0, 2], [1, 3]), ([1, 2], [8, 9])]


@pytest.mark.parametrize("mode", MODES)
def test_the_mode_is_an_attribute_and_in_the_metadata_of_this_env_alone(mode):
    env = Counters(autoreset_mode=mode)
    assert env.autoreset_mode is mode
    assert env.metadata["autoreset_mode"] is mode
    assert "autoreset_mode" not in Counters.metadata or Counters.metadata is not env.metadata
    assert Counters(autoreset_mode=mode.value).autoreset_mode is mode


@pytest.mark.parametrize("seed", [None, 0, 5, np.int64(5), np.uint8(3), 2**80])
def test_seeds_are_non_negative_integers_or_none(seed):
    check_seed(seed)


@pytest.mark.parametrize("seed", [-1, 1.0, True, "1", np.float64(2), [1], np.int64(-5)])
def test_other_seeds_are_refused(seed):
    with pytest.raises(ConfigError, match="non-negative integer"):
        check_seed(seed)


# --- Gymnasium's wrappers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", IDS)
def test_episode_statistics_are_those_of_sync_vector_env(name, mode):
    kwargs = {} if "Bandit" in name else {"episode_length": 5}
    ours = wrappers.RecordEpisodeStatistics(gym.make_vec(name, num_envs=3, autoreset_mode=mode, **kwargs))
    theirs = wrappers.RecordEpisodeStatistics(make_sync(name, 3, mode, **kwargs))
    ours.reset(seed=0)
    theirs.reset(seed=0)
    num_episodes = 0
    for action in random_actions(ours, 20):
        results = [env.step(action) for env in (ours, theirs)]
        episodes = [result[4].get("episode", result[4].get("final_info", {}).get("episode")) for result in results]
        assert (episodes[0] is None) == (episodes[1] is None)
        if episodes[0] is not None:
            for key in ("r", "l", "_r", "_l"):
                if key in episodes[1]:
                    assert episodes[0][key].tolist() == episodes[1][key].tolist()
            num_episodes += 1
        finished = results[0][2] | results[0][3]
        if mode is DISABLED and finished.any():
            ours.reset(options={"reset_mask": finished.copy()})
            theirs.reset()
            ours.reset(seed=1)
            theirs.reset(seed=1)
    assert num_episodes > 1


def test_episode_statistics_of_rows_that_are_not_reset_go_on():
    env = wrappers.RecordEpisodeStatistics(
        gym.make_vec("MetaPointGoal-v0", num_envs=2, autoreset_mode=DISABLED, variant="pearl", episode_length=6)
    )
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.zeros((2, 2), np.float32))
    env.reset(options={"reset_mask": np.array([True, False])})
    for _ in range(3):
        *_, infos = env.step(np.zeros((2, 2), np.float32))
    assert infos["episode"]["l"].tolist() == [0, 6]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("reveal_task", [False, True])
def test_infos_become_lists_of_dicts(mode, reveal_task):
    env = wrappers.DictInfoToList(
        gym.make_vec("MetaFrozenLake-v0", num_envs=2, autoreset_mode=mode, episode_length=3, reveal_task=reveal_task)
    )
    _, infos = env.reset(seed=0)
    assert [info["trial_start"] for info in infos] == [True, True]
    for _ in range(3):
        *_, infos = env.step(np.zeros(2, np.int64))
        assert [len(infos), set(infos[0]) >= {"task_id", "trial_start", "is_success"}] == [2, True]
        if reveal_task:
            assert infos[1]["task"]["map"].shape == (4, 4)
    if mode is not DISABLED:
        *_, infos = env.step(np.zeros(2, np.int64))
    assert isinstance(infos[0]["task_id"], np.integer | int)


@pytest.mark.parametrize("mode", MODES)
def test_other_vector_wrappers_of_gymnasium_accept_the_env(mode):
    env = gym.make_vec("MetaPointGoal-v0", num_envs=2, autoreset_mode=mode, variant="pearl", episode_length=4)
    env = wrappers.ClipReward(wrappers.ClipAction(env), -0.5, 0.5)
    if mode is NEXT_STEP:
        env = wrappers.NormalizeObservation(env)
    if mode is not SAME_STEP:
        env = wrappers.VectorizeTransformObservation(
            env,
            gym.wrappers.TransformObservation,
            func=lambda obs: obs * 2,
            observation_space=env.single_observation_space,
        )
    env.reset(seed=0)
    for action in random_actions(env, 4):
        observation, reward, *_ = env.step(action)
        assert (np.abs(reward) <= 0.5).all()
        assert observation.shape == (2, 2)
