"""The drop-in policy of RecurrentPPO: equal to sb3-contrib's own, in one call of the LSTM."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.env_util import make_vec_env
from torch import nn

from metagym.nets import (
    FusedRecurrentActorCriticCnnPolicy,
    FusedRecurrentActorCriticPolicy,
    FusedRecurrentMultiInputActorCriticPolicy,
    recurrent_ppo,
)
from metagym.nets.compiled_sequence import compiled_recurrence, has_numba

CRITICS = [
    {},
    {"enable_critic_lstm": False},
    {"enable_critic_lstm": False, "shared_lstm": True},
    {"n_lstm_layers": 2},
    {"share_features_extractor": False},
]
BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)


class Short(gym.Env):
    """Episodes of 2 to 7 steps of noise, some of them truncated."""

    def __init__(self, observation_space=BOX, action_space=None):
        self.observation_space = observation_space
        self.action_space = action_space or spaces.Discrete(3)

    def look(self):
        return self.observation_space.sample()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.left = int(self.np_random.integers(2, 8))
        return self.look(), {}

    def step(self, action):
        self.left -= 1
        over = self.left == 0
        return self.look(), float(np.sum(action)), over and self.np_random.random() < 0.5, over, {}


def agent_of(policy, env_kwargs=None, learn=120, **kwargs):
    env = make_vec_env(Short, n_envs=3, seed=0, env_kwargs=env_kwargs)
    settings = {"n_steps": 20, "batch_size": 30, "n_epochs": 2, "seed": 0, "device": "cpu"}
    policy_kwargs = {"lstm_hidden_size": 6, **kwargs.pop("policy_kwargs", {})}
    return RecurrentPPO(policy, env, policy_kwargs=policy_kwargs, **settings | kwargs).learn(learn)


def assert_same(ours, theirs):
    for (name, one), (other_name, other) in zip(
        ours.policy.named_parameters(), theirs.policy.named_parameters(), strict=True
    ):
        assert name == other_name
        th.testing.assert_close(one, other, atol=1e-6, rtol=0, msg=name)
    np.testing.assert_allclose(ours.rollout_buffer.rewards, theirs.rollout_buffer.rewards, atol=1e-6)


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("batch_size", [30, 60])
def test_two_updates_end_in_the_parameters_of_sb3_contrib(critic, batch_size):
    ours = agent_of(FusedRecurrentActorCriticPolicy, policy_kwargs=critic, batch_size=batch_size)
    theirs = agent_of("MlpLstmPolicy", policy_kwargs=critic, batch_size=batch_size)
    assert_same(ours, theirs)


@pytest.mark.parametrize(
    ("policy", "theirs", "space"),
    [
        (FusedRecurrentActorCriticCnnPolicy, "CnnLstmPolicy", spaces.Box(0, 255, (1, 36, 36), np.uint8)),
        (FusedRecurrentMultiInputActorCriticPolicy, "MultiInputLstmPolicy", spaces.Dict(a=BOX, b=spaces.Discrete(2))),
    ],
)
def test_images_and_dicts_have_their_policies_too(policy, theirs, space):
    env_kwargs = {"observation_space": space}
    assert_same(agent_of(policy, env_kwargs, 60), agent_of(theirs, env_kwargs, 60))


def test_continuous_actions_are_the_same_too():
    env_kwargs = {"action_space": spaces.Box(-1.0, 1.0, (2,), np.float32)}
    assert_same(agent_of(FusedRecurrentActorCriticPolicy, env_kwargs), agent_of("MlpLstmPolicy", env_kwargs))


def test_training_calls_the_lstm_once_for_actor_and_once_for_critic(monkeypatch):
    agent = agent_of(FusedRecurrentActorCriticPolicy, learn=60)
    lengths = []
    forward = nn.LSTM.forward

    def counted(self, sequence, state):
        lengths.append(len(sequence))
        return forward(self, sequence, state)

    monkeypatch.setattr(nn.LSTM, "forward", counted)
    agent.n_epochs = 3
    with compiled_recurrence(False):
        agent.train()
    assert len(lengths) == 3 * 2 * 2  # epochs, minibatches, networks
    assert max(lengths) > 1


@pytest.mark.skipif(not has_numba(), reason="numba is not installed")
def test_where_it_is_compiled_training_calls_the_loop_once_for_actor_and_once_for_critic(monkeypatch):
    agent = agent_of(FusedRecurrentActorCriticPolicy, learn=60)
    lengths = []
    sequence = recurrent_ppo.compiled_lstm_sequence

    def counted(data, weights, batch_sizes, initial):
        lengths.append(len(batch_sizes))
        return sequence(data, weights, batch_sizes, initial)

    monkeypatch.setattr(recurrent_ppo, "compiled_lstm_sequence", counted)
    agent.n_epochs = 3
    agent.train()
    assert len(lengths) == 3 * 2 * 2
    assert max(lengths) > 1


@pytest.mark.parametrize("critic", CRITICS)
def test_updates_without_numba_end_there_too(critic):
    with compiled_recurrence(False):
        ours = agent_of(FusedRecurrentActorCriticPolicy, policy_kwargs=critic)
    assert_same(ours, agent_of("MlpLstmPolicy", policy_kwargs=critic))


@pytest.mark.parametrize("starts", [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [1, 1, 0, 1]])
def test_resets_anywhere_in_a_sequence_mean_what_they_mean_there(starts):
    th.manual_seed(0)
    lstm = nn.LSTM(3, 5)
    features = th.randn(8, 3)
    state = (th.randn(1, 2, 5), th.randn(1, 2, 5))
    marks = th.tensor([*starts, 0, 0, 0, 0], dtype=th.float32)
    found = FusedRecurrentActorCriticPolicy._process_sequence(features, state, marks, lstm)
    expected = RecurrentActorCriticPolicy._process_sequence(features, state, marks, lstm)
    th.testing.assert_close(found[0], expected[0], atol=1e-6, rtol=0)
    for one, other in zip(found[1], expected[1], strict=True):
        th.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_learners_save_load_and_predict(tmp_path):
    agent = agent_of(FusedRecurrentActorCriticPolicy, learn=60)
    agent.save(tmp_path / "agent")
    loaded = RecurrentPPO.load(tmp_path / "agent")
    assert isinstance(loaded.policy, FusedRecurrentActorCriticPolicy)
    theirs = RecurrentPPO.load(tmp_path / "agent", custom_objects={"policy_class": RecurrentActorCriticPolicy})
    observation = np.ones(3, np.float32)
    state = None
    for _ in range(3):
        action, after = loaded.predict(observation, state, deterministic=True)
        other, expected = theirs.predict(observation, state, deterministic=True)
        assert action == other
        np.testing.assert_allclose(after[0], expected[0], atol=1e-6)
        state = after


def test_forward_takes_a_step_of_every_row():
    agent = agent_of(FusedRecurrentActorCriticPolicy, learn=60)
    zeros = (th.zeros(1, 3, 6), th.zeros(1, 3, 6))
    actions, values, log_prob, after = agent.policy(th.zeros(3, 3), RNNStates(zeros, zeros), th.ones(3))
    assert actions.shape == log_prob.shape == (3,)
    assert values.shape == (3, 1)
    assert after.pi[0].shape == (1, 3, 6)
