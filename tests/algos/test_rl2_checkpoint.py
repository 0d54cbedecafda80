"""Checkpoints of RL²: loading executes nothing and changes nothing, and resuming is exact to the bit."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

import metagym
from metagym.algos.rl2 import RL2
from metagym.errors import CheckpointError, ConfigError
from metagym.learner_state import get_rng_state
from metagym.saving import write_archive
from metagym.wrappers import RL2Context, Trial, VectorEnvAdapter
from tests.algos.crafted_setup import ENVS, craft, nothing_imported
from tests.algos.rl2_setup import (
    LAKE,
    SMALL,
    assert_predicts_alike,
    assert_same_parameters,
    lake,
    parameters,
    vector_lake,
)


@pytest.mark.parametrize("rnn_type", ["gru", "lstm"])
def test_a_loaded_learner_predicts_identically_and_trains_on(tmp_path, rnn_type):
    agent = lake(policy_kwargs={"rnn_hidden_size": 4, "rnn_type": rnn_type}).learn(48)
    agent.save(tmp_path / "agent")
    rng = get_rng_state()
    loaded = RL2.load(tmp_path / "agent")
    for name, array in get_rng_state().items():
        np.testing.assert_array_equal(array, rng[name])
    assert type(loaded) is type(agent)
    assert_predicts_alike(agent, loaded)
    assert loaded.seed == 0
    assert (loaded.num_timesteps, loaded._n_updates) == (agent.num_timesteps, agent._n_updates)
    loaded.learn(24, reset_num_timesteps=False)
    assert loaded.num_timesteps >= agent.num_timesteps + 24


def test_a_learner_of_a_vec_env_predicts_without_one_and_trains_with_one(tmp_path):
    settings = {name: value for name, value in SMALL.items() if name != "n_envs"}
    agent = RL2("MlpPolicy", VectorEnvAdapter(RL2Context(Trial(vector_lake(), episodes_per_trial=2))), **settings)
    agent.learn(24)
    agent.save(tmp_path / "agent")
    loaded = RL2.load(tmp_path / "agent")
    assert_predicts_alike(agent, loaded)
    with pytest.raises(ConfigError, match="has no env"):
        loaded.learn(24)
    env = VectorEnvAdapter(RL2Context(Trial(vector_lake(), episodes_per_trial=2)))
    RL2.load(tmp_path / "agent", env=env).learn(24)
    with pytest.raises(ConfigError, match="was trained with"):
        RL2.load(tmp_path / "agent", env=VectorEnvAdapter(Trial(vector_lake(), episodes_per_trial=2)))


@pytest.mark.parametrize("learner_class", [PPO, A2C, TRPO])
@pytest.mark.parametrize("at", [24, 31])
def test_resumed_training_is_uninterrupted_training(tmp_path, learner_class, at):
    """Saved at a rollout's end or in its middle, while trials are unfinished."""
    settings = {"n_envs": 3, "n_steps": 8, "seed": 3, "policy_kwargs": {"rnn_hidden_size": 4}}
    if learner_class is PPO:
        settings |= {"batch_size": 12, "n_epochs": 2}
    if learner_class is TRPO:
        settings |= {"batch_size": 12, "target_kl": 1.0}

    def make():
        return RL2("MlpPolicy", LAKE, learner_class=learner_class, episodes_per_trial=3, **settings)

    class SaveAt(BaseCallback):
        def _on_step(self):
            if self.num_timesteps >= at and not (tmp_path / "agent.zip").exists():
                self.model.save(tmp_path / "agent")
            return True

    through = make().learn(96, callback=SaveAt())
    expected, monitor = parameters(through), through.env.episode_returns.copy()
    th.manual_seed(99)
    resumed = RL2.load(tmp_path / "agent")
    resumed.learn(96 - resumed.num_timesteps, reset_num_timesteps=False)
    assert resumed.num_timesteps == through.num_timesteps
    assert_same_parameters(resumed, expected)
    np.testing.assert_array_equal(resumed.env.episode_returns, monitor)
    assert [info["r"] for info in resumed.ep_info_buffer] == [info["r"] for info in through.ep_info_buffer]
    for name, array in through.get_rollout_state().items():
        np.testing.assert_array_equal(array, resumed.get_rollout_state()[name])


def test_what_was_saved_before_training_trains_as_the_original(tmp_path):
    original = lake()
    original.save(tmp_path / "agent")
    original.learn(48)
    loaded = RL2.load(tmp_path / "agent").learn(48)
    assert_same_parameters(loaded, parameters(original))


def test_resuming_in_a_foreign_env_says_that_trials_start_anew(tmp_path):
    def wrapped():
        return RL2Context(Trial(gym.make(LAKE, size=4), episodes_per_trial=2))

    settings = {name: value for name, value in SMALL.items() if name != "n_envs"}
    agent = RL2("MlpPolicy", DummyVecEnv([wrapped] * 3), **settings).learn(24)
    agent.save(tmp_path / "agent")
    with pytest.warns(UserWarning, match="trials start anew"):
        loaded = RL2.load(tmp_path / "agent", env=DummyVecEnv([wrapped] * 3))
    loaded.learn(24, reset_num_timesteps=False)


def test_what_a_file_cannot_hold_is_asked_for_again(tmp_path):
    def schedule(progress):
        return 1e-3 * progress

    agent = lake(learning_rate=schedule)
    agent.save(tmp_path / "agent")
    with pytest.raises(CheckpointError, match="'learning_rate'"):
        RL2.load(tmp_path / "agent")
    loaded = RL2.load(tmp_path / "agent", custom_objects={"learning_rate": schedule})
    assert loaded.lr_schedule(0.5) == 5e-4


def test_a_learner_class_of_ones_own_is_passed_again(tmp_path):
    class Mine(PPO):
        pass

    agent = lake(learner_class=Mine)
    agent.save(tmp_path / "agent")
    with pytest.raises(CheckpointError, match="'learner_class'"):
        RL2.load(tmp_path / "agent")
    loaded = RL2.load(tmp_path / "agent", custom_objects={"learner_class": Mine}, verbose=1, device="cpu")
    assert isinstance(loaded, Mine)
    assert loaded.verbose == 1
    assert_predicts_alike(agent, loaded)


def test_a_learner_of_an_id_that_is_gone_still_predicts(tmp_path):
    metagym.register("MyLake-v0", "metagym.envs.frozen_lake:FrozenLake", size=4)
    agent = RL2("MlpPolicy", "MyLake-v0", episodes_per_trial=2, **SMALL)
    agent.save(tmp_path / "agent")
    del gym.registry["MyLake-v0"]
    with pytest.warns(UserWarning, match="'MyLake-v0', which is not registered"):
        loaded = RL2.load(tmp_path / "agent")
    assert_predicts_alike(agent, loaded)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        RL2.load(tmp_path / "nothing")
    write_archive(tmp_path / "other", meta={"kind": "Reptile"}, arrays={})
    with pytest.raises(CheckpointError, match="is a checkpoint of 'Reptile', not of RL2"):
        RL2.load(tmp_path / "other")
    write_archive(tmp_path / "broken", meta={"kind": "RL2"}, arrays={})
    with pytest.raises(CheckpointError, match="damaged"):
        RL2.load(tmp_path / "broken")


@pytest.mark.parametrize("attack", ENVS)
def test_a_file_that_asks_for_another_env_is_loaded_without_one_and_says_so(tmp_path, monkeypatch, attack):
    agent = lake()
    agent.save(tmp_path / "agent")
    craft(tmp_path / "agent", tmp_path / "crafted", **ENVS[attack])
    with (
        nothing_imported(tmp_path, monkeypatch),
        pytest.warns(UserWarning, match="loaded without an env") as caught,
    ):
        loaded = RL2.load(tmp_path / "crafted")
    assert [warning.filename for warning in caught] == [__file__]
    assert (loaded.env, loaded.env_id, loaded.env_kwargs) == (None, None, {})
    assert_predicts_alike(agent, loaded)
