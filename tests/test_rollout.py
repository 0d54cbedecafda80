"""Rollouts of whole trials: what is trained on is complete, in order, and never mixed."""

import os
import signal

import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import set_random_seed

from metagym.errors import ConfigError
from metagym.rollout import TrialBuffer, split_by_size, uninterrupted
from tests.rollout.rollout_setup import GAMMA, Counting, OurTRPO, TrialA2C, TrialPPO, Watch, make

LAMBDA = 0.8


def filled_buffer(lengths, n_steps, rewards=None):
    """A buffer after `n_steps` steps of rows whose trials have `lengths`; values count steps down from 1."""
    env = Counting(lengths)
    buffer = TrialBuffer(n_steps, env.observation_space, env.action_space, "cpu", LAMBDA, GAMMA, n_envs=env.num_envs)
    add_steps(buffer, env, env.reset(), n_steps)
    return buffer, env


def add_steps(buffer, env, obs, n_steps):
    for _ in range(n_steps):
        actions = np.zeros(env.num_envs, np.int64)
        new_obs, rewards, dones, _ = env.step(actions)
        row = th.as_tensor(obs)
        buffer.add(obs, actions, rewards, dones, row[:, 2] / 2, -row[:, 1])
        obs = new_obs
    return obs


def naive_gae(rewards, values):
    """Advantages of one complete trial by the definition: sums of discounted one-step errors."""
    following = [*values[1:], 0.0]
    errors = [r + GAMMA * v1 - v for r, v, v1 in zip(rewards, values, following, strict=True)]
    return [
        sum((GAMMA * LAMBDA) ** (later - t) * errors[later] for later in range(t, len(errors)))
        for t in range(len(errors))
    ]


def test_advantages_of_a_trial_by_hand():
    buffer, _ = filled_buffer([[2]], 2)
    buffer.compute_returns_and_advantage()
    # Rewards 1, 2; values 0, 1/2. delta_1 = 2 - 0.5 = 1.5; delta_0 = 1 + 0.9 * 0.5 - 0 = 1.45.
    np.testing.assert_allclose(buffer.advantages, [1.45 + 0.9 * 0.8 * 1.5, 1.5], rtol=1e-6)
    np.testing.assert_allclose(buffer.returns, [1.45 + 0.9 * 0.8 * 1.5, 2.0], rtol=1e-6)


def test_advantages_equal_a_naive_loop_over_trials():
    lengths = [[3, 1, 5], [4], [2, 7]]
    buffer, _ = filled_buffer(lengths, 12)
    buffer.compute_returns_and_advantage()
    start = 0
    for env, length in zip(buffer.trials.env, buffer.trials.length, strict=True):
        trial = sum(buffer.trials.env[: np.flatnonzero(np.cumsum(buffer.trials.length) > start)[0]] == env)
        rewards = [100.0 * trial + t + 1 for t in range(length)]
        expected = naive_gae(rewards, [t / 2 for t in range(length)])
        np.testing.assert_allclose(buffer.advantages[start : start + length], expected, rtol=1e-5)
        start += length
    assert start == len(buffer.advantages)


def test_what_lies_outside_complete_trials_is_not_trained_on():
    kept, _ = filled_buffer([[3], [5]], 7)
    spoilt, _ = filled_buffer([[3], [5]], 7)
    for name in ("rewards", "values", "log_probs"):
        spoilt._columns[name][6, 0] = np.nan
        spoilt._columns[name][5:, 1] = np.nan
    samples = []
    for buffer in (kept, spoilt):
        set_random_seed(0)
        buffer.compute_returns_and_advantage()
        samples.append(next(buffer.get(None)))
    first, second = samples
    assert first.observations.batch_sizes == (3, 3, 3, 1, 1)
    for name in ("actions", "old_values", "old_log_prob", "advantages", "returns"):
        assert th.equal(getattr(first, name), getattr(second, name))
    assert th.equal(first.observations.data, second.observations.data)


def test_minibatches_hold_every_trial_once_and_in_step():
    buffer, _ = filled_buffer([[3, 2], [4], [1], [6, 5]], 24)
    buffer.compute_returns_and_advantage()
    seen = []
    for sample in buffer.get(12):
        data, sizes, _ = sample.observations
        assert sum(sizes) == len(data) == len(sample.advantages)
        assert list(sizes) == sorted(sizes, reverse=True)
        start = 0
        for time, size in enumerate(sizes):
            assert data[start : start + size, 2].tolist() == [time] * size
            start += size
        np.testing.assert_allclose(sample.old_values, data[:, 2] / 2)
        np.testing.assert_allclose(sample.old_log_prob, -data[:, 1])
        seen += [tuple(row) for row in data.tolist()]
    assert len(seen) == len(set(seen)) == buffer.trials.length.sum()


def test_trials_in_phase_leave_nothing_behind():
    buffer, _ = filled_buffer([[4], [2]], 8)
    buffer.compute_returns_and_advantage()
    buffer.release()
    assert buffer.pos == 0


def test_a_buffer_grows_when_steps_are_added_beyond_its_size():
    buffer, env = filled_buffer([[9]], 4)
    add_steps(buffer, env, env.observe(), 5)
    buffer.compute_returns_and_advantage()
    assert next(buffer.get(None)).observations.data[:, 2].tolist() == list(range(9))


def test_a_buffer_continues_from_its_saved_state():
    buffer, env = filled_buffer([[5, 3], [4]], 7)
    buffer.compute_returns_and_advantage()
    buffer.release()
    other, _ = filled_buffer([[5, 3], [4]], 1)
    other.set_state(buffer.get_state())
    obs = env.observe()
    for one in (buffer, other):
        one_env = Counting(env.lengths)
        one_env.trial, one_env.time = env.trial.copy(), env.time.copy()
        add_steps(one, one_env, obs, 7)
        one.compute_returns_and_advantage()
    np.testing.assert_array_equal(buffer.advantages, other.advantages)


def test_trials_are_dealt_in_about_equal_parts():
    lengths = np.array([4, 1, 3, 2, 2, 4])
    order = np.arange(6)
    assert [group.tolist() for group in split_by_size(order, lengths, 8)] == [[0, 1, 2], [3, 4, 5]]
    assert [group.tolist() for group in split_by_size(order, lengths, None)] == [[0, 1, 2, 3, 4, 5]]
    assert [group.tolist() for group in split_by_size(order, lengths, 1)] == [[i] for i in range(6)]
    assert [group.tolist() for group in split_by_size(order, lengths, 1000)] == [[0, 1, 2, 3, 4, 5]]


def test_first_and_last_returns_of_trials():
    buffer, _ = filled_buffer([[5], [2]], 6)
    # Episodes begin where the observed step is 0 or 3: mark them in the last column.
    buffer._columns["observations"][..., 2] = np.isin(buffer._columns["observations"][..., 2], (0, 3))
    buffer.compute_returns_and_advantage()
    first, last = buffer.first_and_last_returns(boundary=-1)
    # Rewards 1..5 of row 0: episodes 1+2+3 and 4+5. Row 1: trials of 1+2, 101+102, 201+202 without a second episode.
    assert first.tolist() == [6, 3, 203, 403]
    assert last.tolist() == [9, 3, 203, 403]


def test_every_trial_is_trained_on_once_whole_and_in_order():
    lengths = [[3, 5], [4], [7, 2]]
    watch = Watch()
    agent = make(Counting(lengths)).learn(120, callback=watch)
    seen = {}
    for rollout in watch.rollouts:
        assert not seen.keys() & rollout.keys()
        seen |= rollout
    for (row, trial), steps in seen.items():
        assert steps == list(range(lengths[row][trial % len(lengths[row])]))
    for row in range(3):
        played = [trial for other, trial in seen if other == row]
        assert played == list(range(len(played)))
    assert agent.num_timesteps == 120
    held = sum(map(len, seen.values())) + int((agent.rollout_buffer.pos - agent.rollout_buffer._first).sum())
    assert held == 120


def test_a_rollout_goes_on_until_a_trial_is_complete():
    watch = Watch()
    agent = make(Counting([[10], [11]])).learn(20, callback=watch)
    assert agent.num_timesteps == 20
    assert list(watch.rollouts[0]) == [(0, 0)]


def test_recorded_log_probabilities_are_those_of_the_whole_trials():
    agent = make(Counting([[3, 5], [4], [7, 2]]), n_epochs=1, learning_rate=0.0)
    recorded = []

    class Compare(Watch):
        def _on_rollout_end(self):
            sample = next(self.model.rollout_buffer.get(None))
            actions = sample.actions.long().flatten()
            values, log_probs, _ = self.model.policy.evaluate_actions(sample.observations, actions)
            recorded.append(len(actions))
            th.testing.assert_close(log_probs, sample.old_log_prob, atol=1e-5, rtol=0)
            th.testing.assert_close(values.flatten(), sample.old_values, atol=1e-5, rtol=0)

    agent.learn(72, callback=Compare())
    assert sum(recorded) > 48


def test_truncated_trials_bootstrap_from_their_last_observation():
    agents = [make(Counting([[4]], truncate=truncate), batch_size=4) for truncate in (False, True)]
    rewards = []
    for agent in agents:
        watch = Watch()
        agent._setup_learn(4, None)
        watch.init_callback(agent)
        agent.collect_rollouts(agent.env, watch, agent.rollout_buffer, 4)
        rewards.append(agent.rollout_buffer._columns["rewards"][:, 0].copy())
    observations = th.tensor([[0.0, 0.0, t] for t in range(5)])
    policy = agents[0].policy
    state = policy.zero_state(1)
    for t in range(4):
        _, state = policy._remember(observations[t : t + 1], state, None)
    expected = rewards[0] + np.array([0, 0, 0, GAMMA * policy.value(observations[4:], state).item()])
    np.testing.assert_allclose(rewards[1], expected, rtol=1e-6)


@pytest.mark.parametrize("learner", [TrialPPO, TrialA2C, OurTRPO])
@pytest.mark.parametrize("rnn_type", ["gru", "lstm"])
def test_sb3_trains_unchanged(learner, rnn_type):
    env = Counting([[4], [3, 6]])
    agent = make(env, learner, policy_kwargs={"rnn_hidden_size": 4, "rnn_type": rnn_type})
    before = [p.detach().clone() for p in agent.policy.parameters()]
    agent.learn(64)
    assert any(not th.equal(old, new) for old, new in zip(before, agent.policy.parameters(), strict=True))
    assert all(th.isfinite(p).all() for p in agent.policy.parameters())


def test_stopping_in_mid_rollout_changes_nothing():
    class StopAt(Watch):
        def _on_step(self):
            return self.num_timesteps < 10

    through, after = Watch(), Watch()
    expected = make(Counting([[3, 5], [4]])).learn(32, callback=through)
    agent = make(Counting([[3, 5], [4]]))
    agent.learn(32, callback=StopAt())
    assert agent.num_timesteps == 10
    agent.learn(22, callback=after, reset_num_timesteps=False)
    assert agent.env.resets == 1
    assert after.rollouts == through.rollouts[1:]
    for one, other in zip(agent.policy.parameters(), expected.policy.parameters(), strict=True):
        assert th.equal(one, other)


def test_starting_anew_forgets_unfinished_trials():
    agent = make(Counting([[3, 5], [4]]))
    agent.learn(24)
    watch = Watch()
    agent.learn(8, callback=watch)
    assert agent.env.resets == 2
    assert watch.rollouts == [{(0, 0): [0, 1, 2], (1, 0): [0, 1, 2, 3]}]


def test_an_env_that_raises_is_reset_before_the_next_learn():
    env = Counting([[4], [4]])
    agent = make(env)
    agent.learn(8)
    env.step_wait, working = lambda: 1 / 0, env.step_wait
    with pytest.raises(ZeroDivisionError):
        agent.learn(8, reset_num_timesteps=False)
    env.step_wait = working
    agent.learn(8, reset_num_timesteps=False)
    assert env.resets == 2


def test_ctrl_c_waits_for_the_end_of_the_block():
    reached = []

    def block():
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            reached.append("end")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert reached == ["end"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_in_an_update_lets_it_finish(monkeypatch):
    agent = make(Counting([[4], [4]]))
    original = PPO.train

    def interrupted_train(self):
        os.kill(os.getpid(), signal.SIGINT)
        original(self)

    monkeypatch.setattr(PPO, "train", interrupted_train)
    with pytest.raises(KeyboardInterrupt):
        agent.learn(80)
    assert agent.num_timesteps == 8
    assert agent._n_updates == 2
    assert agent.rollout_buffer.pos == 0


def test_other_policies_and_buffers_are_refused():
    with pytest.raises(ConfigError, match="must be a TrialActorCriticPolicy"):
        TrialPPO(ActorCriticPolicy, Counting([[4], [4]]), n_steps=4, batch_size=8)
    with pytest.raises(ConfigError, match="must be a TrialBuffer, not RolloutBuffer"):
        TrialPPO("MlpPolicy", Counting([[4], [4]]), n_steps=4, batch_size=8, rollout_buffer_class=RolloutBuffer)
