"""Derivatives both ways, and Hessians, by hand."""

import torch as th

from metagym.algos.maml_derivatives import Bowl, Linearized, derivative


def test_a_derivative_goes_both_ways():
    leaves = [th.tensor([1.0, 2.0], requires_grad=True), th.tensor(3.0, requires_grad=True)]
    along = Linearized([leaves[0] * leaves[1], leaves[0].square(), leaves[1] + 0.0], leaves)
    ones = [th.ones(2), th.tensor(1.0)]

    assert [part.tolist() for part in along.forward(ones)] == [[4.0, 5.0], [2.0, 4.0], 1.0]
    assert [part.tolist() for part in along.backward([th.ones(2), th.ones(2), th.tensor(1.0)])] == [[5.0, 7.0], 4.0]


def test_a_bowl_is_its_hessian():
    at = [th.tensor([1.0, 2.0]), th.tensor(3.0)]
    bowl = Bowl(lambda x, y: (x.square() * y).sum(), at)

    assert [slope.tolist() for slope in bowl.slopes] == [[6.0, 12.0], 5.0]
    # d/dx (2 x y) = 2 y along x, and 2 x along y.
    assert [part.tolist() for part in bowl([th.tensor([1.0, 0.0]), th.tensor(1.0)])] == [[8.0, 4.0], 2.0]
    flat = Bowl(lambda x: x.sum(), at[:1])
    assert [part.tolist() for part in flat([th.ones(2)])] == [[0.0, 0.0]]


def test_the_derivative_of_nothing_is_zero():
    assert [part.tolist() for part in derivative([], [th.ones(2)], [])] == [[0.0, 0.0]]
