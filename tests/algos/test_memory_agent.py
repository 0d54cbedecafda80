"""Agents without training: what they read from observations, when they forget, what random numbers hang on."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th

from metagym.algos.bandit_agents import GreedyBandit, ThompsonSampling
from metagym.algos.base import MemoryLearner
from metagym.algos.mdp_agents import PSRL, GreedyMDP, QLearning
from metagym.algos.memory_agent import MemoryAgent, between, whole
from metagym.errors import ConfigError
from metagym.protocol import common_kind
from metagym.registry import make_family
from metagym.wrappers import RL2Context, Trial


class Recorder(MemoryAgent):
    """Keeps what it was shown."""

    plays = "anything"

    @classmethod
    def suits(cls, family):
        return family is not None

    def blank(self, num_rows):
        return (np.zeros(num_rows),)

    def act(self, seen, memory, deterministic):
        self.seen = seen
        return np.zeros(len(seen.fresh), np.int64), (memory[0] + 1,)


def test_it_reads_the_observations_of_the_wrapper():
    env = RL2Context(Trial(gym.make_vec("MetaTabularMDP-v0", num_envs=3), episodes_per_trial=2))
    agent = Recorder(env=env, episodes_per_trial=2)
    observation, _ = env.reset(seed=0)
    _, state = agent.predict(observation)
    assert agent.seen.fresh.all()
    assert agent.seen.boundary.all()
    for step in range(1, 12):
        actions = np.array([0, 1, 4])
        observation, reward, *_ = env.step(actions)
        _, state = agent.predict(observation, state, np.zeros(3, np.bool_))
        assert agent.seen.action.tolist() == actions.tolist()
        np.testing.assert_allclose(agent.seen.reward, reward, rtol=1e-6)
        assert agent.seen.boundary.tolist() == [step == 10] * 3
        assert not agent.seen.fresh.any()
        assert agent.seen.look.shape == (3, 10)
        assert (agent.seen.look.sum(axis=1) == 1.0).all()
    assert state[0].tolist() == [12.0] * 3


def test_a_trial_begins_where_it_is_said_and_where_no_action_is_shown():
    agent = Recorder(env="MetaBandit-v0", episodes_per_trial=2)
    shown = np.zeros((3, 13), np.float32)
    shown[:2, 4] = 1.0
    agent.predict(shown, agent.blank(3), np.array([False, True, False]))
    assert agent.seen.fresh.tolist() == [False, True, True]
    agent.predict(shown, agent.blank(3))
    assert agent.seen.fresh.tolist() == [False, False, True]
    agent.predict(shown)
    assert agent.seen.fresh.all()


def test_one_observation_gets_one_action():
    agent = Recorder(env="MetaBandit-v0", episodes_per_trial=2)
    action, _ = agent.predict(np.zeros(13, np.float32))
    assert action.shape == ()


@pytest.mark.parametrize(("kind", "env_id"), [(ThompsonSampling, "MetaBandit-v0"), (PSRL, "MetaTabularMDP-v0")])
def test_its_random_numbers_hang_on_the_global_generator_of_torch(kind, env_id):
    agent = kind(env=env_id, episodes_per_trial=2, seed=3)
    rows = np.stack([agent.make_env().reset(seed=0)[0]] * 200)
    first = agent.predict(rows)[0]
    assert not np.array_equal(first, agent.predict(rows)[0])
    agent.set_random_seed(3)
    assert np.array_equal(first, agent.predict(rows)[0])
    before = th.get_rng_state()
    kind(env=env_id, episodes_per_trial=2)
    assert th.equal(before, th.get_rng_state())


@pytest.mark.parametrize(
    ("kind", "env_id"),
    [(GreedyBandit, "MetaBandit-v0"), (GreedyMDP, "MetaTabularMDP-v0"), (QLearning, "MetaTabularMDP-v0")],
)
def test_evaluation_takes_it_for_what_learns_in_its_memory(kind, env_id):
    agent = kind("MlpPolicy", gym.make_vec(env_id, num_envs=2), episodes_per_trial=3, seed=0)
    assert isinstance(agent, MemoryLearner)
    assert common_kind([agent], make_family(env_id), env_id) == ("memory", "episodes")
    assert agent.learn(10) is agent
    assert agent.num_timesteps == 0
    env = agent.make_env(split="test")
    assert env.observation_space == agent.observation_space
    observation, _ = env.reset(seed=0)
    state, over = None, False
    while not over:
        action, state = agent.predict(observation, state)
        observation, _, over, _, _ = env.step(action)


@pytest.mark.parametrize("env", [None, "CartPole-v1", "MetaPointGoal-v0", "MetaTabularMDP-v0"])
def test_other_envs_are_refused_by_agents_for_bandits(env):
    with pytest.raises(ConfigError, match="plays Bernoulli bandits"):
        GreedyBandit(env=env, episodes_per_trial=2)


@pytest.mark.parametrize("env", [None, "MetaBandit-v0", "MetaFrozenLake-v0"])
def test_other_envs_are_refused_by_agents_for_processes(env):
    with pytest.raises(ConfigError, match="plays random tabular"):
        PSRL(env=env, episodes_per_trial=2)


@pytest.mark.parametrize("value", [None, 0, 2.0, True, "3"])
def test_numbers_of_episodes_are_whole_and_positive(value):
    with pytest.raises(ConfigError, match="episodes_per_trial="):
        GreedyBandit(env="MetaBandit-v0", episodes_per_trial=value)


def test_arguments_in_range_are_taken_and_others_named():
    assert whole("num_samples", np.int64(3), 1) == 3
    assert between("epsilon", 1, 0.0, 1.0) == 1.0
    for wrong in (True, float("nan"), 1.1, "0.5", None):
        with pytest.raises(ConfigError, match=r"epsilon=.* in \[0, 1\]"):
            between("epsilon", wrong, 0.0, 1.0)
