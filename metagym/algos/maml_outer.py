"""Outer steps: a trust region with conjugate gradients and a line search, or some steps of Adam.

The trust region is that of TRPO (Schulman et al. 2015): the direction x solves ``(H + damping) x = g``, where g is the
gradient of the outer loss and H the Hessian of the mean divergence of adapted policies, both through the inner steps.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch as th
from torch import nn
from typing_extensions import override

from metagym.algos.maml_objective import OuterLoss, Terms
from metagym.algos.maml_policy import Parameters
from metagym.learner_state import flatten_moments, load_moments
from metagym.types import Array

__all__ = ["AdamStep", "Loss", "OuterStep", "Report", "TrustRegionStep", "conjugate_gradient"]

_NAME = "outer"


@dataclass
class Report:
    """What an outer step did.

    Attributes:
        loss_before: the outer loss where it began.
        loss_after: where it ended.
        divergence: how far the adapted policies moved, mean KL.
        inner_divergences: how far the policies that began the inner steps moved, one for each, mean KL.
        line_search: tries that were not taken; as many as there are if none was.
    """

    loss_before: float
    loss_after: float
    divergence: float
    inner_divergences: list[float]
    line_search: int = 0


class Loss(Protocol):
    """What is minimised."""

    def evaluate(self, tensors: Parameters, *, differentiable: bool = True) -> Terms:
        """The loss of some tensors, with a gradient if it is to be differentiable."""
        ...


class OuterStep(ABC):
    """Moves what is meta-learned, in place."""

    @abstractmethod
    def step(self, tensors: Mapping[str, nn.Parameter], loss: OuterLoss, rate: float) -> Report:
        """Take one step.

        Args:
            tensors: what is meta-learned.
            loss: to be minimised.
            rate: the outer learning rate, where it has a meaning.
        """

    def capture(self) -> Any:
        """What is remembered from step to step, copied, for `restore`."""
        return None

    def restore(self, captured: Any) -> None:
        """Go back to what `capture` returned, once."""
        del captured

    def arrays(self) -> dict[str, Array]:
        """What is remembered from step to step, for a file."""
        return {}

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Put back what `arrays` returned.

        Raises:
            CheckpointError: if it belongs to another optimiser.
        """
        del arrays


class TrustRegionStep(OuterStep):
    """The furthest step along the natural gradient that keeps adapted policies close.

    Args:
        target_kl: how far adapted policies may move, mean KL summed over the dimensions of an action.
        cg_max_steps: iterations of conjugate gradients.
        cg_damping: added to the diagonal of the Hessian.
        line_search_max_iter: tries.
        line_search_shrinking_factor: each as long as the one before, times this.
    """

    def __init__(
        self,
        *,
        target_kl: float = 0.01,
        cg_max_steps: int = 10,
        cg_damping: float = 1e-2,
        line_search_max_iter: int = 15,
        line_search_shrinking_factor: float = 0.8,
    ) -> None:
        self._target_kl, self._cg_max_steps, self._cg_damping = target_kl, cg_max_steps, cg_damping
        self._tries, self._shrinking = line_search_max_iter, line_search_shrinking_factor

    @override
    def step(self, tensors: Mapping[str, nn.Parameter], loss: OuterLoss, rate: float) -> Report:
        before = loss.evaluate(tensors)
        leaves = list(tensors.values())
        gradient = _flat(th.autograd.grad(before.loss, leaves, materialize_grads=True))
        metric, shapes = loss.metric(tensors), [leaf.shape for leaf in leaves]

        def curved(vector: th.Tensor) -> th.Tensor:
            parts = th.split(vector, [shape.numel() for shape in shapes])
            moves = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
            return _flat(metric(moves)) + self._cg_damping * vector

        direction, rest = conjugate_gradient(curved, gradient, self._cg_max_steps)
        # The direction's image is what was to be reached, less what is missing.
        curvature = (direction @ (gradient - rest)).item()
        if not (math.isfinite(curvature) and curvature > 0.0):
            # A gradient of zero, or one that is not finite: there is nowhere to go.
            return _report(before, before, self._tries)
        reach = direction * math.sqrt(2 * self._target_kl / curvature)
        return self._search(tensors, loss, before, reach)

    def _search(self, tensors: Mapping[str, nn.Parameter], loss: OuterLoss, before: Terms, reach: th.Tensor) -> Report:
        start = before.loss.item()
        for tries in range(self._tries):
            shift = reach * self._shrinking**tries
            moved = _moved(tensors, shift)
            after = loss.evaluate(moved, differentiable=False)
            if after.loss.item() < start and after.divergence.item() <= self._target_kl:
                with th.no_grad():
                    for name, tensor in tensors.items():
                        tensor.copy_(moved[name])
                return _report(before, after, tries)
        return _report(before, before, self._tries)


class AdamStep(OuterStep):
    """Some steps of Adam on the same episodes, from which likelihood ratios, clipped in the loss, do not stray far.

    Args:
        tensors: what is meta-learned.
        n_epochs: steps.
    """

    def __init__(self, tensors: Sequence[nn.Parameter], n_epochs: int) -> None:
        self._optimizer = th.optim.Adam(tensors, lr=1.0)
        self._n_epochs = n_epochs

    @override
    def step(self, tensors: Mapping[str, nn.Parameter], loss: Loss, rate: float) -> Report:
        leaves = list(tensors.values())
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        before: Terms | None = None
        for _ in range(self._n_epochs):
            terms = loss.evaluate(tensors)
            before = before or _without_graph(terms)
            gradients = th.autograd.grad(terms.loss, leaves, materialize_grads=True)
            for leaf, gradient in zip(leaves, gradients, strict=True):
                leaf.grad = gradient
            self._optimizer.step()
            self._optimizer.zero_grad()
        assert before is not None
        return _report(before, loss.evaluate(tensors, differentiable=False), 0)

    @override
    def capture(self) -> Any:
        return copy.deepcopy(self._optimizer.state_dict())

    @override
    def restore(self, captured: Any) -> None:
        self._optimizer.load_state_dict(captured)

    @override
    def arrays(self) -> dict[str, Array]:
        return flatten_moments(_NAME, self._optimizer)

    @override
    def load(self, arrays: Mapping[str, Array]) -> None:
        load_moments(_NAME, self._optimizer, arrays)


def conjugate_gradient(
    matrix: Callable[[th.Tensor], th.Tensor], target: th.Tensor, max_steps: int, tolerance: float = 1e-10
) -> tuple[th.Tensor, th.Tensor]:
    """The x with ``matrix(x) = target``, approximately, for a symmetric positive definite matrix; and the residual.

    Args:
        matrix: multiplies by it.
        target: (n,).
        max_steps: iterations.
        tolerance: of the squared residual.
    """
    solution, residual = th.zeros_like(target), target.clone()
    direction, square = residual.clone(), residual @ residual
    for _ in range(max_steps):
        if not bool(square > tolerance):
            break
        image = matrix(direction)
        length = square / (direction @ image)
        solution = solution + length * direction
        residual = residual - length * image
        following = residual @ residual
        direction, square = residual + following / square * direction, following
    return solution, residual


def _moved(tensors: Mapping[str, nn.Parameter], shift: th.Tensor) -> dict[str, th.Tensor]:
    """Tensors minus the parts of a flat vector: the way down, if that points up."""
    moved, end = {}, 0
    for name, tensor in tensors.items():
        moved[name] = tensor.detach() - shift[end : end + tensor.numel()].view_as(tensor)
        end += tensor.numel()
    return moved


def _flat(tensors: Any) -> th.Tensor:
    return th.cat([tensor.reshape(-1) for tensor in tensors])


def _without_graph(terms: Terms) -> Terms:
    return Terms(terms.loss.detach(), terms.divergence.detach(), terms.inner)


def _report(before: Terms, after: Terms, line_search: int) -> Report:
    return Report(before.loss.item(), after.loss.item(), after.divergence.item(), after.inner, line_search)
