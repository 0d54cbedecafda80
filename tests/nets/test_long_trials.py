"""What long trials ask of a policy: memories that last at first, and values by the step that is left."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from metagym.errors import ConfigError
from metagym.nets import ExchangeableTrialPolicy, PackedTrials, TrialActorCriticPolicy

ARMS = 3
FLAT = spaces.Box(-np.inf, np.inf, (1 + ARMS + 2,), np.float32)
KINDS = {
    "GRU": (TrialActorCriticPolicy, {}),
    "LSTM of two layers": (TrialActorCriticPolicy, {"rnn_type": "lstm", "n_rnn_layers": 2}),
    "two memories": (TrialActorCriticPolicy, {"share_features_extractor": False}),
    "exchangeable": (ExchangeableTrialPolicy, {"trial_steps": 9}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_memories_last_at_first_as_long_as_they_are_told_to(kind):
    steps = 1000
    policy_class, kwargs = KINDS[kind]
    policy = policy_class(
        FLAT, spaces.Discrete(ARMS), lambda _: 1e-3, rnn_hidden_size=300, memory_steps=steps, **kwargs
    )
    assert policy._get_constructor_parameters()["memory_steps"] == steps
    for memory in policy._memories:
        for layer in range(memory.rnn.num_layers):
            biases = sum(memory._weights(layer)[2:]).detach()
            keep = biases[300:600].sigmoid()
            # A unit that keeps a share k of its state each step lasts 1 / (1 - k) steps.
            lasting = 1.0 / (1.0 - keep)
            assert lasting.min() >= 2.0
            assert lasting.max() <= steps + 1e-2 * steps
            assert abs(float(lasting.mean()) - steps / 2) < 0.07 * steps
            if memory.rnn_type == "lstm":
                th.testing.assert_close(biases[:300], -biases[300:600])


def test_without_being_told_memories_are_what_they_were():
    def weights(**kwargs):
        th.manual_seed(0)
        policy = TrialActorCriticPolicy(FLAT, spaces.Discrete(ARMS), lambda _: 1e-3, **kwargs)
        return dict(policy.rnn.named_parameters())

    plain, lasting = weights(), weights(memory_steps=50)
    changed = {name for name, weight in plain.items() if not th.equal(weight, lasting[name])}
    assert changed == {"rnn.bias_hh_l0"}
    assert not plain["rnn.bias_hh_l0"].any()


@pytest.mark.parametrize("memory_steps", [1, 2.5, True, "long"])
def test_what_is_no_length_of_a_memory_is_refused(memory_steps):
    with pytest.raises(ConfigError, match=r"memory_steps must be an integer of at least 2, or None, not"):
        TrialActorCriticPolicy(FLAT, spaces.Discrete(ARMS), lambda _: 1e-3, memory_steps=memory_steps)


def test_values_are_scaled_and_go_to_zero_with_the_steps_that_are_left():
    seen = th.rand(16, 1 + ARMS + 2, generator=th.Generator().manual_seed(1))

    def values(**kwargs):
        th.manual_seed(0)
        policy = ExchangeableTrialPolicy(FLAT, spaces.Discrete(ARMS), lambda _: 1e-3, trial_steps=8, **kwargs)
        return policy.predict_values(PackedTrials(seen, (2,) * 8)).detach().view(8, 2), policy

    plain, _ = values()
    scaled, policy = values(value_scale=20.0)
    th.testing.assert_close(scaled, 20.0 * plain)
    assert policy._get_constructor_parameters()["value_scale"] == 20.0
    left = th.arange(8, 0, -1).view(8, 1) / 8
    each, policy = values(value_scale=20.0, value_per_step=True)
    th.testing.assert_close(each, 20.0 * left * plain)
    assert policy._get_constructor_parameters()["value_per_step"] is True


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"value_scale": 0.0}, "value_scale must be a positive number, got 0.0"),
        ({"value_scale": float("inf")}, "value_scale must be a positive number"),
        ({"value_scale": "large"}, "value_scale must be a positive number"),
        ({"value_per_step": True}, "True with trial_steps only"),
        ({"value_per_step": 2, "trial_steps": 5}, "value_per_step must be True or False"),
    ],
)
def test_scales_that_are_none_are_refused(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        ExchangeableTrialPolicy(FLAT, spaces.Discrete(ARMS), lambda _: 1e-3, **kwargs)
