"""The trust region's metric: products with the Hessian of the mean divergence of adapted policies from themselves.

Where policies are what they are compared with, the divergence has its minimum, and its Hessian is ``J^T F J``: J is the
derivative of what adapted policies say of their actions by what is meta-learned, through the steps within tasks, and F
the divergence's Hessian by what they say. A product takes J once forwards and once backwards.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch as th
from typing_extensions import override

from metagym.algos.maml_actions import ActionLaw, Heads
from metagym.algos.maml_adaptation import Adaptation
from metagym.algos.maml_derivatives import Bowl, Linearized, Tensors

__all__ = ["GraphWay", "MlpWay", "TrustRegionMetric", "Way"]


class Way(ABC):
    """From what is meta-learned to what adapted policies say of their actions.

    Attributes:
        numbers: what they say: outputs, and logarithms of standard deviations if there are any; without a graph.
    """

    numbers: list[th.Tensor]

    @abstractmethod
    def forward(self, moves: Tensors) -> list[th.Tensor]:
        """How the numbers move when what is meta-learned does."""

    @abstractmethod
    def backward(self, pulls: Tensors) -> list[th.Tensor]:
        """The gradient of the sum of ``numbers * pulls`` by what is meta-learned."""


class GraphWay(Way):
    """The way that PyTorch has recorded.

    Args:
        heads: of adapted policies, with a graph.
        leaves: what is meta-learned.
    """

    def __init__(self, heads: Heads, leaves: Tensors) -> None:
        outputs = [heads.outputs] + ([] if heads.log_std is None else [heads.log_std])
        self.numbers = [output.detach() for output in outputs]
        self._along = Linearized(outputs, leaves)

    @override
    def forward(self, moves: Tensors) -> list[th.Tensor]:
        return self._along.forward(moves)

    @override
    def backward(self, pulls: Tensors) -> list[th.Tensor]:
        return self._along.backward(pulls)


class MlpWay(Way):
    """The way of SB3's MLP policies, by hand.

    Args:
        adaptation: whose inputs may have a graph.
        leaves: what is meta-learned.
    """

    def __init__(self, adaptation: Adaptation, leaves: Tensors) -> None:
        adaptation.prepare()
        self._adaptation, self._first = adaptation, Linearized(adaptation.inputs, leaves)
        self.numbers = adaptation.numbers

    @override
    def forward(self, moves: Tensors) -> list[th.Tensor]:
        return self._adaptation.forward(self._first.forward(moves))

    @override
    def backward(self, pulls: Tensors) -> list[th.Tensor]:
        return self._first.backward(self._adaptation.backward(pulls))


class TrustRegionMetric:
    """Products with the Hessian of the mean divergence of adapted policies from what they are now.

    Args:
        law: how actions are distributed.
        ways: to the policies of some tasks each.
        weights: of the steps that policies are asked about, for each way, (K, B).
    """

    def __init__(self, law: ActionLaw, ways: Sequence[Way], weights: Tensors) -> None:
        self._ways, self._bowls = ways, []
        for way, own in zip(ways, weights, strict=True):
            here = Heads(*way.numbers)
            self._bowls.append(
                Bowl(lambda *at, here=here, own=own: (law.divergence(here, Heads(*at)) * own).sum(), way.numbers)
            )

    def __call__(self, moves: Tensors) -> list[th.Tensor]:
        """The product with tensors like what is meta-learned."""
        parts = [way.backward(bowl(way.forward(moves))) for way, bowl in zip(self._ways, self._bowls, strict=True)]
        return [th.stack(part).sum(0) for part in zip(*parts, strict=True)]
