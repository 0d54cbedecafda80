"""Positions in training: what is in them, what copies, and what cannot be put back."""

import numpy as np
import pytest
from sb3_contrib import RecurrentPPO
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import VecFrameStack

from metagym.algos.multi_task_state import (
    forget_episode,
    replay_contents,
    restore_env,
    restore_position,
    take_position,
)
from metagym.errors import CheckpointError
from metagym.sections import section
from tests.algos.multi_task_setup import tiny
from tests.algos.reptile_setup import line_env


def test_a_position_is_a_copy_and_putting_it_back_undoes_learning():
    learner = tiny(RecurrentPPO).learn(64).learner
    position = take_position(learner)
    before = {name: array.copy() for name, array in position.arrays.items()}
    learner.learn(64, reset_num_timesteps=False)
    assert all(np.array_equal(before[name], array, equal_nan=True) for name, array in position.arrays.items())
    assert learner.num_timesteps == 128
    restore_position(learner, position.meta, position.arrays)
    assert restore_env(learner.env, section("env", position.arrays))
    again = take_position(learner)
    assert again.meta == position.meta
    assert again.arrays.keys() == before.keys()
    untouched = [name for name in before if not name.startswith("rng/")]
    assert all(np.array_equal(before[name], again.arrays[name], equal_nan=True) for name in untouched)


def test_only_the_filled_part_of_a_buffer_is_stored():
    learner = tiny(SAC).learn(40).learner
    assert learner.replay_buffer.pos == 10
    assert {len(array) for array in replay_contents(learner).values()} == {11}
    learner.learn(100, reset_num_timesteps=False)
    assert {len(array) for array in replay_contents(learner).values()} == {24}


def test_a_forgotten_episode_ends_in_a_buffer_that_keeps_observations_once():
    own = {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
    learner = tiny(SAC, learner_kwargs=own).learn(40).learner
    assert not learner.replay_buffer.dones[9].any()
    forget_episode(learner)
    assert learner.replay_buffer.dones[9].all()
    assert not learner.replay_buffer.dones[8].any()
    assert learner._last_obs is None


def test_envs_whose_state_is_unknown_are_not_put_back():
    agent = tiny(env=line_env()).learn(64)
    position = take_position(agent.learner)
    assert section("env", position.arrays) == {}
    assert not restore_env(agent.env, {})
    stacked = tiny(env=VecFrameStack(tiny().env, 2)).learn(64)
    assert section("env", take_position(stacked.learner).arrays) == {}


def test_the_state_of_another_env_is_refused():
    agent = tiny().learn(64)
    stored = section("env", take_position(tiny(n_envs=2).learn(64).learner).arrays)
    with pytest.raises(CheckpointError, match="does not take"):
        restore_env(agent.env, {name: array for name, array in stored.items() if name != "native/elapsed"})
