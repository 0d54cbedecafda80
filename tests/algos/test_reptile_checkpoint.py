"""Interrupted, saved and loaded: training ends bit-identical."""

import sys

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.utils import LinearSchedule

from metagym.algos.reptile import Reptile
from metagym.errors import CheckpointError, ConfigError
from metagym.learner_state import get_rng_state
from metagym.saving import read_archive, write_archive
from tests.algos.checkpoint_setup import StopAfter, assert_learns_once_it_has_an_env, assert_same_archives
from tests.algos.reptile_setup import LAKE, POINT, line_env, same, same_moments, state, tiny
from tests.strategies import plainly


@pytest.mark.parametrize("inner_optimizer", ["fresh", "carry"])
def test_an_interruption_leaves_the_last_complete_iteration(inner_optimizer, monkeypatch, tmp_path):
    agent = tiny(inner_optimizer=inner_optimizer, seed=0).learn(64)
    before = state(agent)
    train, calls = agent.learner.train, []

    def interrupt():
        train()
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(agent.learner, "train", interrupt)
    with pytest.raises(KeyboardInterrupt):
        agent.learn(128, reset_num_timesteps=False)
    assert same(state(agent), before)
    assert same_moments(state(agent), before)
    assert agent.num_timesteps == 64
    agent.save(tmp_path / "agent")
    assert same(state(Reptile.load(tmp_path / "agent")), before)
    monkeypatch.undo()
    agent.learn(64, reset_num_timesteps=False)
    assert agent.num_timesteps == 128


@pytest.mark.parametrize(
    ("env", "learner_class", "inner_optimizer"),
    [(POINT, PPO, "fresh"), (POINT, PPO, "carry"), (LAKE, DQN, "carry"), (LAKE, A2C, "fresh"), (POINT, SAC, "fresh")],
)
def test_a_run_with_save_and_load_between_ends_bit_identical(env, learner_class, inner_optimizer, tmp_path):
    kwargs = {"learner_class": learner_class, "inner_optimizer": inner_optimizer, "seed": 3}
    schedule = {"learning_rate": LinearSchedule(0.8, 0.2, 1.0)}
    if learner_class is not PPO:
        kwargs["learner_kwargs"] = {"n_steps": 4} if learner_class is A2C else {"batch_size": 4}
    whole = tiny(env, **kwargs, **schedule).learn(4 * 64)
    part = tiny(env, **kwargs, **schedule)
    part.learn(4 * 64, callback=StopAfter(2, tmp_path / "agent"))
    th.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    resumed = Reptile.load(tmp_path / "agent", device="cpu")
    resumed.learn(2 * 64, reset_num_timesteps=False)
    assert resumed.num_timesteps == whole.num_timesteps
    assert same(state(resumed), state(whole))
    if inner_optimizer == "carry":
        assert same_moments(state(resumed), state(whole))


def test_saving_again_after_loading_writes_the_same_file(tmp_path):
    tiny(seed=0).learn(64).save(tmp_path / "a")
    Reptile.load(tmp_path / "a").save(tmp_path / "b")
    assert_same_archives(tmp_path / "a", tmp_path / "b")


def test_loading_does_not_touch_the_random_states_until_learning_goes_on(tmp_path):
    tiny(seed=0).learn(64).save(tmp_path / "agent")
    before = get_rng_state()
    loaded = Reptile.load(tmp_path / "agent")
    loaded.adapt(gym.make(POINT).unwrapped.sample_task())
    assert all(np.array_equal(before[name], value) for name, value in get_rng_state().items())


def test_a_foreign_env_is_said_to_start_anew(tmp_path):
    tiny(line_env()).learn(1).save(tmp_path / "agent")
    with pytest.warns(UserWarning, match="starts anew"):
        Reptile.load(tmp_path / "agent", env=line_env())
    assert_learns_once_it_has_an_env(Reptile.load(tmp_path / "agent"), line_env())


def test_an_env_that_does_not_fit_is_refused(tmp_path):
    tiny(line_env()).save(tmp_path / "agent")
    with pytest.raises(ConfigError, match="were trained on"):
        Reptile.load(tmp_path / "agent", env=line_env(discrete=True))


class OwnActivation(th.nn.Tanh):
    pass


def test_what_a_file_cannot_hold_is_passed_again(tmp_path):
    agent = tiny(
        policy_kwargs={"net_arch": [8], "activation_fn": OwnActivation}, learning_rate=lambda progress: progress
    )
    agent.save(tmp_path / "agent")
    with pytest.raises(CheckpointError, match=r"'learning_rate'.*'policy_kwargs.activation_fn'"):
        Reptile.load(tmp_path / "agent")
    loaded = Reptile.load(
        tmp_path / "agent", custom_objects={"policy_kwargs.activation_fn": OwnActivation, "learning_rate": 0.5}
    )
    assert same(state(loaded), state(agent))
    assert loaded.lr_schedule(0.3) == 0.5


@pytest.mark.parametrize(
    "damage",
    [
        {"kind": "RL2"},
        {"arguments": {}},
        {"arguments": []},
        {"counters": {}},
        {"action_rng": {"bit_generator": "PCG64"}},
        {"n_envs": "many"},
    ],
    ids=plainly,
)
def test_a_damaged_checkpoint_is_refused(damage, tmp_path):
    tiny().save(tmp_path / "agent")
    meta, arrays = read_archive(tmp_path / "agent")
    write_archive(tmp_path / "agent", meta={**meta, **damage}, arrays=arrays)
    with pytest.raises((CheckpointError, ConfigError)):
        Reptile.load(tmp_path / "agent")


def test_no_env_is_made_that_the_file_alone_asks_for(tmp_path):
    tiny(LAKE).save(tmp_path / "agent")
    meta, arrays = read_archive(tmp_path / "agent")
    evil = {**meta, "env_id": "this:Zen-v0"}
    write_archive(tmp_path / "id", meta=evil, arrays=arrays)
    assert Reptile.load(tmp_path / "id").env is None
    evil = {**meta, "arguments": {**meta["arguments"], "env_kwargs": {"family": "this:s"}}}
    write_archive(tmp_path / "kwargs", meta=evil, arrays=arrays)
    assert Reptile.load(tmp_path / "kwargs").env is None
    assert "this" not in sys.modules
