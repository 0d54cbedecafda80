"""Meta-gradients: by hand, by finite differences, and against a loop over tasks with SB3's own distributions."""

import math

import numpy as np
import pytest
import torch as th

from metagym.algos.maml import MAML
from metagym.algos.maml_actions import law_of
from metagym.algos.maml_emaml import EMAML
from metagym.algos.maml_inner import InnerLoop
from metagym.algos.maml_objective import Batch, OuterLoss
from metagym.algos.maml_policy import policy_function, stacked
from metagym.algos.maml_probabilistic import ProbabilisticMAML
from metagym.algos.maml_promp import ProMP
from metagym.algos.maml_start import LearnedRates, Start
from tests.algos.maml_setup import (
    CART,
    MDP,
    POINT,
    Layered,
    Room,
    batch_gradient,
    coin,
    flipped,
    lived,
    loop_gradient,
    tiny,
)

RATE = 0.8


def coin_loss(objective="log_likelihood", order=2, start_class=Start):
    """Two tasks: action 0 was good in one, action 1 in the other, before and after the step alike."""
    function = coin()
    names = ("action_net.bias",)
    start = start_class(function, names, {"action_net.bias": th.ones((), dtype=th.float64)}, [RATE])
    inner = InnerLoop(function, law_of(Room.action_space), objective=objective)
    begin = start.begin(start.tensors, [0, 1])
    before = flipped(function, begin, [[0], [1]], [[1.0], [1.0]])
    adapted, _ = inner.step(begin, before, start.rates(start.tensors, 0))
    after = flipped(function, adapted, [[0], [1]], [[1.0], [3.0]])
    batch = Batch.of([0, 1], [before, after])
    return OuterLoss(function, law_of(Room.action_space), start, inner, batch, order=order), start, adapted


def test_an_inner_step_is_that_by_hand():
    # grad of -log p(0) at logits (0, 0) is (-1/2, 1/2).
    _, _, adapted = coin_loss()

    expected = th.tensor([[RATE / 2, -RATE / 2], [-RATE / 2, RATE / 2]], dtype=th.float64)
    th.testing.assert_close(adapted["action_net.bias"], expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("objective", "order", "curved"),
    [("log_likelihood", 2, 1.0), ("log_likelihood", 1, 0.0), ("likelihood_ratio", 2, 0.0)],
)
def test_the_meta_gradient_is_that_by_hand(objective, order, curved):
    # With logits (b, -b) = (rate / 2, -rate / 2) after the step, the ratio's slope is (1 - p') * (1, -1) for action 0,
    # and the step's own derivative, I - rate * H with H = [[1, -1], [-1, 1]] / 4, multiplies that by 1 - rate / 2.
    # The Hessian of a likelihood ratio where it is 1 adds the square of the slope, which cancels H for one flip.
    loss, start, _ = coin_loss(objective, order)
    (found,) = th.autograd.grad(loss.evaluate(start.tensors).loss, [start.tensors["action_net.bias"]])

    slope = 1 - 1 / (1 + math.exp(-RATE))
    first = -slope * (1 - curved * RATE / 2) * np.array([1.0, -1.0])
    second = -3.0 * slope * (1 - curved * RATE / 2) * np.array([-1.0, 1.0])
    np.testing.assert_allclose(found.numpy(), (first + second) / 2, rtol=1e-13)


def test_the_gradient_of_learned_rates_is_that_by_hand():
    # d loss / d rate_j = (d loss / d theta'_j) * -(inner gradient)_j, and rates count in units of the first one.
    loss, start, _ = coin_loss(start_class=LearnedRates)
    (found,) = th.autograd.grad(loss.evaluate(start.tensors).loss, [start.tensors["rate/action_net.bias"]])

    slope = 1 - 1 / (1 + math.exp(-RATE))
    expected = np.full(2, (-slope * RATE / 2 - 3.0 * slope * RATE / 2) / 2)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-13)


# --- on real episodes ------------------------------------------------------------------------------------------------


CASES = [
    (POINT, {}),
    (POINT, {"n_inner_steps": 2, "inner_learning_rate": (0.1, 0.05)}),
    (POINT, {"inner_objective": "likelihood_ratio", "normalize_actions": False}),
    (MDP, {"inner_learning_rate": 0.5}),
    (CART, {}),  # whose episodes end at different times
]


def raw(agent, batch):
    """Observations of every play, as SB3's policies take them, (K, B, ...)."""
    seen = [experience.rollout.seen for experience in (*batch.inner, batch.outer)]
    return [part.argmax(-1) for part in seen] if agent.env.observation_space.shape == () else seen


def rates_of(agent):
    start = agent._parts.start
    return [start.rates(start.tensors, step) for step in range(agent.n_inner_steps)]


@pytest.mark.parametrize(("env", "kwargs"), CASES)
@pytest.mark.parametrize(("double", "tolerance"), [(True, 1e-10), (False, 1e-6)])
def test_all_tasks_at_once_are_equal_to_one_after_the_other(env, kwargs, double, tolerance):
    agent, batch = lived(env, double, **kwargs)

    expected = loop_gradient(
        agent.policy, batch, raw(agent, batch), rates_of(agent), ratio=agent.inner_objective == "likelihood_ratio"
    )
    found = batch_gradient(agent, batch)

    for name, value in expected.items():
        th.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance)
    assert max(float(value.abs().max()) for value in expected.values()) > 1e-3


@pytest.mark.parametrize(("env", "kwargs"), CASES)
def test_the_meta_gradient_is_that_of_finite_differences(env, kwargs):
    agent, batch = lived(env, **kwargs)
    parts = agent._parts
    loss = OuterLoss(parts.function, parts.law, parts.start, parts.inner, batch)
    gradient = batch_gradient(agent, batch)
    generator = th.Generator().manual_seed(0)
    for _ in range(3):
        way = {name: th.randn(tensor.shape, generator=generator, dtype=th.float64) for name, tensor in gradient.items()}
        expected = sum(float((gradient[name] * way[name]).sum()) for name in way)
        step = 1e-6
        ends = [
            loss.evaluate({name: parts.start.tensors[name].detach() + sign * step * way[name] for name in way},
                          differentiable=False).loss.item()
            for sign in (1, -1)
        ]  # fmt: skip
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("share", [True, False])
def test_an_extractor_of_ones_own_has_the_same_gradient_task_by_task(share):
    kwargs = {"features_extractor_class": Layered, "share_features_extractor": share, "net_arch": [4]}
    agent, batch = lived(POINT, policy_kwargs=kwargs)

    assert ("vf_features_extractor.layers.0.weight" in agent._parts.function.critic_names) is not share
    expected = loop_gradient(agent.policy, batch, raw(agent, batch), rates_of(agent))
    found = batch_gradient(agent, batch)

    for name, value in expected.items():
        th.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10)
    assert float(expected["features_extractor.layers.0.weight"].abs().max()) > 1e-4


@pytest.mark.parametrize("method", [MAML, EMAML, ProMP, ProbabilisticMAML])
def test_tasks_in_pieces_have_the_gradient_of_all_together(method, monkeypatch):
    agent, batch = lived(POINT, method=method)
    results = []
    for steps in (10**6, 1):
        monkeypatch.setattr("metagym.algos.maml_inner.STEPS_AT_ONCE", steps)
        parts = agent._parts
        loss = OuterLoss(parts.function, parts.law, parts.start, parts.inner, batch, extra=agent._extra_loss)
        assert len(loss._pieces) == (1 if steps > 1 else 2)
        leaves = list(parts.start.tensors.values())
        terms = loss.evaluate(parts.start.tensors)
        results.append([terms.loss.item(), *th.autograd.grad(terms.loss, leaves)])
        results[-1] += loss.metric(parts.start.tensors)([th.ones_like(leaf) for leaf in leaves])

    th.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)


def test_at_order_zero_nothing_has_a_gradient_and_the_numbers_are_the_same():
    agent, batch = lived(POINT)
    parts = agent._parts
    begin = parts.start.begin(parts.start.tensors, [0, 1])
    rates = parts.start.rates(parts.start.tensors, 0)
    results = [parts.inner.step(begin, batch.inner[0], rates, order=order)[0] for order in (0, 1, 2)]

    taken = parts.inner.take(begin, batch.inner[0], rates)
    for name in begin:
        assert not taken[name].requires_grad
        th.testing.assert_close(taken[name], results[0][name], rtol=1e-13, atol=1e-15)
        assert not results[0][name].requires_grad
        assert th.equal(results[0][name], results[1][name])
        th.testing.assert_close(results[0][name], results[2][name], rtol=1e-13, atol=1e-15)


def test_what_is_thinned_is_every_other_episode():
    _, batch = lived(POINT)
    whole, half = batch.outer.rollout, batch.thinned(2).outer.rollout

    assert half.mask.shape == (2, 2, 6)
    assert np.array_equal(half.rewards, whole.rewards[:, [0, 2]])
    rows = whole.log_probs.reshape(2, 3, 6)[:, [0, 2]].flatten(1)
    assert th.equal(half.log_probs, rows)
    th.testing.assert_close(half.weights.sum(1), th.ones(2, dtype=th.float64))
    assert batch.thinned(1) is batch


def test_one_function_of_many_policies_is_that_of_each():
    agent = tiny()
    function = policy_function(agent.policy)
    seen = th.randn(1, 5, 2)
    named = dict(agent.policy.named_parameters())
    twice = stacked(named, 2)

    heads = function.actor(twice, seen.expand(2, 5, 2))
    expected = agent.policy.get_distribution(seen[0]).distribution.mean
    th.testing.assert_close(heads.outputs[1], expected)
    th.testing.assert_close(function.critic(twice, seen.expand(2, 5, 2))[1], agent.policy.predict_values(seen[0])[:, 0])
