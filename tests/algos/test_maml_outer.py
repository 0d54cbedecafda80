"""Outer steps, and what each method adds to the outer loss."""

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.logger import Logger
from torch import nn

from metagym.algos.maml import FOMAML, MAML
from metagym.algos.maml_emaml import EMAML
from metagym.algos.maml_inner import InnerLosses
from metagym.algos.maml_meta_sgd import MetaSGD
from metagym.algos.maml_objective import OuterLoss, Terms, standings
from metagym.algos.maml_outer import AdamStep, Report, TrustRegionStep, conjugate_gradient
from metagym.algos.maml_probabilistic import ProbabilisticMAML
from metagym.algos.maml_promp import ProMP
from metagym.algos.maml_start import half_widths
from metagym.errors import ConfigError
from tests.algos.maml_setup import CART, POINT, batch_gradient, parameters_of, play, same, task_of, tiny


def loss_of(agent, batch, **kwargs):
    parts = agent._parts
    return OuterLoss(parts.function, parts.law, parts.start, parts.inner, batch, extra=agent._extra_loss, **kwargs)


def test_conjugate_gradients_solve():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6))
    matrix, target = th.tensor(root @ root.T + np.eye(6)), th.tensor(rng.normal(size=6))

    found, _ = conjugate_gradient(lambda vector: matrix @ vector, target, 20, tolerance=1e-24)
    np.testing.assert_allclose(found, np.linalg.solve(matrix, target), rtol=1e-8)
    assert conjugate_gradient(lambda vector: matrix @ vector, target * 0, 20)[0].tolist() == [0.0] * 6


@pytest.mark.parametrize("env", [POINT, CART])
def test_a_trust_region_step_lowers_the_loss_and_keeps_within_the_region(env):
    agent = tiny(env=env, target_kl=0.02)
    loss = loss_of(agent, play(agent, env))
    before = loss.evaluate(agent._parts.start.tensors, differentiable=False)
    report = agent._parts.outer.step(agent._parts.start.tensors, loss, 0.0)
    after = loss.evaluate(agent._parts.start.tensors, differentiable=False)

    assert before.divergence.item() == pytest.approx(0.0, abs=1e-6)
    assert report.loss_before == before.loss.item()
    assert report.loss_after == after.loss.item() < before.loss.item()
    assert 0.002 < after.divergence.item() <= 0.02
    assert report.line_search < 15


def test_where_there_is_nothing_to_gain_nothing_moves():
    agent = tiny()
    batch = play(agent)
    for experience in (*batch.inner, batch.outer):
        experience.advantages.zero_()
    before = parameters_of(agent)
    report = agent._parts.outer.step(agent._parts.start.tensors, loss_of(agent, batch), 0.0)

    assert same(parameters_of(agent), before)
    assert report.line_search == 15


class Uphill:
    """A loss that is larger wherever one looks than where one stands."""

    def __init__(self, tensors):
        self.here = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    def evaluate(self, tensors, *, differentiable=True):
        moved = any(not th.equal(tensors[name], tensor) for name, tensor in self.here.items())
        slope = sum(tensor.sum() for tensor in tensors.values())
        return Terms(slope * 1.0 + 1e6 * moved, th.zeros(()), [])

    def metric(self, tensors):
        return lambda moves: moves


def test_a_line_search_that_finds_nothing_leaves_everything():
    tensors = {"a": nn.Parameter(th.ones(3))}
    report = TrustRegionStep().step(tensors, Uphill(tensors), 0.0)

    assert tensors["a"].tolist() == [1.0] * 3
    assert report.line_search == 15
    assert report.loss_before == report.loss_after


def test_a_step_is_as_long_as_the_region_allows_also_where_conjugate_gradients_end_early():
    slope, scale = th.tensor([1.0, -2.0]), th.tensor([1.0, 9.0])

    class Plane:
        def evaluate(self, tensors, *, differentiable=True):
            return Terms((tensors["a"] * slope).sum(), th.zeros(()), [])

        def metric(self, tensors):
            return lambda moves: [scale * moves[0]]

    tensors = {"a": nn.Parameter(th.zeros(2))}
    TrustRegionStep(target_kl=0.02, cg_max_steps=1, cg_damping=0.5).step(tensors, Plane(), 0.0)
    moved = tensors["a"].detach()

    assert 0.5 * float(moved @ ((scale + 0.5) * moved)) == pytest.approx(0.02)
    th.testing.assert_close(moved / moved.norm(), -slope / slope.norm())


def test_epochs_of_adam_are_those_of_torch():
    class Bowl:
        def evaluate(self, tensors, *, differentiable=True):
            return Terms((tensors["a"] - 2.0).square().sum(), th.zeros(()), [])

    tensors, other = {"a": nn.Parameter(th.zeros(2))}, nn.Parameter(th.zeros(2))
    step = AdamStep(list(tensors.values()), 3)
    report = step.step(tensors, Bowl(), 0.1)
    optimizer = th.optim.Adam([other], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (other - 2.0).square().sum().backward()
        optimizer.step()

    assert th.equal(tensors["a"], other)
    assert report.loss_before == 8.0
    assert report.loss_after < 8.0
    again = AdamStep([nn.Parameter(th.zeros(2))], 3)
    again.load(step.arrays())
    assert all(np.array_equal(again.arrays()[name], array) for name, array in step.arrays().items())


def test_clipped_gains_are_those_of_ppo():
    agent = tiny()
    batch = play(agent)
    ratios = th.linspace(0.5, 1.5, batch.outer.advantages.numel()).view_as(batch.outer.advantages)
    found = loss_of(agent, batch, clip_range=0.2)._gains(ratios, batch.outer.advantages)

    for ratio, advantage, gain in zip(ratios.ravel(), batch.outer.advantages.ravel(), found.ravel(), strict=True):
        bounded = min(max(ratio.item(), 0.8), 1.2)
        assert gain.item() == pytest.approx(min(ratio.item() * advantage.item(), bounded * advantage.item()), abs=1e-6)


# --- methods ---------------------------------------------------------------------------------------------------------


def test_first_order_takes_inner_gradients_for_constants():
    agent, first = tiny(MAML), tiny(FOMAML)
    batch = play(agent)
    orders = [batch_gradient(agent, batch, order=order) for order in (2, 1)]

    assert first.first_order
    assert first._parts.start.tensors.keys() == agent._parts.start.tensors.keys()
    assert not same(*orders)


def test_promp_penalises_how_far_the_first_policies_move():
    agent = tiny(ProMP, inner_kl_coef=0.5, n_inner_steps=2)
    batch = play(agent)
    nothing, two = th.zeros(2), th.tensor([1.0, 3.0])
    before = [InnerLosses(nothing, nothing, two), InnerLosses(nothing, nothing, 2 * two)]

    assert agent._extra_loss(before, batch).item() == pytest.approx(0.5 * (2.0 + 4.0) / 2)
    assert agent.outer == "ppo"
    assert agent.inner_objective == "likelihood_ratio"


def test_promps_penalty_follows_a_target(tmp_path):
    agent = tiny(ProMP, inner_kl_coef=0.5, target_inner_kl=0.01, n_inner_steps=3)
    agent.set_logger(Logger(None, []))
    agent._after_outer_step(Report(0.0, 0.0, 0.0, [0.001, 0.01, 0.1]))

    assert agent.inner_kl_coefs == [0.25, 0.5, 1.0]
    agent.save(tmp_path / "agent")
    assert ProMP.load(tmp_path / "agent", device="cpu").inner_kl_coefs == [0.25, 0.5, 1.0]
    fixed = tiny(ProMP, inner_kl_coef=0.5)
    fixed.set_logger(agent.logger)
    fixed._after_outer_step(Report(0.0, 0.0, 0.0, [9.0]))
    assert fixed.inner_kl_coefs == [0.5]


def test_several_clipped_steps_of_promp_go_further_than_one():
    moved = []
    for n_epochs in (1, 5):
        agent = tiny(ProMP, n_epochs=n_epochs)
        loss = loss_of(agent, play(agent), clip_range=0.3)
        moved.append(agent._parts.outer.step(agent._parts.start.tensors, loss, 1e-3))
    assert moved[1].loss_after < moved[0].loss_after < moved[0].loss_before


def test_emaml_credits_what_was_done_before_adaptation_with_what_it_led_to():
    agent = tiny(EMAML, exploration_coef=2.0)
    batch = play(agent)
    rewards = batch.outer.rollout.rewards
    credit = (rewards.mean(axis=(1, 2)) - rewards.mean()) / rewards.std()
    np.testing.assert_allclose(standings(batch.outer), credit, rtol=1e-6)

    loss, plain = loss_of(agent, batch), loss_of(tiny(MAML), batch)
    tensors = agent._parts.start.tensors
    with_credit = th.autograd.grad(loss.evaluate(tensors).loss, [tensors["action_net.bias"]])[0]
    begin = agent._parts.start.begin(tensors, batch.seeds)
    rollout = batch.inner[0].rollout
    heads = agent._parts.function.actor(begin, rollout.seen)
    log_probs = agent._parts.law.log_prob(heads, rollout.actions).mean(1)
    score = -2.0 * (th.tensor(credit, dtype=th.float32) * log_probs).mean()
    expected = th.autograd.grad(score, [tensors["action_net.bias"]])[0]
    plainly = batch_gradient(agent, batch)["action_net.bias"]

    th.testing.assert_close(with_credit, plainly + expected, rtol=1e-4, atol=1e-5)
    assert plain.evaluate(tensors).loss.item() == pytest.approx(loss_of(tiny(EMAML, exploration_coef=0), batch)
                                                                .evaluate(tensors).loss.item())  # fmt: skip


def test_meta_sgd_begins_as_maml_and_learns_its_rates():
    agent, plain = tiny(MetaSGD), tiny(MAML)
    batch = play(agent)
    gradients, expected = batch_gradient(agent, batch), batch_gradient(plain, play(plain))

    assert all(th.equal(gradients[name], value) for name, value in expected.items())
    rates = {name: value for name, value in gradients.items() if name.startswith("rate/")}
    assert len(rates) == len(expected)
    assert all(value.abs().max() > 0 for value in rates.values())
    agent.learn(1)
    assert any(not th.equal(tensor, th.ones_like(tensor)) for tensor in agent._parts.start.extras().values())


def test_probabilistic_maml_begins_each_task_with_another_draw():
    agent = tiny(ProbabilisticMAML, initial_std=0.1)
    start = agent._parts.start
    first, again = start.begin(start.tensors, [1, 2]), start.begin(start.tensors, [1, 3])
    name = "mlp_extractor.policy_net.0.weight"

    assert th.equal(first[name][0], again[name][0])
    assert not th.equal(first[name][1], again[name][1])
    many = start.begin(start.tensors, range(2000))[name] - start.tensors[name]
    assert many.std().item() == pytest.approx(0.1, rel=0.02)
    assert many.mean().item() == pytest.approx(0.0, abs=0.002)
    # At the initial spread the penalty and its slope are zero; a spread e times as large costs (e^2 - 3) / 2 of it.
    spreads = start.extras()
    assert start.penalty(start.tensors).item() == pytest.approx(0.0, abs=1e-6)
    wider = {key: tensor + 1.0 * (key in spreads) for key, tensor in start.tensors.items()}
    assert start.penalty(wider).item() == pytest.approx(0.01 * (np.e**2 - 3) / 2, rel=1e-5)


def test_probabilistic_maml_adapts_from_another_draw_for_each_seed():
    agent = tiny(ProbabilisticMAML)
    drawn = [agent.adapt(task_of(), n_steps=0, seed=seed).policy.action_net.weight for seed in (1, 1, 2)]

    assert th.equal(drawn[0], drawn[1])
    assert not th.equal(drawn[0], drawn[2])
    gradient = batch_gradient(agent, play(agent))
    assert all(value.abs().max() > 0 for name, value in gradient.items() if name.startswith("spread/"))


def test_half_widths_are_one_where_there_is_no_bound():
    space = type(tiny().action_space)(np.array([-0.5, -np.inf, 2.0]), np.array([1.5, np.inf, 2.5]), dtype=np.float64)

    assert half_widths(space).tolist() == [1.0, 1.0, 0.25]


@pytest.mark.parametrize(
    ("method", "kwargs"),
    [
        (ProMP, {"inner_kl_coef": -1.0}),
        (ProMP, {"target_inner_kl": "small"}),
        (EMAML, {"exploration_coef": -1}),
        (ProbabilisticMAML, {"initial_std": 0.0}),
        (ProbabilisticMAML, {"kl_coef": None}),
    ],
)
def test_arguments_of_methods_that_make_no_sense_are_refused(method, kwargs):
    with pytest.raises(ConfigError, match=next(iter(kwargs))):
        tiny(method, **kwargs)
