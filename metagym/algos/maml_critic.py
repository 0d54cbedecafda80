"""How a value network is trained: on what the meta-parameters themselves live through, before tasks are adapted to."""

import torch as th

from metagym.algos.maml_baselines import Experience
from metagym.algos.maml_objective import Terms
from metagym.algos.maml_policy import Parameters, PolicyFunction, stacked

__all__ = ["CriticLoss"]


class CriticLoss:
    """Mean squared error of values, in place of an outer loss.

    Args:
        function: that computes them.
        experience: whose returns are predicted.
    """

    def __init__(self, function: PolicyFunction, experience: Experience) -> None:
        self._function, self._experience = function, experience

    def evaluate(self, tensors: Parameters, *, differentiable: bool = True) -> Terms:
        """The loss of a critic's parameters."""
        rollout = self._experience.rollout
        with th.set_grad_enabled(differentiable):
            values = self._function.critic(stacked(tensors, len(rollout.weights)), rollout.seen)
            errors = values - self._experience.returns
            loss = (errors.square() * rollout.weights).sum(1).mean()
        return Terms(loss, th.zeros(()), [])
