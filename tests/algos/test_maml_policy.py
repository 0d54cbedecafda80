"""Policies as functions: the fast way and the general one agree; what is no function is refused; nothing leaks."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from metagym.algos.maml import MAML
from metagym.algos.maml_policy import MlpFunction, VmapFunction, policy_function, require_functional, stacked
from metagym.errors import ConfigError
from metagym.wrappers import VectorEnvAdapter
from tests.algos.maml_setup import POINT, Layered, Looking, same, tiny


class Scene(gym.Env):
    """Spaces only, of any kind."""

    def __init__(self, observation_space=None, action_space=None):
        self.observation_space = observation_space or spaces.Box(-1.0, 1.0, (3,), np.float32)
        self.action_space = action_space or spaces.Discrete(4)


IMAGE = spaces.Box(0, 255, (3, 8, 8), np.uint8)
MIXED = spaces.Dict(picture=IMAGE, number=spaces.Box(-1.0, 1.0, (2,), np.float32), kind=spaces.Discrete(3))
LOOKS = {"features_extractor_class": Looking}


def ppo(policy="MlpPolicy", observation_space=None, action_space=None, **policy_kwargs):
    return PPO(policy, Scene(observation_space, action_space), policy_kwargs=policy_kwargs, device="cpu").policy


def observed(space, num_tasks=2, num_rows=4):
    if isinstance(space, spaces.Dict):
        return {key: observed(part, num_tasks, num_rows) for key, part in space.spaces.items()}
    space.seed(0)
    return np.stack([[space.sample() for _ in range(num_rows)] for _ in range(num_tasks)])


def nudged(policy, num_tasks=2):
    """Parameters of K tasks, each a little different."""
    own = stacked(dict(policy.named_parameters()), num_tasks)
    return {name: tensor + 0.1 * th.randn(tensor.shape) for name, tensor in own.items()}


@pytest.mark.parametrize(
    ("policy", "space", "kwargs", "kind"),
    [
        ("MlpPolicy", None, {"net_arch": [8]}, MlpFunction),
        ("MlpPolicy", spaces.Discrete(5), {"net_arch": [8], "activation_fn": nn.ReLU}, MlpFunction),
        ("MlpPolicy", spaces.MultiDiscrete([2, 3]), {"net_arch": {"pi": [4, 4], "vf": []}}, MlpFunction),
        ("MlpPolicy", None, {"features_extractor_class": Layered}, VmapFunction),
        ("CnnPolicy", IMAGE, LOOKS, VmapFunction),
        ("CnnPolicy", IMAGE, {**LOOKS, "share_features_extractor": False}, VmapFunction),
        ("MultiInputPolicy", MIXED, {"features_extractor_kwargs": {"cnn_output_dim": 4}}, VmapFunction),
    ],
)
def test_a_function_computes_for_every_task_what_its_policy_would(policy, space, kwargs, kind):
    if policy == "MultiInputPolicy":
        space = spaces.Dict({**MIXED.spaces, "picture": spaces.Box(0, 255, (3, 36, 36), np.uint8)})
    policy = ppo(policy, space, **kwargs)
    function, given = policy_function(policy), observed(policy.observation_space)
    parameters = nudged(policy)
    heads, values = function.actor(parameters, function.read(given)), function.critic(parameters, function.read(given))

    assert type(function) is kind
    for task in range(2):
        own = copy.deepcopy(policy)
        own.load_state_dict({name: parameters[name][task] for name, _ in own.named_parameters()}, strict=False)
        shown = {key: th.as_tensor(part[task]) for key, part in given.items()} if isinstance(given, dict) else None
        shown = th.as_tensor(given[task]) if shown is None else shown
        th.testing.assert_close(heads.outputs[task].softmax(-1), own.get_distribution(shown).distribution.probs)
        th.testing.assert_close(values[task], own.predict_values(shown)[:, 0])


def test_both_ways_agree_and_name_the_same_parameters():
    policy = ppo(action_space=spaces.Box(-1.0, 1.0, (2,), np.float32), net_arch=[8])
    fast, general = MlpFunction(policy), VmapFunction(policy)
    parameters, seen = nudged(policy), fast.read(observed(policy.observation_space))

    assert fast.actor_names == general.actor_names
    assert fast.critic_names == general.critic_names
    assert set(fast.actor_names) | set(fast.critic_names) == set(dict(policy.named_parameters()))
    th.testing.assert_close(fast.actor(parameters, seen), general.actor(parameters, seen))
    th.testing.assert_close(fast.critic(parameters, seen), general.critic(parameters, seen))


def test_what_is_not_given_is_the_policys_own():
    for policy in (ppo(net_arch=[8]), ppo(features_extractor_class=Layered)):
        function, parameters = policy_function(policy), nudged(policy)
        seen = function.read(observed(policy.observation_space))
        actors = {name: parameters[name] for name in function.actor_names}

        th.testing.assert_close(function.actor(actors, seen), function.actor(parameters, seen))
        heads = function.actor({"action_net.bias": parameters["action_net.bias"]}, seen)
        expected = function.actor(
            stacked(dict(policy.named_parameters()), 2) | {"action_net.bias": parameters["action_net.bias"]}, seen
        )
        th.testing.assert_close(heads, expected)


def test_a_shared_extractor_keeps_its_parameters():
    # functional_call with tied weights, its default, would leave batched tensors in their place.
    policy = ppo(features_extractor_class=Layered)
    function, before = policy_function(policy), copy.deepcopy(policy.state_dict())
    seen = function.read(observed(policy.observation_space))
    function.actor(nudged(policy), seen)
    function.critic(nudged(policy), seen)

    assert all(type(parameter) is nn.Parameter for parameter in policy.parameters())
    assert type(policy.features_extractor.layers[0].weight) is nn.Parameter
    assert same(dict(policy.state_dict()), dict(before))
    copy.deepcopy(policy)


def test_the_distribution_inside_a_policy_is_left_alone():
    policy = ppo(net_arch=[8])
    function = policy_function(policy)
    function.actor(nudged(policy), function.read(observed(policy.observation_space)))

    assert not hasattr(policy.action_dist, "distribution")


# --- refusals --------------------------------------------------------------------------------------------------------


class Stubborn(ActorCriticPolicy):
    def predict_values(self, obs):
        return super().predict_values(obs) + 1.0


class Normed(Layered):
    def __init__(self, space):
        super().__init__(space, norm=nn.BatchNorm1d)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"policy_kwargs": {"features_extractor_class": Normed}}, r"batch normalisation .*LayerNorm"),
        ({"policy_kwargs": {"use_sde": True}}, "use_sde"),
        ({"learner_class": RecurrentPPO, "policy": "MlpLstmPolicy"}, "recurrent .*LSTM.*RL2"),
        ({"learner_class": SAC}, "SAC is not actor-critic"),
        ({"learner_class": "DQN"}, "DQN is not actor-critic"),
        ({"policy": Stubborn}, "predict_values of its own"),
    ],
)
def test_what_is_no_function_of_observation_and_parameters_is_refused_by_name(kwargs, words):
    own = {"policy": "MlpPolicy", "n_envs": 2, "device": "cpu", **kwargs}
    with pytest.raises(ConfigError, match=words):
        MAML(own.pop("policy"), POINT, **own)


def test_policies_that_are_not_of_actors_and_critics_are_refused():
    with pytest.raises(ConfigError, match="need an ActorCriticPolicy"):
        require_functional(DQN("MlpPolicy", Scene(), device="cpu", buffer_size=1).policy)

    class Masked(Scene):
        def action_masks(self):
            return [True] * 4

    with pytest.raises(ConfigError, match="need an ActorCriticPolicy"):
        require_functional(MaskablePPO("MlpPolicy", Masked(), device="cpu").policy)


def test_layer_norm_is_taken():
    class Calm(Layered):
        def __init__(self, space):
            super().__init__(space, norm=nn.LayerNorm)

    tiny(policy_kwargs={"features_extractor_class": Calm}).learn(1)


def test_an_env_that_normalises_is_refused():
    rows = VectorEnvAdapter(gym.make_vec(POINT, num_envs=2, autoreset_mode=AutoresetMode.SAME_STEP))
    with pytest.raises(ConfigError, match="VecNormalize"):
        MAML("MlpPolicy", VecNormalize(rows), device="cpu")
