"""Products with the trust region's Hessian: against double differentiation, finite differences, and both ways alike."""

import pytest
import torch as th
from torch import nn

from metagym.algos.maml import FOMAML, MAML
from metagym.algos.maml_emaml import EMAML
from metagym.algos.maml_meta_sgd import MetaSGD
from metagym.algos.maml_metric import GraphWay, MlpWay
from metagym.algos.maml_objective import OuterLoss
from metagym.algos.maml_policy import MlpFunction
from metagym.algos.maml_probabilistic import ProbabilisticMAML
from metagym.algos.maml_promp import ProMP
from tests.algos.maml_setup import CART, MDP, POINT, Layered, batch_gradient, lived

CASES = [
    (MAML, POINT, {}),
    (MAML, CART, {"ent_coef": 0.1}),
    (MAML, MDP, {"policy_kwargs": {"net_arch": [7, 5]}}),  # with more inputs than a few
    (MAML, MDP, {"inner_learning_rate": 0.5}),
    (MAML, POINT, {"n_inner_steps": 2, "inner_objective": "likelihood_ratio"}),
    (MAML, POINT, {"policy_kwargs": {"net_arch": [7, 5, 6], "activation_fn": nn.ReLU}}),
    (MAML, POINT, {"policy_kwargs": {"net_arch": [6, 5], "activation_fn": nn.SiLU}}),
    (MAML, CART, {"policy_kwargs": {"net_arch": [7, 5, 6], "activation_fn": nn.ReLU}}),
    (MAML, POINT, {"policy_kwargs": {"net_arch": []}}),
    (MAML, POINT, {"baseline": "value_net"}),
    (FOMAML, POINT, {"n_inner_steps": 2}),
    (MetaSGD, POINT, {"n_inner_steps": 2}),
    (ProbabilisticMAML, CART, {}),
    (MAML, POINT, {"policy_kwargs": {"features_extractor_class": Layered, "net_arch": [4]}}),
]


def setting(method, env, kwargs):
    agent, batch = lived(env, method=method, **kwargs)
    parts = agent._parts
    loss = OuterLoss(parts.function, parts.law, parts.start, parts.inner, batch, order=1 if agent.first_order else 2)
    leaves = list(parts.start.tensors.values())
    generator = th.Generator().manual_seed(0)
    moves = [th.randn(leaf.shape, generator=generator, dtype=th.float64) for leaf in leaves]
    return parts, loss, leaves, moves


@pytest.mark.parametrize(("method", "env", "kwargs"), CASES)
def test_a_product_is_that_of_differentiating_twice(method, env, kwargs):
    parts, loss, leaves, moves = setting(method, env, kwargs)
    way = loss.metric(parts.start.tensors)._ways[0]
    assert type(way) is (GraphWay if "features_extractor_class" in kwargs.get("policy_kwargs", {}) else MlpWay)
    found = loss.metric(parts.start.tensors)(moves)

    if parts.function.__class__ is MlpFunction:
        parts.function.all_learn = False  # PyTorch's own derivatives, then
    divergence = loss.evaluate(parts.start.tensors).divergence
    slopes = th.autograd.grad(divergence, leaves, create_graph=True, materialize_grads=True)
    assert max(float(slope.detach().abs().max()) for slope in slopes) < 1e-12
    along = sum((slope * move).sum() for slope, move in zip(slopes, moves, strict=True))
    expected = th.autograd.grad(along, leaves, materialize_grads=True)
    for one, other in zip(found, expected, strict=True):
        th.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
    assert max(float(part.abs().max()) for part in found) > 1e-3


@pytest.mark.parametrize(("method", "env", "kwargs"), CASES[:-1])
def test_by_hand_and_by_graph_are_the_same(method, env, kwargs, monkeypatch):
    parts, loss, _, moves = setting(method, env, kwargs)
    found = loss.metric(parts.start.tensors)(moves)
    parts.function.all_learn = False
    metric = loss.metric(parts.start.tensors)

    assert type(metric._ways[0]) is GraphWay
    for one, other in zip(found, metric(moves), strict=True):
        th.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    ("method", "kwargs"),
    [(MAML, {"ent_coef": 0.1}), (EMAML, {"n_inner_steps": 2}), (ProMP, {"inner_kl_coef": 0.5}), (MetaSGD, {})],
)
@pytest.mark.parametrize("env", [POINT, MDP])
def test_a_gradient_by_hand_is_that_of_pytorch(method, kwargs, env, order):
    agent, batch = lived(env, method=method, **kwargs)
    agent.policy.action_net.weight.data.add_(0.3)  # away from where the divergence is smallest
    found = batch_gradient(agent, batch, order=order, extra=agent._extra_loss, ent_coef=agent.ent_coef)
    agent._parts.function.all_learn = False
    expected = batch_gradient(agent, batch, order=order, extra=agent._extra_loss, ent_coef=agent.ent_coef)

    for name, value in expected.items():
        th.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11)
    assert max(float(value.abs().max()) for value in expected.values()) > 1e-3


def test_twice_the_divergence_of_a_small_move_is_its_length_in_the_metric():
    parts, loss, leaves, way = setting(MAML, POINT, {})
    image = loss.metric(parts.start.tensors)(way)
    step = 1e-4
    names = list(parts.start.tensors)
    moved = {name: leaf.detach() + step * along for name, leaf, along in zip(names, leaves, way, strict=True)}
    moved_by = loss.evaluate(moved, differentiable=False).divergence.item()
    length = sum(float((part * along).sum()) for part, along in zip(image, way, strict=True))
    assert length > 0
    assert 2 * moved_by / step**2 == pytest.approx(length, rel=1e-3)
