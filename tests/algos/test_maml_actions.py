"""Distributions of actions: those of torch and SB3, drawn as often as they are likely; what has none is refused."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from torch.distributions import Bernoulli, Categorical, Independent, Normal, kl_divergence

from metagym.algos.maml import MAML
from metagym.algos.maml_actions import GaussianLaw, Heads, law_of
from metagym.algos.maml_policy import policy_function
from metagym.errors import ConfigError
from tests.algos.maml_setup import parameters_of, same, tiny
from tests.algos.reptile_setup import Line

BOX, NUMBER = spaces.Box(-1.0, 1.0, (5,), np.float32), spaces.Discrete(5)
NUMBERS, BITS = spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(5)
SPACES = [BOX, NUMBER, NUMBERS, BITS]


def heads_of(space, seed=0):
    generator = th.Generator().manual_seed(seed)
    outputs, log_std = (th.randn(2, count, 5, generator=generator, dtype=th.float64) for count in (6, 1))
    return Heads(outputs, 0.3 * log_std if space is BOX else None)


def oracle(space, heads):
    """Independent distributions of torch, of which a row's law is the product."""
    if space is BOX:
        return [Independent(Normal(heads.outputs, heads.log_std.exp()), 1)]
    if space is NUMBER:
        return [Categorical(logits=heads.outputs)]
    if space is BITS:
        return [Independent(Bernoulli(logits=heads.outputs), 1)]
    return [Categorical(logits=part) for part in heads.outputs.split([3, 2], -1)]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_laws_are_those_of_torch(space):
    law, one, two = law_of(space), heads_of(space), heads_of(space, 1)
    first, second = oracle(space, one), oracle(space, two)
    drawn = [part.sample() for part in first]
    actions = th.stack(drawn, -1) if space is NUMBERS else drawn[0]
    own = actions.long() if space is BITS else actions

    th.testing.assert_close(law.log_prob(one, own), sum(p.log_prob(a) for p, a in zip(first, drawn, strict=True)))
    th.testing.assert_close(law.entropy(one), sum(part.entropy() for part in first))
    expected = sum(kl_divergence(old, new) for old, new in zip(first, second, strict=True))
    th.testing.assert_close(law.divergence(one, two), expected)
    th.testing.assert_close(law.divergence(one, one), th.zeros_like(expected))


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_laws_are_those_of_sb3(space):
    scene = Steered(space)
    policy = A2C("MlpPolicy", scene, policy_kwargs={"net_arch": [4]}, device="cpu").policy
    function, law = policy_function(policy), law_of(space)
    seen = th.linspace(-1.0, 1.0, 7).reshape(1, 7, 1)
    parameters = {name: tensor.unsqueeze(0) for name, tensor in policy.named_parameters()}
    heads = function.actor(parameters, seen)
    actions = law.act(heads, law.noise(th.Generator().manual_seed(0), 1, 7, th.float32))
    actions = actions.detach()
    _, log_prob, entropy = policy.evaluate_actions(seen[0], actions[0].float() if space is BITS else actions[0])

    th.testing.assert_close(law.log_prob(heads, actions)[0], log_prob)
    th.testing.assert_close(law.entropy(heads)[0], entropy)
    assert all(space.contains(action) for action in law.for_env(actions))


def test_actions_are_drawn_as_often_as_they_are_likely():
    logits = th.tensor([0.0, 1.0, -1.0, 0.5, -0.5])
    for space, expected in ((NUMBERS, [logits[:3].softmax(0), logits[3:].softmax(0)]), (BITS, logits.sigmoid()),
                            (NUMBER, [logits.softmax(0)])):  # fmt: skip
        law = law_of(space)
        drawn = law.act(Heads(logits.expand(1, 20_000, 5)), law.noise(th.Generator().manual_seed(0), 1, 20_000,
                                                                      th.float32)[0])[0]  # fmt: skip
        if space is BITS:
            th.testing.assert_close(drawn.float().mean(0), expected, atol=0.01, rtol=0)
            continue
        for column, shares in zip(drawn.reshape(20_000, -1).unbind(1), expected, strict=True):
            found = th.bincount(column, minlength=len(shares)) / 20_000
            th.testing.assert_close(found, shares, atol=0.01, rtol=0)


def test_vectors_are_drawn_around_their_means():
    law = GaussianLaw(spaces.Box(-1.0, 1.0, (1,), np.float32))
    heads = Heads(th.full((1, 20_000, 1), 2.0), th.full((1, 1, 1), -0.5))
    drawn = law.act(heads, law.noise(th.Generator().manual_seed(0), 1, 20_000, th.float32))
    assert drawn.mean().item() == pytest.approx(2.0, abs=0.02)
    assert drawn.std().item() == pytest.approx(np.exp(-0.5), rel=0.02)
    assert law.for_env(drawn).max() <= 1.0


def test_a_deviation_does_not_fall_for_ever():
    law = GaussianLaw(spaces.Box(-1.0, 1.0, (1,), np.float32))
    heads = Heads(th.zeros(1, 1, 1), th.full((1, 1, 1), -1e9))

    assert th.isfinite(law.log_prob(heads, th.zeros(1, 1, 1))).all()


class Steered(Line):
    """The line, with other actions: how far to go is how much of the largest action was chosen."""

    def __init__(self, space=NUMBERS):
        super().__init__()
        self.action_space = space

    def step(self, action):
        assert self.action_space.contains(action)
        return super().step(np.array([2.0 * np.mean(action) - 1.0]))


@pytest.mark.parametrize("space", [NUMBERS, BITS], ids=str)
def test_vectors_of_numbers_are_learned_with_and_adapted_to(space, tmp_path):
    agent = tiny(env=make_vec_env(lambda: Steered(space), 3, seed=0))
    before = parameters_of(agent)
    agent.learn(1)
    expert = agent.adapt(0.5, n_steps=2)

    assert not same(parameters_of(agent), before)
    assert not th.equal(expert.policy.action_net.weight, agent.policy.action_net.weight)
    expert.save(tmp_path / "expert")
    assert space.contains(A2C.load(tmp_path / "expert", device="cpu").predict(np.zeros(1, np.float32))[0])
    agent.save(tmp_path / "agent")
    with pytest.warns(UserWarning, match="starts anew"):
        loaded = MAML.load(tmp_path / "agent", env=make_vec_env(lambda: Steered(space), 3), device="cpu")
    assert same(parameters_of(loaded), parameters_of(agent))


@pytest.mark.parametrize(
    "space",
    [
        spaces.MultiDiscrete([[2, 2]]),
        spaces.MultiDiscrete([2, 2], start=[1, 0]),
        spaces.MultiBinary([2, 2]),
        spaces.Discrete(2, start=1),
        spaces.Box(0, 3, (2,), np.int64),
        gym.spaces.Text(3),
    ],
    ids=str,
)
def test_other_actions_are_refused(space):
    with pytest.raises(ConfigError, match="Box actions, Discrete ones from 0 on"):
        law_of(space)
