"""Tiny gradient meta-learners, experiences made by hand, and a second way to compute a meta-gradient."""

from unittest.mock import patch

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn
from torch.func import functional_call

from metagym.algos.maml import FOMAML, MAML
from metagym.algos.maml_actions import law_of
from metagym.algos.maml_baselines import Experience
from metagym.algos.maml_emaml import EMAML
from metagym.algos.maml_iteration import play_and_adapt
from metagym.algos.maml_meta_sgd import MetaSGD
from metagym.algos.maml_objective import Batch, OuterLoss
from metagym.algos.maml_parts import make_parts
from metagym.algos.maml_policy import policy_function
from metagym.algos.maml_probabilistic import ProbabilisticMAML
from metagym.algos.maml_promp import ProMP
from metagym.algos.maml_rollout import Collector, Rollout

POINT, MDP, CART = "MetaPointGoal-v0", "MetaTabularMDP-v0", "MetaCartPole-v0"
METHODS = [MAML, FOMAML, ProMP, EMAML, MetaSGD, ProbabilisticMAML]
SHORT = {POINT: {"episode_length": 6}, MDP: {"episode_length": 6}, CART: {"episode_length": 25}}


def tiny(method=MAML, env=POINT, **kwargs):
    """Two tasks of three episodes of six steps at most."""
    own = {"meta_batch_size": 2, "policy_kwargs": {"net_arch": [8]}, "device": "cpu", "seed": 0}
    if isinstance(env, str):
        own |= {"n_envs": 3, "env_kwargs": SHORT[env]}
    return method("MlpPolicy", env, **{**own, **kwargs})


def task_of(env_id=POINT, seed=0):
    env = gym.make(env_id, **SHORT[env_id]).unwrapped
    env.reset(seed=seed)
    return env.sample_task()


def parameters_of(agent):
    extras = agent._parts.start.extras()
    return {name: tensor.detach().clone() for name, tensor in (*agent.policy.named_parameters(), *extras.items())}


def same(left, right):
    return left.keys() == right.keys() and all(th.equal(left[name], right[name]) for name in left)


# --- episodes --------------------------------------------------------------------------------------------------------


def play(agent, env=POINT):
    """What an agent lives through on two tasks."""
    collector = Collector(agent._parts.function, agent._parts.law, agent.env, 2)
    tasks, plays = [task_of(env, 0), task_of(env, 1)], range(agent.n_inner_steps + 1)
    seeds = [[10 * task + step for step in plays] for task in range(2)]
    played = play_and_adapt(agent, collector, tasks, seeds, agent.n_inner_steps, plays_on=True)
    return Batch.of([own[0] for own in seeds], played.experiences)


def lived(env=POINT, double=True, method=MAML, **kwargs):
    """A learner and what it lived through in one iteration."""
    agent = tiny(method, env, **kwargs)
    with th.no_grad():
        # Away from the flat place where SB3 begins.
        for parameter in agent.policy.parameters():
            parameter.add_(0.3 * th.randn(parameter.shape, generator=th.Generator().manual_seed(parameter.numel())))
    if double:
        agent.policy.double()
        agent._parts = make_parts(agent)
    return agent, play(agent, env)


# --- by hand ---------------------------------------------------------------------------------------------------------


class Room(gym.Env):
    """Spaces only."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)


def coin():
    """The function of a policy with two actions whose logits are its biases alone, in double precision: (0, 0)."""
    policy = A2C("MlpPolicy", Room(), policy_kwargs={"net_arch": []}, device="cpu").policy.double()
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
    return policy_function(policy)


def flipped(function, parameters, actions, advantages):
    """An experience of K tasks with B flips each, made by policies with these parameters."""
    actions, advantages = th.as_tensor(actions), th.as_tensor(advantages, dtype=th.float64)
    seen = th.zeros(*actions.shape, 1, dtype=th.float64)
    law = law_of(Room.action_space)
    heads = function.actor(parameters, seen).copy()
    mask = np.ones((*actions.shape, 1), np.bool_)
    weights = th.full(actions.shape, 1.0 / actions.shape[1], dtype=th.float64)
    rollout = Rollout(
        seen, actions, heads, law.log_prob(heads, actions).detach(), weights, advantages.numpy()[..., None], mask,
        seen, mask[:, :, 0], actions.numel(), [],
    )  # fmt: skip
    return Experience(rollout, advantages, advantages)


# --- another way -----------------------------------------------------------------------------------------------------


class Evaluator(nn.Module):
    """SB3's own ``evaluate_actions`` as a ``forward``, for one task."""

    def __init__(self, policy):
        super().__init__()
        self.policy = policy

    def forward(self, observations, actions):
        dtype = next(self.policy.parameters()).dtype

        def read(*args, **kwargs):
            return preprocess_obs(*args, **kwargs).to(dtype)  # SB3's makes it single

        with patch("stable_baselines3.common.policies.preprocess_obs", read):
            return self.policy.evaluate_actions(observations, actions)[1]


def loop_gradient(policy, batch, observations, rates, *, ratio=False, first_order=False):
    """The meta-gradient of actor parameters, task by task, with SB3's distributions.

    Args:
        policy: holds theta.
        batch: what was lived through.
        observations: for each play, (K, B, ...), as the env gave them.
        rates: for each inner step, its size by name.
        ratio: whether inner losses are those of ratios.
        first_order: whether inner gradients are constants.
    """
    names = list(rates[0])
    live = dict(policy.named_parameters())
    theta = [live[name] for name in names]
    module, total = Evaluator(policy), 0.0
    num_tasks = len(batch.seeds)
    for task in range(num_tasks):
        own = dict(zip(names, theta, strict=True))
        for play, inner in enumerate(batch.inner):
            log_prob = _log_prob(module, own, observations[play][task], inner, task)
            gain = (log_prob - inner.rollout.log_probs[task]).exp() if ratio else log_prob
            loss = -(gain * inner.advantages[task] * inner.rollout.weights[task]).sum()
            slopes = th.autograd.grad(loss, list(own.values()), create_graph=not first_order, retain_graph=True)
            own = {
                name: tensor - rates[play][name] * slope
                for (name, tensor), slope in zip(own.items(), slopes, strict=True)
            }  # fmt: skip
        log_prob = _log_prob(module, own, observations[-1][task], batch.outer, task)
        ratios = (log_prob - batch.outer.rollout.log_probs[task]).exp()
        gains = ratios * batch.outer.advantages[task] * batch.outer.rollout.weights[task]
        total = total - gains.sum() / num_tasks
    return dict(zip(names, th.autograd.grad(total, theta), strict=True))


def _log_prob(module, parameters, observations, experience, task):
    named = {f"policy.{name}": tensor for name, tensor in parameters.items()}
    actions = experience.rollout.actions[task]
    return functional_call(module, named, (observations, actions), tie_weights=False)


def batch_gradient(agent, batch, **kwargs):
    """The meta-gradient as the learner computes it."""
    parts = agent._parts
    loss = OuterLoss(parts.function, parts.law, parts.start, parts.inner, batch, **kwargs)
    names = list(parts.start.tensors)
    found = th.autograd.grad(loss.evaluate(parts.start.tensors).loss, list(parts.start.tensors.values()))
    return dict(zip(names, found, strict=True))


# --- other extractors ------------------------------------------------------------------------------------------------


class Layered(BaseFeaturesExtractor):
    """One linear layer, which actor and critic may share."""

    def __init__(self, space, norm=None):
        super().__init__(space, 5)
        first = nn.Linear(space.shape[0], 5)
        self.layers = nn.Sequential(first) if norm is None else nn.Sequential(first, norm(5))

    def forward(self, observations):
        return self.layers(observations)


class Looking(BaseFeaturesExtractor):
    """One small convolution."""

    def __init__(self, space):
        super().__init__(space, 4)
        self.layers = nn.Sequential(nn.Conv2d(space.shape[0], 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, observations):
        return self.layers(observations)
