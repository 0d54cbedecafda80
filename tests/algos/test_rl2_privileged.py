"""A critic that is told the task: in training alone, and never the actor."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from metagym.algos.rl2 import RL2
from metagym.errors import ConfigError
from metagym.learner_state import preserved_rng
from metagym.nets import PackedTrials
from metagym.wrappers import RL2Context, Trial
from tests.algos.rl2_setup import BANDIT, assert_predicts_alike, assert_same_parameters, parameters
from tests.rollout.rollout_setup import Counting

ARMS = 3
SETTINGS = {"env_kwargs": {"num_arms": ARMS}, "episodes_per_trial": 4, "n_envs": 3, "n_steps": 6, "seed": 0}


def bandit(learner_class=PPO, privileged_critic=True, **kwargs):
    settings = {**SETTINGS, "policy_kwargs": {"rnn_hidden_size": 4}, **kwargs}
    if learner_class is not A2C:
        settings |= {"batch_size": 9}
    return RL2("MlpPolicy", BANDIT, learner_class=learner_class, privileged_critic=privileged_critic, **settings)


class Keep(BaseCallback):
    """Keeps the rollouts that are trained on, each as one batch."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        with preserved_rng():
            self.batches += list(self.model.rollout_buffer.get(None))


def batch_of(agent):
    keep = Keep()
    agent.learn(24, callback=keep)
    return keep.batches[-1]


def others(batch):
    """The same trials of other tasks."""
    trials = batch.observations
    return PackedTrials(trials.data, trials.batch_sizes, th.randn_like(trials.tasks))


def slopes(agent, loss):
    every = dict(agent.policy.named_parameters())
    found = th.autograd.grad(loss, list(every.values()), allow_unused=True)
    return {name: slope for name, slope in zip(every, found, strict=True) if slope is not None}


@pytest.mark.parametrize("share", [True, False])
def test_the_policy_does_not_depend_on_what_the_critic_is_told(share):
    agent = bandit(policy_kwargs={"rnn_hidden_size": 4, "share_features_extractor": share})
    batch = batch_of(agent)
    actions = batch.actions.long().flatten()
    found = []
    for trials in (batch.observations, others(batch)):
        values, log_prob, entropy = agent.policy.evaluate_actions(trials, actions)
        found.append((values.detach(), slopes(agent, (log_prob * batch.advantages).sum() + entropy.sum())))
    assert not th.equal(found[0][0], found[1][0])
    assert found[0][1].keys() == found[1][1].keys()
    assert not any("task_reader" in name or "value_net" in name for name in found[0][1])
    for name, slope in found[0][1].items():
        assert th.equal(slope, found[1][1][name]), name


def test_by_default_not_even_the_whole_loss_brings_the_task_to_the_actor():
    agent = bandit()
    batch = batch_of(agent)
    actions = batch.actions.long().flatten()
    of_actor = []
    for trials in (batch.observations, others(batch)):
        values, log_prob, _ = agent.policy.evaluate_actions(trials, actions)
        loss = (values.flatten() - batch.returns).square().mean() - (log_prob * batch.advantages).mean()
        of_actor.append(
            {name: slope for name, slope in slopes(agent, loss).items() if name.startswith(("rnn.", "act"))}
        )
    assert len(of_actor[0]) == 6
    for name, slope in of_actor[0].items():
        assert th.equal(slope, of_actor[1][name]), name


def test_predict_does_not_read_the_task():
    agent = bandit().learn(24)
    observations = np.random.default_rng(0).normal(size=(3, *agent.observation_space.shape)).astype(np.float32)
    first, state = agent.predict(observations, deterministic=True)
    agent._tasks += 100.0
    again, other = agent.predict(observations, deterministic=True)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(state[0], other[0])
    with th.no_grad():
        agent.policy.task_reader[0].weight.mul_(-3.0)
    np.testing.assert_array_equal(agent.predict(observations, deterministic=True)[0], first)


def test_every_step_is_recorded_with_the_task_being_played():
    class Follow(Keep):
        def _on_step(self):
            # Asked after a step, the env tells the tasks of the next one.
            means = np.stack([task["means"] for task in self.training_env.env_method("get_task")])
            columns, pos = self.model.rollout_buffer._columns, self.model.rollout_buffer.pos
            if self.n_calls > 1:
                np.testing.assert_allclose(columns["tasks"][pos - 1], self.expected, atol=1e-6)
            self.expected = 2.0 * means - 1.0
            return True

    # Trials of four pulls in rollouts of six steps are carried over.
    follow = Follow()
    bandit().learn(72, callback=follow)
    assert len({tuple(task) for batch in follow.batches for task in batch.observations.tasks.numpy()}) == 18
    for batch in follow.batches:
        assert batch.observations.batch_sizes == (len(batch.returns) // 4,) * 4
        in_time = batch.observations.tasks.view(4, -1, ARMS)
        assert th.equal(in_time, in_time[:1].expand_as(in_time))


@pytest.mark.parametrize("learner_class", [PPO, A2C, TRPO])
def test_resumed_training_is_uninterrupted_training(tmp_path, learner_class):
    class SaveAt(BaseCallback):
        def _on_step(self):
            if self.num_timesteps == 42:
                self.model.save(tmp_path / "agent")
            return True

    through = bandit(learner_class).learn(72, callback=SaveAt())
    expected = parameters(through)
    resumed = RL2.load(tmp_path / "agent")
    assert resumed.policy.critic_task_size == ARMS
    resumed.learn(30, reset_num_timesteps=False)
    assert_same_parameters(resumed, expected)


def test_an_env_that_stops_telling_is_reset_before_the_next_learn():
    agent = bandit().learn(24)
    read = agent._task_reader.read
    agent._task_reader.read = lambda rows: 1 / 0
    with pytest.raises(ZeroDivisionError):
        agent.learn(24, reset_num_timesteps=False)
    agent._task_reader.read = read
    steps = agent.num_timesteps
    agent.learn(24, reset_num_timesteps=False)
    assert agent.num_timesteps == steps + 36
    assert agent.rollout_buffer.pos == agent.rollout_buffer._first.max() == 0


def scalar_rows():
    return DummyVecEnv([lambda: RL2Context(Trial(gym.make(BANDIT, num_arms=ARMS), episodes_per_trial=4))] * 3)


def test_scalar_envs_in_an_sb3_vec_env_tell_their_tasks_too(tmp_path):
    agent = RL2("MlpPolicy", scalar_rows(), privileged_critic=True, n_steps=4, batch_size=12, n_epochs=1).learn(24)
    agent.save(tmp_path / "agent")
    loaded = RL2.load(tmp_path / "agent")  # without an env, and so without anybody to ask
    assert_predicts_alike(agent, loaded)
    assert loaded.policy.critic_task_size == ARMS


def test_envs_that_do_not_tell_or_have_other_tasks_are_refused():
    with pytest.raises(ConfigError, match="cannot tell them"):
        RL2("MlpPolicy", Trials([[2], [3]]), privileged_critic=True, n_steps=4, batch_size=8)
    agent = bandit()
    with pytest.raises(ConfigError, match="cannot tell them"):
        agent.set_env(Trials([[2]] * 3))
    told_otherwise = Trials([[2]] * 3)
    told_otherwise.task_space = spaces.Dict(level=spaces.Box(0.0, 1.0, (), np.float64))
    with pytest.raises(ConfigError, match="built for tasks of 3 numbers; those of this env have 1"):
        agent.set_env(told_otherwise)


class Trials(Counting):
    episodes_per_trial = None


@pytest.mark.slow
def test_a_critic_that_knows_the_arms_predicts_returns_better():
    errors = []
    for privileged in (False, True):
        agent = RL2(
            "MlpPolicy",
            BANDIT,
            env_kwargs={"num_arms": ARMS},
            episodes_per_trial=10,
            privileged_critic=privileged,
            gae_lambda=0.95,
            policy_kwargs={"rnn_hidden_size": 16, "share_features_extractor": False},
            seed=0,
        )
        agent.learn(80_000)
        batch = batch_of(agent)
        errors.append(float((batch.old_values - batch.returns).square().mean()))
    assert errors[1] < 0.8 * errors[0]
