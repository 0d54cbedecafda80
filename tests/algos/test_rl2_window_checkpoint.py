"""Checkpoints of RL² with a window: resuming is exact to the bit, wherever a callback saved."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.callbacks import StopTrainingOnMaxEpisodes
from stable_baselines3.common.noise import NormalActionNoise

from metagym.algos import RL2
from metagym.algos.rl2_window import WindowRL2, window_class
from metagym.errors import CheckpointError, ConfigError
from metagym.learner_state import get_rng_state
from metagym.saving import read_archive, write_archive
from metagym.wrappers import RL2Context, Trial, VectorEnvAdapter
from tests.algos.crafted_setup import ENVS, craft, nothing_imported
from tests.algos.rl2_window_setup import (
    BANDIT,
    MATRIX,
    OFF_POLICY,
    POINT,
    SaveAt,
    assert_predict_alike,
    budget,
    make,
    parameters,
    same,
    slow_but,
)


@pytest.mark.parametrize(("name", "env_id"), MATRIX)
def test_a_loaded_learner_goes_on_as_the_saved_one(tmp_path, name, env_id):
    agent = make(name, env_id).learn(40)
    agent.save(tmp_path / "agent")
    rng = get_rng_state()
    loaded = WindowRL2.load(tmp_path / "agent")
    for key, array in get_rng_state().items():
        np.testing.assert_array_equal(array, rng[key])
    assert type(loaded) is type(agent)
    assert repr(loaded) == repr(agent)
    assert_predict_alike(agent, loaded)
    agent.learn(24, reset_num_timesteps=False)
    loaded.learn(24, reset_num_timesteps=False)
    assert same(parameters(agent), parameters(loaded))
    assert agent.num_timesteps == loaded.num_timesteps
    np.testing.assert_array_equal(agent._windows, loaded._windows)


@pytest.mark.parametrize(
    ("name", "env_id", "at"),
    [
        slow_but(at == 7 or name == "SAC", *learner, at)
        for learner in OFF_POLICY
        for name in learner[:1]
        for at in (3, 7, 8, 13)
    ],
)
def test_what_a_callback_saved_in_mid_training_ends_in_the_same_place(tmp_path, name, env_id, at):
    # Rollouts have two steps, trials six or eight: in mid-rollout, at its end, before and after learning starts.
    agent = make(name, env_id)
    agent.learn(48, callback=SaveAt(tmp_path / "agent", at))
    loaded = WindowRL2.load(tmp_path / "agent")
    assert loaded.num_timesteps == 2 * at
    loaded.learn(48 - 2 * at, reset_num_timesteps=False)
    assert loaded.num_timesteps == agent.num_timesteps
    assert same(parameters(agent), parameters(loaded))
    assert loaded._n_updates == agent._n_updates
    np.testing.assert_array_equal(agent._last_obs, loaded._last_obs)
    mine, yours = agent.replay_buffer.get_state(), loaded.replay_buffer.get_state()
    for column in ("observations", "ages", "rewards", "dones", "actions"):
        np.testing.assert_array_equal(mine[column], yours[column])


@pytest.mark.parametrize("name", ["PPO", "ARS"])
def test_an_unfinished_rollout_begins_anew_and_says_so(tmp_path, name):
    make(name).learn(16, callback=SaveAt(tmp_path / "agent", 3))
    with pytest.warns(UserWarning, match="trials start anew"):
        loaded = WindowRL2.load(tmp_path / "agent")
    loaded.learn(16, reset_num_timesteps=False)


def test_a_rollout_that_a_callback_stopped_is_no_loss_to_those_who_save_afterwards(tmp_path):
    agent = make("PPO")
    agent.learn(10_000, callback=StopTrainingOnMaxEpisodes(1))
    agent.save(tmp_path / "agent")
    loaded = WindowRL2.load(tmp_path / "agent")
    for one in (agent, loaded):
        one.learn(32, reset_num_timesteps=False)
    assert same(parameters(agent), parameters(loaded))


def test_the_replay_buffer_can_be_left_out(tmp_path):
    agent = make("DQN", buffer_size=10_000).learn(200)
    agent.save(tmp_path / "small", exclude=["replay_buffer"])
    agent.save(tmp_path / "whole")
    sizes = [(tmp_path / f"{name}.zip").stat().st_size for name in ("small", "whole")]
    assert sizes[1] - sizes[0] > 100 * 2 * 4 * agent.observation_space.shape[0] * 0.9
    loaded = WindowRL2.load(tmp_path / "small")
    assert loaded.replay_buffer.size() == 0
    assert_predict_alike(agent, loaded)
    loaded.learn(20, reset_num_timesteps=False)
    with pytest.raises(ConfigError, match="only 'replay_buffer' can be excluded"):
        agent.save(tmp_path / "x", exclude=["policy"])
    with pytest.raises(ConfigError, match="saves to a path"):
        agent.save(3)


def test_a_learner_of_a_vec_env_predicts_without_one_and_trains_with_one(tmp_path):
    def build(n_envs=2):
        rows = gym.make_vec(BANDIT, num_envs=n_envs, num_arms=3, autoreset_mode=AutoresetMode.SAME_STEP)
        return VectorEnvAdapter(RL2Context(Trial(rows, episodes_per_trial=5)))

    agent = WindowRL2("MlpPolicy", build(), learner_class="DQN", window=3, seed=0, **budget("DQN")).learn(40)
    agent.save(tmp_path / "agent")
    loaded = WindowRL2.load(tmp_path / "agent")
    assert_predict_alike(agent, loaded)
    with pytest.raises(ConfigError, match="has no env"):
        loaded.learn(10)
    resumed = WindowRL2.load(tmp_path / "agent", env=build())
    for one in (agent, resumed):
        one.learn(30, reset_num_timesteps=False)
    assert same(parameters(agent), parameters(resumed))
    with pytest.warns(UserWarning, match="start anew"):
        wider = WindowRL2.load(tmp_path / "agent", env=build(3))
    assert wider.replay_buffer.size() == 0
    wider.learn(30, reset_num_timesteps=False)


def test_rl2_itself_makes_and_loads_it(tmp_path):
    agent = RL2("MlpPolicy", BANDIT, learner_class="DQN", episodes_per_trial=4, n_envs=2, **budget("DQN")).learn(20)
    assert isinstance(agent, WindowRL2)
    assert agent.window == 4
    agent.save(tmp_path / "agent")
    assert_predict_alike(agent, RL2.load(tmp_path / "agent"))


def test_what_a_file_cannot_hold_is_asked_for(tmp_path):
    noise = NormalActionNoise(np.zeros(2), np.full(2, 0.1))
    agent = make("TD3", POINT, action_noise=noise).learn(30)
    agent.save(tmp_path / "agent")
    with pytest.raises(CheckpointError, match="action_noise"):
        WindowRL2.load(tmp_path / "agent")
    loaded = WindowRL2.load(tmp_path / "agent", custom_objects={"action_noise": noise})
    for one in (agent, loaded):
        one.learn(20, reset_num_timesteps=False)
    assert same(parameters(agent), parameters(loaded))


def test_keywords_can_be_changed_and_subclasses_load(tmp_path):
    make("DQN").save(tmp_path / "agent")
    loaded = window_class("DQN").load(tmp_path / "agent", learning_rate=0.5, print_system_info=True)
    assert loaded.lr_schedule(1) == 0.5


def test_files_of_others_and_damaged_ones_are_refused(tmp_path):
    agent = make("DQN").learn(20)
    path = tmp_path / "agent.zip"
    agent.save(path)
    meta, arrays = read_archive(path)
    write_archive(tmp_path / "other", meta=meta | {"kind": "Reptile"}, arrays=arrays)
    with pytest.raises(CheckpointError, match="is a checkpoint of 'Reptile', not of WindowRL2"):
        WindowRL2.load(tmp_path / "other")
    for key in ("settings", "counters", "action_rng"):
        write_archive(tmp_path / "bad", meta={k: v for k, v in meta.items() if k != key}, arrays=arrays)
        with pytest.raises(CheckpointError, match="is damaged"):
            WindowRL2.load(tmp_path / "bad")
    write_archive(tmp_path / "bad", meta=meta | {"counters": {"policy": 3}}, arrays=arrays)
    with pytest.raises(CheckpointError, match="unknown counter 'policy'"):
        WindowRL2.load(tmp_path / "bad")
    cut = {name: array for name, array in arrays.items() if name != "buffer/ages"}
    write_archive(tmp_path / "bad", meta=meta, arrays=cut)
    with pytest.raises(CheckpointError, match="replay buffer is damaged"):
        WindowRL2.load(tmp_path / "bad")


def test_the_devices_tensors_are_where_they_are_wanted(tmp_path):
    make("DQN").save(tmp_path / "agent")
    assert WindowRL2.load(tmp_path / "agent", device="cpu").policy.device == th.device("cpu")


@pytest.mark.parametrize("attack", ENVS)
def test_a_file_that_asks_for_another_env_is_loaded_without_one_and_says_so(tmp_path, monkeypatch, attack):
    agent = make("DQN")
    agent.save(tmp_path / "agent")
    craft(tmp_path / "agent", tmp_path / "crafted", **ENVS[attack])
    with (
        nothing_imported(tmp_path, monkeypatch),
        pytest.warns(UserWarning, match="loaded without an env") as caught,
    ):
        loaded = WindowRL2.load(tmp_path / "crafted")
    assert [warning.filename for warning in caught] == [__file__]
    assert (loaded.env, loaded.env_id, loaded.env_kwargs) == (None, None, {})
    assert_predict_alike(agent, loaded)
