"""What tests do not seed: drawn the same in every run, by the fixture of conftest.py."""

import random

import gymnasium as gym
import numpy as np
import torch as th

import metagym  # noqa: F401 - registers


def drawn():
    env = gym.make("MetaPointGoal-v0")
    env.reset()
    return env.unwrapped.get_task().id, env.action_space.sample().tolist()


def test_generators_that_are_not_seeded_draw_the_same_in_every_run():
    assert np.random.SeedSequence().entropy == random.Random(0).getrandbits(128)
    assert random.random() == random.Random(0).random()
    assert np.random.random_sample() == np.random.RandomState(0).random_sample()  # noqa: NPY002 - SB3 draws from it
    assert th.rand(()) == th.rand((), generator=th.Generator().manual_seed(0))


def test_envs_that_are_not_seeded_draw_the_same_tasks_in_every_run_and_differ_from_each_other(same_draws):
    first, second = drawn(), drawn()
    same_draws()

    assert [drawn(), drawn()] == [first, second]
    assert first[0] != second[0]
    assert first[1] != second[1]
