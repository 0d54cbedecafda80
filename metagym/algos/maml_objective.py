"""The outer loss: how well policies do after their steps within tasks, as a function of what is meta-learned.

Inner steps are repeated on the episodes that were played before them, and what the result would do in the last episodes
is weighed by likelihood ratios against the policies that played those.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch as th
from typing_extensions import Self

from metagym.algos.maml_actions import ActionLaw, Heads
from metagym.algos.maml_adaptation import Adaptation
from metagym.algos.maml_baselines import Experience
from metagym.algos.maml_inner import InnerLoop, InnerLosses, Rates, pieces
from metagym.algos.maml_metric import GraphWay, MlpWay, TrustRegionMetric, Way
from metagym.algos.maml_policy import MlpFunction, Parameters, PolicyFunction
from metagym.algos.maml_start import Start
from metagym.types import Float

__all__ = ["Batch", "Extra", "OuterLoss", "Terms", "standings"]


@dataclass
class Batch:
    """What was lived through in one iteration.

    Attributes:
        seeds: of the tasks, K.
        inner: before each inner step.
        outer: after the last one.
        standings: how much better than on average the last steps on each task were paid, (K,).
    """

    seeds: Sequence[int]
    inner: list[Experience]
    outer: Experience
    standings: Float

    @classmethod
    def of(cls, seeds: Sequence[int], experiences: Sequence[Experience]) -> Self:
        """What was lived through in all plays of K tasks."""
        *inner, outer = experiences
        return cls(seeds, inner, outer, standings(outer))

    def thinned(self, factor: int) -> "Batch":
        """One of `factor` episodes of each task."""
        if factor == 1:
            return self
        inner = [one.thinned(factor) for one in self.inner]
        return Batch(self.seeds, inner, self.outer.thinned(factor), self.standings)

    def pieces(self) -> "list[Batch]":
        """The same, some tasks at a time: as many as are computed fastest together."""
        parts = pieces(self.outer)
        if len(parts) == 1:
            return [self]
        return [
            Batch(
                self.seeds[part], [one.tasks(part) for one in self.inner], self.outer.tasks(part), self.standings[part]
            )
            for part in parts
        ]


@dataclass
class Terms:
    """The outer loss and what belongs to it.

    Attributes:
        loss: to be minimised.
        divergence: mean KL of the adapted policies from those that played the last episodes.
        inner: how far the policies before each inner step are from those that played, mean KL.
    """

    loss: th.Tensor
    divergence: th.Tensor
    inner: list[float]


Extra: TypeAlias = Callable[[list[InnerLosses], Batch], "th.Tensor | float"]


class OuterLoss:
    """The outer loss of one iteration.

    Args:
        function: what policies compute.
        law: how actions are distributed.
        start: what is meta-learned.
        inner: steps within tasks.
        batch: what was lived through.
        clip_range: of likelihood ratios, as in PPO; None does not clip.
        ent_coef: weight of the entropy of adapted policies.
        order: of gradients through inner steps, 1 or 2.
        thinning: `metric` looks at one of so many episodes.
        extra: what a method adds to the loss.
    """

    def __init__(
        self,
        function: PolicyFunction,
        law: ActionLaw,
        start: Start,
        inner: InnerLoop,
        batch: Batch,
        *,
        clip_range: float | None = None,
        ent_coef: float = 0.0,
        order: int = 2,
        thinning: int = 1,
        extra: Extra | None = None,
    ) -> None:
        self._function, self._law, self._start, self._inner = function, law, start, inner
        self._num_tasks, self._pieces = len(batch.seeds), batch.pieces()
        self._clip_range, self._ent_coef, self._order, self._extra = clip_range, ent_coef, order, extra
        self._thinned = self._pieces if thinning == 1 else batch.thinned(thinning).pieces()

    def evaluate(self, tensors: Parameters, *, differentiable: bool = True) -> Terms:
        """The loss of meta-parameters.

        Args:
            tensors: like those of `Start`.
            differentiable: whether gradients will be asked for.
        """
        with th.set_grad_enabled(differentiable):
            order = self._order * differentiable
            parts = [self._share(self._terms(tensors, piece, order), piece) for piece in self._pieces]
            loss = th.stack([part.loss for part in parts]).sum() + self._start.penalty(tensors)
            divergence = th.stack([part.divergence for part in parts]).sum()
        return Terms(loss, divergence, [sum(each) for each in zip(*(part.inner for part in parts), strict=True)])

    def _share(self, terms: Terms, piece: Batch) -> Terms:
        """What the mean over a piece's tasks adds to the mean over all."""
        share = len(piece.seeds) / self._num_tasks
        return Terms(share * terms.loss, share * terms.divergence, [share * one for one in terms.inner])

    def _terms(self, tensors: Parameters, batch: Batch, order: int) -> Terms:
        law, rollout = self._law, batch.outer.rollout
        heads, before = self._adapted(tensors, batch, order)
        ratios = (law.log_prob(heads, rollout.actions) - rollout.log_probs).exp()
        loss = -(self._gains(ratios, batch.outer.advantages) * rollout.weights).sum(1).mean()
        if self._ent_coef:
            loss = loss - self._ent_coef * (law.entropy(heads) * rollout.weights).sum(1).mean()
        if self._extra is not None:
            loss = loss + self._extra(before, batch)
        divergence = (law.divergence(rollout.heads, heads) * rollout.weights).sum(1).mean()
        return Terms(loss, divergence, [losses.divergence.detach().mean().item() for losses in before])

    def metric(self, tensors: Mapping[str, th.Tensor]) -> TrustRegionMetric:
        """The Hessian of the mean divergence of adapted policies from what they are where `tensors` are now.

        Args:
            tensors: like those of `Start`, leaves of graphs.
        """
        leaves = list(tensors.values())
        ways = [self._way(tensors, leaves, piece) for piece in self._thinned]
        weights = [piece.outer.rollout.weights / self._num_tasks for piece in self._thinned]
        return TrustRegionMetric(self._law, ways, weights)

    def _way(self, tensors: Parameters, leaves: Sequence[th.Tensor], batch: Batch) -> Way:
        with th.enable_grad():
            by_hand = self._by_hand(tensors, batch, self._order)
            if by_hand is None:
                return GraphWay(self._adapted(tensors, batch, self._order)[0], leaves)
        return MlpWay(by_hand, leaves)

    def _adapted(self, tensors: Parameters, batch: Batch, order: int) -> tuple[Heads, list[InnerLosses]]:
        """What adapted policies say of the last episodes' actions, and the losses before each step."""
        by_hand = self._by_hand(tensors, batch, order)
        if by_hand is not None:
            after, before = by_hand.recorded()
            pairs = zip(before, batch.inner, strict=True)
            return after, [self._inner.judged(heads, experience) for heads, experience in pairs]
        begin, rates = self._beginning(tensors, batch)
        adapted, losses = self._inner.adapt(begin, batch.inner, rates, order=order)
        return self._function.actor(adapted, batch.outer.rollout.seen), losses

    def _by_hand(self, tensors: Parameters, batch: Batch, order: int) -> Adaptation | None:
        """The adaptation with derivatives by hand, where there is one."""
        if not (isinstance(self._function, MlpFunction) and self._function.all_learn):
            return None
        begin, rates = self._beginning(tensors, batch)
        return Adaptation(self._function, self._inner, begin, rates, batch.inner, batch.outer, order)

    def _beginning(self, tensors: Parameters, batch: Batch) -> tuple[Parameters, list[Rates]]:
        """Parameters that tasks begin with, and the sizes of their steps."""
        rates = [self._start.rates(tensors, step) for step in range(len(batch.inner))]
        return self._start.begin(tensors, batch.seeds), rates

    def _gains(self, ratios: th.Tensor, advantages: th.Tensor) -> th.Tensor:
        if self._clip_range is None:
            return ratios * advantages
        clipped = ratios.clamp(1 - self._clip_range, 1 + self._clip_range)
        return th.minimum(ratios * advantages, clipped * advantages)


def standings(experience: Experience) -> Float:
    """How much better than on average the steps on each task were paid, in standard deviations of a step's, (K,)."""
    rewards, mask = experience.rollout.rewards, experience.rollout.mask
    paid = rewards[mask]
    means = (rewards * mask).sum(axis=(1, 2)) / mask.sum(axis=(1, 2))
    standing: Float = (means - paid.mean()) / (np.std(paid) + 1e-8)
    return standing
