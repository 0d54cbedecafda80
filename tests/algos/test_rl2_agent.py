"""What agents of trials share: envs, adapting and checkpoints, whether they remember or look back."""

import numpy as np
import pytest

from metagym.algos.rl2_agent import env_state, restore_env_state
from metagym.errors import CheckpointError, ConfigError
from metagym.saving import read_archive, write_archive
from tests.algos.rl2_setup import LAKE, lake
from tests.algos.rl2_window_setup import FAMILY
from tests.algos.rl2_window_setup import make as window

AGENTS = {"memory": lake, "window": lambda: window("DQN", LAKE)}


@pytest.fixture(scope="module", params=AGENTS)
def agent(request):
    return AGENTS[request.param]()


def test_an_agent_says_what_it_was_trained_on(agent):
    assert agent.env_id == LAKE
    kwargs = agent.env_kwargs
    assert kwargs.items() <= FAMILY[LAKE]["env_kwargs"].items()
    kwargs["size"] = 99
    assert agent.env_kwargs["size"] == 4


def test_scalar_envs_have_the_observations_and_tasks_that_were_asked_for(agent):
    env = agent.make_env()
    assert env.observation_space == agent.observation_space
    task = env.unwrapped.sample_task()
    again = agent.make_env(task)
    again.reset(seed=0)
    assert again.unwrapped.get_task() == task


def test_adapting_plays_as_many_episodes_as_a_trial_has_or_as_it_is_told(agent):
    task = agent.make_env().unwrapped.sample_task()
    assert agent.adapt(task, seed=0).returns.shape == (2,)
    assert agent.adapt(task, episodes=3, seed=0).returns.shape == (3,)
    for episodes in (0, 1.0, True):
        with pytest.raises(ConfigError, match="episodes must be an integer of at least 1"):
            agent.adapt(task, episodes=episodes)


def test_the_state_of_an_env_is_put_back_into_one_like_it(agent):
    agent.env.reset()
    stored = env_state(agent.env)
    actions = np.zeros(agent.n_envs, np.int64)
    expected = [agent.env.step(actions) for _ in range(12)]
    assert restore_env_state(agent.env, stored)
    for observations, rewards, dones, _ in expected:
        again = agent.env.step(actions)
        for before, after in zip((observations, rewards, dones), again[:3], strict=True):
            np.testing.assert_array_equal(before, after)
    assert not restore_env_state(agent.env, {})


def test_only_paths_are_written_to(agent):
    with pytest.raises(ConfigError, match="saves to a path, not to a int"):
        agent.save(3)


@pytest.mark.parametrize("change", [{"policy": 3}, None])
def test_counters_are_those_that_the_algorithm_has(agent, change, tmp_path):
    agent.save(tmp_path / "agent")
    meta, arrays = read_archive(tmp_path / "agent")
    if change is None:
        del meta["counters"]["num_timesteps"]
    else:
        meta["counters"] |= change
    write_archive(tmp_path / "agent", meta=meta, arrays=arrays)
    with pytest.raises(CheckpointError, match=r"is damaged|unknown counter 'policy'"):
        type(agent).load(tmp_path / "agent")
