"""The outer loss: how well policies do after their steps within tasks, as a function of what is meta-learned.

Inner steps are repeated on the episodes that were played before them, and what the result would do in the last episodes
is weighed by likelihood ratios against the policies that played those.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch as th

from metagym.algos.maml_actions import ActionLaw, Heads
from metagym.algos.maml_baselines import Experience
from metagym.algos.maml_inner import InnerLoop, InnerLosses
from metagym.algos.maml_policy import Parameters, PolicyFunction
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
    """

    seeds: Sequence[int]
    inner: list[Experience]
    outer: Experience

    def thinned(self, factor: int) -> "Batch":
        """One of `factor` episodes of each task."""
        if factor == 1:
            return self
        return Batch(self.seeds, [one.thinned(factor) for one in self.inner], self.outer.thinned(factor))


@dataclass
class Terms:
    """The outer loss and what belongs to it.

    Attributes:
        loss: to be minimised.
        divergence: mean KL of the adapted policies from those that played the last episodes.
        before: losses before each inner step.
    """

    loss: th.Tensor
    divergence: th.Tensor
    before: list[InnerLosses]


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
        thinning: `curvature` looks at one of so many episodes.
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
        self._function, self._law, self._start, self._inner, self._batch = function, law, start, inner, batch
        self._clip_range, self._ent_coef, self._order, self._extra = clip_range, ent_coef, order, extra
        self._thinned = batch.thinned(thinning)

    def evaluate(self, tensors: Parameters, *, differentiable: bool = True) -> Terms:
        """The loss of meta-parameters.

        Args:
            tensors: like those of `Start`.
            differentiable: whether gradients will be asked for.
        """
        batch, law = self._batch, self._law
        with th.set_grad_enabled(differentiable):
            heads, before = self._adapted(tensors, batch, self._order * differentiable)
            rollout = batch.outer.rollout
            ratios = (law.log_prob(heads, rollout.actions) - rollout.log_probs).exp()
            loss = -(self._gains(ratios) * rollout.weights).sum(1).mean()
            if self._ent_coef:
                loss = loss - self._ent_coef * (law.entropy(heads) * rollout.weights).sum(1).mean()
            loss = loss + self._start.penalty(tensors)
            if self._extra is not None:
                loss = loss + self._extra(before, batch)
            divergence = (law.divergence(rollout.heads, heads) * rollout.weights).sum(1).mean()
        return Terms(loss, divergence, before)

    def curvature(self, tensors: Parameters) -> th.Tensor:
        """Mean divergence of adapted policies from what they are where `tensors` are now: its Hessian is the metric."""
        batch = self._thinned
        heads, _ = self._adapted(tensors, batch, self._order)
        divergence = self._law.divergence(heads.copy(), heads)
        return (divergence * batch.outer.rollout.weights).sum(1).mean()

    def _adapted(self, tensors: Parameters, batch: Batch, order: int) -> tuple[Heads, list[InnerLosses]]:
        """What adapted policies say of the last episodes' actions, and the losses before each step."""
        begin = self._start.begin(tensors, batch.seeds)
        rates = [self._start.rates(tensors, step) for step in range(len(batch.inner))]
        adapted, before = self._inner.adapt(begin, batch.inner, rates, order=order)
        return self._function.actor(adapted, batch.outer.rollout.seen), before

    def _gains(self, ratios: th.Tensor) -> th.Tensor:
        advantages = self._batch.outer.advantages
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
