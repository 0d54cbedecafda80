"""Wrapped vector envs against `SyncVectorEnv` of wrapped scalar envs, bit for bit."""

import gymnasium as gym
import pytest

from metagym.wrappers import RevealTask, RL2Context, Trial
from tests.parity import MODES, assert_parity
from tests.strategies import FAMILIES, scalar_env, vector_env

LAKE = ("MetaFrozenLake-v0", {"episode_length": 7})
SMALL_LAKE = ("MetaFrozenLake-v0", {"size": 2, "remap_actions": True, "success_rate": (0.6, 1.0)})
BANDIT = ("MetaBandit-v0", {})
POINT = ("MetaPointGoal-v0", {"episode_length": 3})

WRAPS = {
    "trial": lambda env: Trial(env, episodes_per_trial=3),
    "steps": lambda env: Trial(env, steps_per_trial=11),
    "rl2": lambda env: RL2Context(Trial(env, episodes_per_trial=3)),
    "rl2 steps": lambda env: RL2Context(Trial(env, steps_per_trial=8), reward_scale=0.1),
    "reveal": RevealTask,
    "reveal outside": lambda env: RevealTask(RL2Context(Trial(env, episodes_per_trial=2))),
    "reveal inside": lambda env: RL2Context(Trial(RevealTask(env), episodes_per_trial=2)),
    "reveal between": lambda env: RL2Context(RevealTask(Trial(env, steps_per_trial=9))),
}


def check(wrap, env_id, kwargs, mode, *, num_envs=3, max_episode_steps=None, num_steps=80):
    limit = {} if max_episode_steps is None else {"max_episode_steps": max_episode_steps}
    vector_env = wrap(gym.make_vec(env_id, num_envs=num_envs, autoreset_mode=mode, **kwargs, **limit))
    return assert_parity(vector_env, lambda: wrap(gym.make(env_id, **kwargs, **limit)), num_steps=num_steps)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", [LAKE, BANDIT, POINT], ids=lambda family: family[0])
@pytest.mark.parametrize("name", ["trial", "steps", "rl2"])
def test_wrapped_rows_equal_wrapped_scalar_envs_in_every_mode(name, family, mode):
    assert check(WRAPS[name], *family, mode) > 5


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", sorted(set(WRAPS) - {"trial", "steps", "rl2"}))
def test_every_order_of_wrappers_agrees(name, mode):
    assert check(WRAPS[name], *SMALL_LAKE, mode) > 5


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["rl2", "reveal outside"])
@pytest.mark.parametrize("family", FAMILIES)
def test_families_with_random_starts_and_ends_agree(family, name, mode):
    env = WRAPS[name](vector_env(family, 3, autoreset_mode=mode, reveal_task=True))
    assert assert_parity(env, lambda: WRAPS[name](scalar_env(family, reveal_task=True)), num_steps=60) > 5


@pytest.mark.parametrize("mode", MODES)
def test_a_time_limit_inside_cuts_episodes_of_rows_and_of_scalar_envs_alike(mode):
    assert check(WRAPS["rl2"], *LAKE, mode, max_episode_steps=4) > 5


@pytest.mark.parametrize("num_envs", [1, 7])
def test_the_number_of_rows_does_not_matter(num_envs):
    assert check(WRAPS["rl2"], *LAKE, MODES[0], num_envs=num_envs) > 0
