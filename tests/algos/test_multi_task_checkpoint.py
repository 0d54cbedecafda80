"""Saved between two calls of learn or inside one, and loaded: training ends bit-identical."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from sb3_contrib import ARS, RecurrentPPO
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

from metagym.algos import FromScratch, JointTraining, RevealedTask
from metagym.errors import CheckpointError, ConfigError
from metagym.learner_state import get_rng_state
from metagym.replay import TaskReplayBuffer
from metagym.saving import read_archive, write_archive
from tests.algos.multi_task_setup import LAKE, LEARNERS, POINT, SaveAt, state, tiny
from tests.algos.reptile_setup import line_env, same, same_moments
from tests.strategies import plainly

# One or the other plainly; all of both with the slow tests.
FEW = (PPO, DQN, SAC, ARS, RecurrentPPO)
SOME_FAST = [one if one in FEW else pytest.param(one, marks=pytest.mark.slow) for one in LEARNERS]
OTHERS_FAST = [pytest.param(one, marks=pytest.mark.slow) if one in FEW[1:] else one for one in LEARNERS]


def disturb():
    th.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002


@pytest.mark.parametrize("learner_class", OTHERS_FAST)
def test_training_goes_on_to_the_bit_after_save_and_load(learner_class, tmp_path):
    whole = tiny(learner_class).learn(150)
    whole.save(tmp_path / "agent")
    whole.learn(150, reset_num_timesteps=False)
    disturb()
    resumed = JointTraining.load(tmp_path / "agent", device="cpu").learn(150, reset_num_timesteps=False)
    assert resumed.num_timesteps == whole.num_timesteps
    assert same(state(resumed), state(whole))
    assert same_moments(state(resumed), state(whole))
    assert [info["r"] for info in resumed.ep_info_buffer] == [info["r"] for info in whole.ep_info_buffer]


@pytest.mark.parametrize("learner_class", SOME_FAST)
def test_what_a_callback_saves_in_the_middle_of_a_rollout_ends_as_the_run_did(learner_class, tmp_path):
    total, call = (1600, 250) if learner_class is ARS else (400, 50)
    whole = tiny(learner_class).learn(total, callback=SaveAt(call, tmp_path / "agent"))
    disturb()
    resumed = JointTraining.load(tmp_path / "agent", device="cpu")
    assert 0 < resumed.num_timesteps < 4 * call
    resumed.learn(total - resumed.num_timesteps, reset_num_timesteps=False)
    assert resumed.num_timesteps == whole.num_timesteps
    assert same(state(resumed), state(whole))
    assert same_moments(state(resumed), state(whole))


@pytest.mark.parametrize("learner_class", [DQN, SAC])
@pytest.mark.parametrize("optimize", [False, True])
def test_a_full_buffer_of_many_tasks_comes_back_as_it_was(learner_class, optimize, tmp_path):
    own = {"replay_buffer_class": TaskReplayBuffer, "train_freq": 1}
    if optimize:
        own |= {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
    whole = tiny(learner_class, learner_kwargs=own).learn(400, callback=SaveAt(60, tmp_path / "agent"))
    disturb()
    resumed = JointTraining.load(tmp_path / "agent", device="cpu")
    assert resumed.learner.replay_buffer.full
    resumed.learn(400 - resumed.num_timesteps, reset_num_timesteps=False)
    assert same(state(resumed), state(whole))


@pytest.mark.parametrize("learner_class", [PPO, SAC])
def test_normalised_envs_go_on_to_the_bit_too(learner_class, tmp_path):
    env = VecNormalize(tiny(seed=7).env)
    whole = tiny(learner_class, env=VecNormalize(tiny().env)).learn(150)
    whole.save(tmp_path / "agent")
    resumed = JointTraining.load(tmp_path / "agent", env=env, device="cpu")
    np.testing.assert_array_equal(env.obs_rms.mean, whole.env.obs_rms.mean)
    whole.learn(150, reset_num_timesteps=False)
    resumed.learn(150, reset_num_timesteps=False)
    assert same(state(resumed), state(whole))
    assert env.obs_rms.count == whole.env.obs_rms.count


@pytest.mark.parametrize("kind", [JointTraining, RevealedTask])
def test_schedules_and_seeds_that_wait_for_the_first_reset_survive(kind, tmp_path):
    own = {"learning_rate": LinearSchedule(1e-2, 0.0, 1.0)}
    whole = tiny(env=LAKE, kind=kind, learner_kwargs=own)
    whole.save(tmp_path / "agent")
    resumed = kind.load(tmp_path / "agent", device="cpu")
    whole.learn(192)
    disturb()
    resumed.learn(192)
    assert same(state(resumed), state(whole))


def test_saving_again_after_loading_writes_the_same_file(tmp_path):
    tiny(RecurrentPPO).learn(64).save(tmp_path / "a")
    JointTraining.load(tmp_path / "a", device="cpu").save(tmp_path / "b")
    first, second = read_archive(tmp_path / "a"), read_archive(tmp_path / "b")
    assert first[0] == second[0]
    assert first[1].keys() == second[1].keys()
    assert all(np.array_equal(first[1][name], second[1][name], equal_nan=True) for name in first[1])


def test_loading_does_not_touch_the_random_states_until_learning_goes_on(tmp_path):
    tiny().learn(64).save(tmp_path / "agent")
    before = get_rng_state()
    loaded = JointTraining.load(tmp_path / "agent", device="cpu")
    loaded.adapt(gym.make(POINT).unwrapped.sample_task())
    assert all(np.array_equal(before[name], value) for name, value in get_rng_state().items())


def test_a_foreign_env_is_said_to_start_anew(tmp_path):
    tiny(env=line_env()).learn(64).save(tmp_path / "agent")
    with pytest.warns(UserWarning, match="starts anew"):
        loaded = JointTraining.load(tmp_path / "agent", env=line_env(), device="cpu")
    assert loaded.learn(64, reset_num_timesteps=False).num_timesteps == 128
    without = JointTraining.load(tmp_path / "agent", device="cpu")
    without.predict(np.zeros(1, np.float32))
    assert without.adapt(line_env(2)).n_envs == 2
    for act in (lambda: without.learn(1), lambda: without.adapt(0.5)):
        with pytest.raises(ConfigError, match="no env"):
            act()
    without.set_env(line_env())
    assert without.learn(1).num_timesteps > 0


def test_a_buffer_that_cannot_be_stored_is_said_to_start_empty(tmp_path):
    class Own(TaskReplayBuffer):
        pass

    agent = tiny(SAC, learner_kwargs={"replay_buffer_class": Own}).learn(64)
    agent.save(tmp_path / "agent")
    with pytest.warns(UserWarning, match="A Own cannot be stored: it starts empty"):
        loaded = JointTraining.load(
            tmp_path / "agent", device="cpu", custom_objects={"learner_kwargs.replay_buffer_class": Own}
        )
    assert loaded.learn(64, reset_num_timesteps=False).num_timesteps == 128


def test_what_a_file_cannot_hold_is_passed_again(tmp_path):
    noise = NormalActionNoise(np.zeros(2), 0.1 * np.ones(2))
    tiny(TD3, learner_kwargs={"action_noise": noise}).learn(64).save(tmp_path / "agent")
    with pytest.raises(CheckpointError, match=r"'learner_kwargs.action_noise'"):
        JointTraining.load(tmp_path / "agent")
    loaded = JointTraining.load(tmp_path / "agent", custom_objects={"learner_kwargs.action_noise": noise})
    assert loaded.learn(16, reset_num_timesteps=False).num_timesteps == 80


@pytest.mark.parametrize("kind", [JointTraining, RevealedTask, FromScratch])
def test_each_loads_its_own_kind_only(kind, tmp_path):
    tiny(kind=kind).save(tmp_path / "agent")
    assert type(kind.load(tmp_path / "agent")) is kind
    for other in {JointTraining, RevealedTask, FromScratch} - {kind}:
        with pytest.raises(CheckpointError, match=f"of '{kind.__name__}', not of {other.__name__}"):
            other.load(tmp_path / "agent")


def test_an_env_that_does_not_fit_is_refused(tmp_path):
    tiny(env=line_env()).save(tmp_path / "agent")
    with pytest.raises(ConfigError, match="were trained on"):
        JointTraining.load(tmp_path / "agent", env=line_env(discrete=True))


@pytest.mark.parametrize(
    "damage",
    [{"arguments": {}}, {"arguments": []}, {"position": {}}, {"position": {"counters": 3}}, {"n_envs": "many"}],
    ids=plainly,
)
def test_a_damaged_checkpoint_is_refused(damage, tmp_path):
    tiny().save(tmp_path / "agent")
    meta, arrays = read_archive(tmp_path / "agent")
    write_archive(tmp_path / "agent", meta={**meta, **damage}, arrays=arrays)
    with pytest.raises((CheckpointError, ConfigError)):
        JointTraining.load(tmp_path / "agent")


def test_a_damaged_replay_buffer_is_refused(tmp_path):
    tiny(SAC).learn(64).save(tmp_path / "agent")
    meta, arrays = read_archive(tmp_path / "agent")
    for change in ({"replay/rewards": np.zeros((3, 9))}, {"replay/place": np.array([500, 0])}):
        write_archive(tmp_path / "broken", meta=meta, arrays={**arrays, **change})
        with pytest.raises(CheckpointError):
            JointTraining.load(tmp_path / "broken")
    del arrays["replay/actions"]
    write_archive(tmp_path / "broken", meta=meta, arrays=arrays)
    with pytest.raises(CheckpointError, match="damaged"):
        JointTraining.load(tmp_path / "broken")


def test_no_env_is_made_that_the_file_alone_asks_for(tmp_path):
    tiny(env=LAKE).save(tmp_path / "agent")
    meta, arrays = read_archive(tmp_path / "agent")
    write_archive(tmp_path / "id", meta={**meta, "env_id": "this:Zen-v0"}, arrays=arrays)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert JointTraining.load(tmp_path / "id").env is None


def test_learners_that_ask_the_env_for_its_dimension_load_without_one(tmp_path):
    agent = tiny(SAC, env=line_env())
    agent.save(tmp_path / "agent")
    loaded = JointTraining.load(tmp_path / "agent", device="cpu")
    assert loaded.env is None
    assert loaded.learner.target_entropy == agent.learner.target_entropy == -1.0
