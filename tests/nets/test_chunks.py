"""Trials evaluated a group at a time: the numbers and gradients of all at once, and less memory."""

import gc
import weakref
from contextlib import nullcontext
from unittest import mock

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from metagym.algos import RL2
from metagym.errors import ConfigError
from metagym.nets import ExchangeableMDPPolicy, ExchangeableTrialPolicy, PackedTrials, TrialActorCriticPolicy, gru
from metagym.nets.chunks import cut_trials, evaluate_in_chunks
from metagym.nets.compiled_sequence import compiled_recurrence

LENGTHS = [9, 9, 6, 4, 4, 1]
ARMS = 3
FLAT = spaces.Box(-np.inf, np.inf, (1 + ARMS + 2,), np.float32)
DICT = spaces.Dict({"seen": spaces.Box(-1, 1, (4,), np.float32), "image": spaces.Box(0, 255, (3, 36, 36), np.uint8)})
KINDS = {
    "GRU": (TrialActorCriticPolicy, {}),
    "LSTM of two layers": (TrialActorCriticPolicy, {"rnn_type": "lstm", "n_rnn_layers": 2}),
    "two memories": (TrialActorCriticPolicy, {"share_features_extractor": False, "net_arch": [8]}),
    "privileged critic": (TrialActorCriticPolicy, {"share_features_extractor": False, "critic_task_size": ARMS}),
    "exchangeable": (ExchangeableTrialPolicy, {"trial_steps": 9}),
    "exchangeable, privileged LSTMs": (
        ExchangeableTrialPolicy,
        {"remember": "all", "rnn_type": "lstm", "share_features_extractor": False, "critic_task_size": ARMS},
    ),
    "continuous actions": (TrialActorCriticPolicy, {"actions": spaces.Box(-1, 1, (2,), np.float32)}),
    "squashed actions": (
        TrialActorCriticPolicy,
        {
            "actions": spaces.Box(-1, 1, (2,), np.float32),
            "use_sde": True,
            "squash_output": True,
        },
    ),
    "entries": (TrialActorCriticPolicy, {"space": DICT}),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def make_policy(kind, chunk_steps=None):
    policy_class, kwargs = KINDS[kind]
    given = {"space": FLAT, "actions": spaces.Discrete(ARMS), "rnn_hidden_size": 5} | kwargs
    th.manual_seed(0)
    policy = policy_class(given.pop("space"), given.pop("actions"), lambda _: 1e-3, chunk_steps=chunk_steps, **given)
    generator = th.Generator().manual_seed(1)
    for parameter in policy.parameters():
        parameter.data += 0.3 * th.randn(parameter.shape, generator=generator) / max(1, parameter.dim()) ** 2
    return policy


def observations(space, n_steps, generator):
    if isinstance(space, spaces.Dict):
        image = th.randint(0, 256, (n_steps, 3, 36, 36), generator=generator, dtype=th.uint8)
        return {"seen": th.randn(n_steps, 4, generator=generator), "image": image}
    seen = th.randn(n_steps, 1 + ARMS + 2, generator=generator)
    seen[:, 1:-2] = nn.functional.one_hot(th.randint(0, ARMS, (n_steps,), generator=generator), ARMS)
    return seen


def make_batch(policy, lengths=LENGTHS):
    generator = th.Generator().manual_seed(2)
    sizes = tuple(sum(length > t for length in lengths) for t in range(max(lengths)))
    n_steps = sum(lengths)
    tasks = th.randn(n_steps, ARMS, generator=generator) if policy.critic_task_size else None
    if isinstance(policy.action_space, spaces.Discrete):
        actions = th.randint(0, ARMS, (n_steps,), generator=generator).float()
    else:
        actions = th.rand(n_steps, 2, generator=generator) - 0.5
    return PackedTrials(observations(policy.observation_space, n_steps, generator), sizes, tasks), actions


def reading_doubles():
    """Observations are cast to single precision where they are read: here to double precision."""
    return mock.patch.object(th.Tensor, "float", th.Tensor.double)


def doubled(policy, trials, actions):
    def double(tensor):
        return tensor.double() if tensor.is_floating_point() else tensor

    data = trials.data
    data = {name: double(one) for name, one in data.items()} if isinstance(data, dict) else double(data)
    tasks = None if trials.tasks is None else trials.tasks.double()
    return policy.double(), PackedTrials(data, trials.batch_sizes, tasks), actions.double()


def results_and_gradients(policy, trials, actions):
    policy.zero_grad()
    results = [result for result in policy.evaluate_actions(trials, actions) if result is not None]
    weights = [th.randn(result.shape, generator=th.Generator().manual_seed(3)) for result in results]
    sum((result * weight).sum() for result, weight in zip(results, weights, strict=True)).backward()
    return [result.detach() for result in results], [parameter.grad for parameter in policy.parameters()]


def assert_same(kind, chunk_steps, *, double):
    found = []
    for steps in (None, chunk_steps):
        policy = make_policy(kind, steps)
        case = policy, *make_batch(policy)
        with reading_doubles() if double else nullcontext():
            found.append(results_and_gradients(*(doubled(*case) if double else case)))
    (results, gradients), (own_results, own_gradients) = found
    tolerance = 1e-12 if double else 2e-6
    for one, other in zip(results, own_results, strict=True):
        th.testing.assert_close(other, one, atol=tolerance * max(1.0, float(one.abs().max())), rtol=0)
    for one, other in zip(gradients, own_gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            th.testing.assert_close(other, one, atol=tolerance * max(1.0, float(one.abs().max())), rtol=0)


@kinds
@pytest.mark.parametrize("chunk_steps", [1, 10, 19, 10_000])
def test_results_and_gradients_are_those_of_all_at_once_in_double_precision(kind, chunk_steps):
    assert_same(kind, chunk_steps, double=True)


@kinds
@pytest.mark.parametrize("compiled", [True, False])
def test_results_and_gradients_are_those_of_all_at_once_in_single_precision(kind, compiled):
    with compiled_recurrence(compiled):
        assert_same(kind, 10, double=False)


def test_a_policy_that_plans_is_the_same_in_groups():
    high = np.array([1.0] * (2 * ARMS) + [np.inf, 1.0], np.float32)
    low = np.array([0.0] * (2 * ARMS) + [-np.inf, 0.0], np.float32)
    generator = th.Generator().manual_seed(2)
    states, taken = (th.eye(ARMS)[th.randint(0, ARMS, (36,), generator=generator)] for _ in range(2))
    starts = (th.arange(36) % 12 < 6).float()  # episodes of two steps, six trials
    seen = th.cat([states, taken, th.randn(36, 1, generator=generator), starts[:, None]], dim=1)
    trials, actions = PackedTrials(seen, (6,) * 6), th.randint(0, ARMS, (36,), generator=generator).float()
    found = []
    for chunk_steps in (None, 12):
        th.manual_seed(0)
        policy = ExchangeableMDPPolicy(
            spaces.Box(low, high, dtype=np.float32), spaces.Discrete(ARMS), lambda _: 1e-3,
            trial_steps=6, episode_steps=2, chunk_steps=chunk_steps,
        )  # fmt: skip
        found.append(results_and_gradients(policy, trials, actions))
    for whole, parts in zip(*found, strict=True):
        for one, other in zip(whole, parts, strict=True):
            th.testing.assert_close(other, one, atol=1e-5, rtol=1e-4)


@given(
    lengths=st.lists(st.integers(1, 8), min_size=1, max_size=8).map(lambda found: sorted(found, reverse=True)),
    chunk_steps=st.integers(1, 40),
)
def test_groups_are_whole_trials_side_by_side_as_large_as_allowed(lengths, chunk_steps):
    sizes = tuple(sum(length > t for length in lengths) for t in range(lengths[0]))
    groups = cut_trials(sizes, chunk_steps)
    assert [trial for first, last in groups for trial in range(first, last)] == list(range(len(lengths)))
    for first, last in groups:
        assert last - first == 1 or sum(lengths[first:last]) <= chunk_steps
        assert last == len(lengths) or sum(lengths[first : last + 1]) > chunk_steps


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=7).map(lambda found: sorted(found, reverse=True)),
    chunk_steps=st.integers(1, 30),
)
def test_results_come_in_the_order_of_the_steps_whatever_the_groups(lengths, chunk_steps):
    sizes = tuple(sum(length > t for length in lengths) for t in range(lengths[0]))
    order = th.arange(sum(lengths)).double()
    weight = th.ones((), dtype=th.float64, requires_grad=True)
    seen = []

    def evaluate(trials, actions):
        seen.append(trials.batch_sizes)
        assert len(trials.data) == sum(trials.batch_sizes) == len(actions) == len(trials.tasks)
        return weight * trials.data, weight * actions, weight * trials.tasks[:, 0]

    trials = PackedTrials(order, sizes, 3 * order[:, None])
    found = evaluate_in_chunks(evaluate, trials, 2 * order, chunk_steps, [weight])
    for factor, result in enumerate(found, start=1):
        assert th.equal(result, factor * order)
    assert sum(batch_sizes[0] for batch_sizes in seen) == len(lengths)
    (gradient,) = th.autograd.grad(sum(result.sum() for result in found), weight)
    assert gradient == 6 * order.sum()


def test_observations_too_are_differentiated():
    policy = make_policy("two memories", 10)
    trials, actions = make_batch(policy)
    found = []
    for chunk_steps in (10, None):
        policy.chunk_steps = chunk_steps
        data = trials.data.clone().requires_grad_()
        values, log_probs, _ = policy.evaluate_actions(trials._replace(data=data), actions)
        found.append(th.autograd.grad(values.sum() + log_probs.sum(), data)[0])
    th.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


def test_gradients_are_differentiated_in_turn():
    found = []
    for chunk_steps in (None, 10):
        policy = make_policy("GRU", chunk_steps)
        policy, trials, actions = doubled(policy, *make_batch(policy))
        weights = [policy.action_net.weight, policy.rnn.rnn.weight_hh_l0]
        with reading_doubles():
            log_probs = policy.evaluate_actions(trials, actions)[1]
            slopes = th.autograd.grad((log_probs**2).sum(), weights, create_graph=True)
            found.append(th.autograd.grad(sum((slope**2).sum() for slope in slopes), weights))
    for one, other in zip(*found, strict=True):
        th.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


def test_what_is_frozen_stays_without_gradient_and_the_rest_has_its_own():
    found = []
    for chunk_steps in (None, 10):
        policy = make_policy("GRU", chunk_steps)
        policy.value_net.requires_grad_(False)
        found.append(results_and_gradients(policy, *make_batch(policy))[1])
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            th.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    with th.no_grad():
        assert not policy.evaluate_actions(*make_batch(policy))[0].requires_grad


def test_a_loss_of_the_policy_alone_leaves_the_critic_alone():
    policy = make_policy("two memories", 10)
    policy.evaluate_actions(*make_batch(policy))[1].sum().backward()
    assert policy.value_net.weight.grad is None
    assert policy.vf_rnn.rnn.weight_hh_l0.grad is None
    assert policy.rnn.rnn.weight_hh_l0.grad.abs().sum() > 0.0


def test_dropout_drops_the_same_when_a_group_is_evaluated_again():
    weight = th.ones(8, dtype=th.float64, requires_grad=True)

    def evaluate(trials, actions):
        kept = nn.functional.dropout(trials.data * weight, 0.5)
        return kept, kept.sum(1), None

    trials = PackedTrials(th.ones(6, 8, dtype=th.float64), (2, 2, 2))
    th.manual_seed(0)
    values, _, entropy = evaluate_in_chunks(evaluate, trials, th.zeros(6), 3, [weight])
    random = th.get_rng_state()
    values.sum().backward()
    assert entropy is None
    assert th.equal(th.get_rng_state(), random)
    assert 0 < (values == 0).sum() < values.numel()
    assert th.equal(weight.grad, values.detach().sum(0))


@pytest.mark.parametrize("chunk_steps", [0, -5, 2.0, True, "all"])
def test_what_is_no_number_of_steps_is_refused(chunk_steps):
    with pytest.raises(ConfigError, match=r"chunk_steps must be an integer of at least 1, or None, not"):
        make_policy("GRU", chunk_steps)


def make_agent(chunk_steps, **kwargs):
    given = {"n_envs": 12, "n_steps": 8, "seed": 0, "device": "cpu"} | kwargs
    policy_kwargs = {"rnn_hidden_size": 8, "chunk_steps": chunk_steps}
    return RL2(env="MetaBandit-v0", episodes_per_trial=8, policy_kwargs=policy_kwargs, **given)


@pytest.mark.parametrize("kwargs", [{"batch_size": 48}, {"learner_class": "A2C"}, {"learner_class": "TRPO"}])
def test_learning_is_the_same_and_a_loaded_agent_goes_on_in_chunks(kwargs, tmp_path):
    agents = [make_agent(chunk_steps, **kwargs).learn(96, log_interval=None) for chunk_steps in (None, 16)]
    for one, other in zip(*(agent.policy.parameters() for agent in agents), strict=True):
        th.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    agents[1].save(tmp_path / "agent")
    loaded = RL2.load(tmp_path / "agent", device="cpu")
    assert loaded.policy.chunk_steps == 16
    assert loaded.policy._get_constructor_parameters()["chunk_steps"] == 16
    for agent in (agents[1], loaded):
        agent.learn(96, log_interval=None, reset_num_timesteps=False)
    for one, other in zip(agents[1].policy.parameters(), loaded.policy.parameters(), strict=True):
        assert th.equal(one, other)


def test_what_recurrences_keep_for_gradients_is_that_of_a_group(monkeypatch):
    policy = make_policy("GRU", 10)
    trials, actions = make_batch(policy, [5] * 8)
    alive, seen = weakref.WeakSet(), []
    forward = gru._forward_in_time

    def watched(*args):
        states, buffer = forward(*args)
        alive.add(buffer)
        seen.append(sum(len(one) for one in alive))
        return states, buffer

    monkeypatch.setattr(gru, "_forward_in_time", watched)
    with compiled_recurrence(False):
        for chunk_steps, calls, most in ((None, 1, 40), (10, 8, 10)):
            policy.chunk_steps = chunk_steps
            results_and_gradients(policy, trials, actions)
            gc.collect()
            assert (len(seen), max(seen)) == (calls, most)
            seen.clear()
