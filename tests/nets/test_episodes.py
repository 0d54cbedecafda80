"""Entropies by episode: which steps lie in later episodes, what they count, and where nobody could tell."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.logger import Logger

from metagym.algos import RL2
from metagym.errors import ConfigError
from metagym.nets import PackedTrials, TrialActorCriticPolicy
from metagym.nets.episodes import in_later_episodes
from metagym.wrappers.context import CONTEXT
from tests.nets.packing import pack

FLAT = spaces.Box(np.array([-9, -9, 0], np.float32), np.array([9, 9, 1], np.float32))
IMAGE = spaces.Dict({"image": spaces.Box(0, 255, (3, 36, 36), np.uint8), CONTEXT: FLAT})


def packed(flags):
    """Trials, longest first, given the boundary flag of each step."""
    return pack([th.tensor([[0.0, 0.0, flag] for flag in trial]) for trial in flags])


def make_policy(space=FLAT, **kwargs):
    th.manual_seed(0)
    return TrialActorCriticPolicy(space, spaces.Discrete(2), lambda _: 1e-3, rnn_hidden_size=4, **kwargs)


def test_steps_are_later_from_the_second_boundary_of_their_own_trial_on():
    found = in_later_episodes(packed([[1, 0, 1, 0, 1], [1, 1, 0], [1, 0]]))
    expected = [[False, False, True, True, True], [False, True, True], [False, False]]
    assert found.tolist() == [trial[t] for t in range(5) for trial in expected if len(trial) > t]


@given(st.lists(st.lists(st.booleans(), max_size=9), min_size=1, max_size=5))
def test_it_is_what_counting_boundaries_one_trial_at_a_time_says(rest):
    flags = sorted(([True, *trial] for trial in rest), key=len, reverse=True)
    found = iter(in_later_episodes(packed(flags)).tolist())
    for t in range(len(flags[0])):
        for trial in flags:
            if len(trial) > t:
                assert next(found) == (sum(trial[: t + 1]) > 1)


@pytest.mark.parametrize("chunk_steps", [None, 3])
def test_only_entropies_of_later_episodes_are_weighed(chunk_steps):
    trials = packed([[1, 0, 1, 0, 1], [1, 1, 0], [1, 0]])
    actions = th.zeros(len(trials.data))
    weighed = make_policy(later_entropy=0.25, chunk_steps=chunk_steps)
    plain = make_policy()
    values, log_probs, entropies = weighed.evaluate_actions(trials, actions)
    own_values, own_log_probs, own_entropies = plain.evaluate_actions(trials, actions)
    th.testing.assert_close(values, own_values)
    th.testing.assert_close(log_probs, own_log_probs)
    weights = 1.0 - 0.75 * in_later_episodes(trials).float()
    th.testing.assert_close(entropies, weights * own_entropies)


def test_a_weight_of_zero_leaves_no_gradient_in_later_episodes():
    policy = make_policy(later_entropy=0)
    first_only, with_later = packed([[1, 0]]), packed([[1, 0, 1, 0]])
    gradients = []
    for trials in (first_only, with_later):
        policy.zero_grad()
        policy.evaluate_actions(trials, th.zeros(len(trials.data)))[2].sum().backward()
        gradients.append(policy.action_net.weight.grad.clone())
    th.testing.assert_close(*gradients)
    assert gradients[0].abs().sum() > 0


def test_boundaries_of_entries_are_those_of_their_context():
    policy = make_policy(IMAGE, later_entropy=0.5)
    flags = packed([[1, 1]])
    data = {"image": th.zeros(2, 3, 36, 36), CONTEXT: flags.data}
    assert in_later_episodes(PackedTrials(data, flags.batch_sizes)).tolist() == [False, True]
    entropies = policy.evaluate_actions(PackedTrials(data, flags.batch_sizes), th.zeros(2))[2]
    assert entropies[1] < 0.6 * entropies[0]


def test_the_weight_reaches_the_bonus_of_a_learner_and_its_checkpoint(tmp_path):
    losses = []
    for weight in (1.0, 0.0):
        agent = RL2(
            "MlpPolicy", "MetaBandit-v0", episodes_per_trial=4, n_envs=8, n_steps=4, n_epochs=1, batch_size=32, seed=0,
            device="cpu", policy_kwargs={"rnn_hidden_size": 4, "later_entropy": weight},
        )  # fmt: skip
        agent.set_logger(Logger(None, []))
        agent.learn(32, log_interval=None)
        losses.append(agent.logger.name_to_value["train/entropy_loss"])
    # One of four episodes counts; at the start all actions are about as probable.
    assert losses[1] == pytest.approx(losses[0] / 4.0, rel=1e-3)
    agent.save(tmp_path / "agent")
    assert RL2.load(tmp_path / "agent").policy.later_entropy == 0.0


def test_the_weight_is_part_of_what_makes_a_policy():
    assert make_policy(later_entropy=0.25)._get_constructor_parameters()["later_entropy"] == 0.25


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), True, "0.5", None])
def test_what_is_no_weight_is_refused(value):
    with pytest.raises(ConfigError, match=r"later_entropy must be a finite number of at least 0, got"):
        make_policy(later_entropy=value)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (3,), np.float32),
        spaces.Box(0, 9, (3,), np.float32),
        spaces.Box(0, 1, (2, 3), np.float32),
        spaces.Dict({"seen": FLAT}),
    ],
)
def test_observations_that_do_not_tell_where_episodes_begin_are_refused(space):
    make_policy(spaces.Box(-1, 1, (3,), np.float32), later_entropy=1)
    with pytest.raises(ConfigError, match=r"later_entropy needs the observations of RL2Context"):
        make_policy(space, later_entropy=0.5)
