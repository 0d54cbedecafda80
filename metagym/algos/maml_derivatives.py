"""First and second derivatives of what PyTorch has recorded, asked for again and again."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch as th

__all__ = ["Bowl", "Linearized", "Tensors", "derivative"]

Tensors: TypeAlias = Sequence[th.Tensor]


class Linearized:
    """The derivative of some tensors by others, forwards and backwards, as often as needed.

    Args:
        outputs: with a graph.
        leaves: that they depend on.
    """

    def __init__(self, outputs: Tensors, leaves: Tensors) -> None:
        self._outputs, self._leaves = outputs, leaves
        self._pulls = [th.zeros_like(output, requires_grad=True) for output in outputs]
        pulled = derivative(outputs, leaves, self._pulls, create_graph=True)
        # Linear in the pulls, and its derivative by them is the way forwards.
        self._places = [place for place, tensor in enumerate(pulled) if tensor.requires_grad]
        self._pulled = [pulled[place] for place in self._places]

    def forward(self, moves: Tensors) -> list[th.Tensor]:
        """How outputs move when leaves do."""
        return derivative(self._pulled, self._pulls, [moves[place] for place in self._places])

    def backward(self, pulls: Tensors) -> list[th.Tensor]:
        """The gradient of the sum of ``outputs * pulls`` by the leaves."""
        return derivative(self._outputs, self._leaves, pulls)


class Bowl:
    """The first and second derivative of a number, where it is looked at.

    Args:
        number: a function of tensors.
        at: those tensors.
        curved: whether `__call__` will be.

    Attributes:
        slopes: the gradient.
    """

    def __init__(self, number: Callable[..., th.Tensor], at: Tensors, curved: bool = True) -> None:
        with th.enable_grad():
            self._leaves = [tensor.detach().requires_grad_() for tensor in at]
            self._slopes = derivative([number(*self._leaves)], self._leaves, None, create_graph=curved)
        self.slopes = [slope.detach() for slope in self._slopes]

    def __call__(self, moves: Tensors) -> list[th.Tensor]:
        """The product of the Hessian with tensors like `at`."""
        bent = [place for place, slope in enumerate(self._slopes) if slope.requires_grad]
        return derivative([self._slopes[place] for place in bent], self._leaves, [moves[place] for place in bent])


def derivative(
    outputs: Tensors, leaves: Tensors, pulls: Tensors | None, *, create_graph: bool = False
) -> list[th.Tensor]:
    """The gradient of the sum of ``outputs * pulls`` by leaves, zeros where there is none; graphs are kept.

    Args:
        outputs: with a graph; there may be none.
        leaves: that they depend on.
        pulls: like the outputs; None for one number.
        create_graph: whether the gradient has a graph too.
    """
    if not outputs:
        return [th.zeros_like(leaf) for leaf in leaves]
    with th.enable_grad():
        found = th.autograd.grad(
            outputs, leaves, pulls, create_graph=create_graph, retain_graph=True, materialize_grads=True
        )
    return list(found)
