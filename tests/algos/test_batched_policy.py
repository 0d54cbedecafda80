"""K policies in one: each gives what SB3's gives with the same parameters."""

import pytest
import torch as th
from stable_baselines3 import PPO

from metagym.algos.batched_policy import StackedPolicy, require_mlp
from metagym.errors import ConfigError
from tests.algos.reptile_setup import LAKE, POINT, tiny

NETS = {
    "the default": {},
    "different networks": {"net_arch": {"pi": [7], "vf": [5, 6, 4]}, "activation_fn": th.nn.ReLU},
    "no hidden layer": {"net_arch": []},
    "two extractors": {"share_features_extractor": False, "activation_fn": th.nn.ELU},
}


@pytest.mark.parametrize("env", [LAKE, POINT])
@pytest.mark.parametrize("policy_kwargs", NETS.values(), ids=NETS)
def test_actors_critics_and_gradients_are_those_of_each_policy(env, policy_kwargs):
    learner = tiny(env, policy_kwargs=policy_kwargs, seed=0).learner
    stacked = StackedPolicy(learner.policy, 3)
    with th.no_grad():
        stacked.flat.normal_(std=0.5, generator=th.Generator().manual_seed(1))
    shape = (3, 5, *learner.observation_space.shape)
    observations = th.randint(0, 3, shape).numpy().astype(learner.observation_space.dtype)
    features = stacked.features(observations)
    losses = stacked.actor(features).square().mean((1, 2)) + stacked.critic(features).square().mean(1)
    stacked.backward(losses)
    stacked.clip_gradient(0.01)
    for task in range(3):
        policy = learner.policy
        policy.load_state_dict({**policy.state_dict(), **named(stacked.tensors_of(task))})
        seen = policy.obs_to_tensor(observations[task])[0]
        pi = policy.extract_features(seen, policy.pi_features_extractor) if policy.share_features_extractor else None
        pi = policy.extract_features(seen)[0] if pi is None else pi
        outputs, values = policy.action_net(policy.mlp_extractor.forward_actor(pi)), policy.predict_values(seen)
        th.testing.assert_close(stacked.actor(features)[task], outputs)
        th.testing.assert_close(stacked.critic(features)[task], values.squeeze(-1))
        policy.zero_grad()
        (outputs.square().mean() + values.square().mean()).backward()
        th.nn.utils.clip_grad_norm_(policy.parameters(), 0.01)
        gradients = [th.zeros_like(each) if each.grad is None else each.grad for each in policy.parameters()]
        th.testing.assert_close(stacked.gradient[task], th.cat([each.flatten() for each in gradients]))


def named(tensors):
    return {name.removeprefix("policy."): tensor for name, tensor in tensors.items()}


def test_every_task_starts_from_the_parameters_given_and_frozen_ones_get_no_gradient():
    learner = tiny(LAKE, seed=0).learner
    stacked = StackedPolicy(learner.policy, 2, ["policy.value_net.weight", "policy.value_net.bias"])
    tensors = {f"policy.{name}": value for name, value in learner.policy.state_dict().items()}
    stacked.load(tensors)
    for task in range(2):
        assert all(th.equal(stacked.tensors_of(task)[name], value) for name, value in tensors.items())
    features = stacked.features(th.zeros(2, 4, dtype=th.int64).numpy())
    stacked.backward(stacked.critic(features).square().mean(1))
    held = sum(columns.stop - columns.start for columns in stacked.held_columns())
    assert held == learner.policy.value_net.weight.numel() + 1
    assert all((stacked.gradient[:, columns] == 0).all() for columns in stacked.held_columns())
    assert (stacked.gradient != 0).any()


def test_policies_of_other_kinds_are_refused():
    class Own(PPO.policy_aliases["MlpPolicy"]):
        """A policy that could do anything."""

    with pytest.raises(ConfigError, match="got Own"):
        require_mlp(PPO(Own, tiny(LAKE).env).policy)
    with pytest.raises(ConfigError, match="activation Softmax"):
        require_mlp(tiny(LAKE, policy_kwargs={"activation_fn": lambda: th.nn.Softmax(-1)}).learner.policy)
