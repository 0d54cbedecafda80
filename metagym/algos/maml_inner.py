"""Steps within tasks: the parameters of K policies after gradient steps on what each has lived through.

    theta_k' = theta_k - alpha * grad L(theta_k, D_k)

L is the loss of an actor-critic step on task k's episodes D_k: minus the mean of ``log pi(a | s) * advantage``, or of
the likelihood ratio ``pi(a | s) / pi_old(a | s) * advantage``, whose gradient is the same on fresh episodes and whose
curvature is that of ProMP's low-variance estimator. With entropy and, where a value network is the baseline, its
squared error, as in A2C.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import torch as th

from metagym.algos.maml_actions import ActionLaw, Heads
from metagym.algos.maml_baselines import Experience
from metagym.algos.maml_derivatives import Bowl
from metagym.algos.maml_policy import ActorPass, MlpFunction, Parameters, PolicyFunction

__all__ = ["STEPS_AT_ONCE", "InnerLoop", "InnerLosses", "Objective", "Rates", "pieces"]

Objective: TypeAlias = Literal["log_likelihood", "likelihood_ratio"]
Rates: TypeAlias = Mapping[str, "th.Tensor | float"]
"""Step sizes by name of parameter, each one number or a tensor like the parameter's."""


STEPS_AT_ONCE = 4096
"""Steps of tasks whose layers' outputs stay in a processor's cache until they are needed again."""


@dataclass
class InnerLosses:
    """What an inner step's loss is made of.

    Attributes:
        total: the loss, (K,).
        log_prob: mean of log pi(a | s) of the task's actions, (K,).
        divergence: mean KL of the policy from the one that acted, (K,).
    """

    total: th.Tensor
    log_prob: th.Tensor
    divergence: th.Tensor


class InnerLoop:
    """Gradient steps within tasks, all tasks at once.

    Args:
        function: what policies compute.
        law: how actions are distributed.
        objective: the policy's part of the loss.
        ent_coef: weight of the entropy.
        vf_coef: weight of the value network's squared error; None leaves it alone.
    """

    def __init__(
        self,
        function: PolicyFunction,
        law: ActionLaw,
        *,
        objective: Objective = "log_likelihood",
        ent_coef: float = 0.0,
        vf_coef: float | None = None,
    ) -> None:
        self._function, self._law, self._objective = function, law, objective
        self._ent_coef, self._vf_coef = ent_coef, vf_coef

    def losses(self, parameters: Parameters, experience: Experience) -> InnerLosses:
        """The losses of K tasks; each is a function of its own task's parameters alone."""
        rollout = experience.rollout
        judged = self.judged(self._function.actor(parameters, rollout.seen), experience)
        if self._vf_coef is not None:
            errors = self._function.critic(parameters, rollout.seen) - experience.returns
            judged.total = judged.total + self._vf_coef * (errors.square() * rollout.weights).sum(1)
        return judged

    def judged(self, heads: Heads, experience: Experience) -> InnerLosses:
        """The losses of what K policies say of their actions, without the critic's."""
        rollout, law = experience.rollout, self._law
        weights = rollout.weights
        log_probs = law.log_prob(heads, rollout.actions)
        gain = log_probs
        if self._objective == "likelihood_ratio":
            gain = (log_probs - rollout.log_probs).exp()
        total = -(gain * experience.advantages * weights).sum(1)
        if self._ent_coef:
            total = total - self._ent_coef * (law.entropy(heads) * weights).sum(1)
        divergence = (law.divergence(rollout.heads, heads) * weights).sum(1)
        return InnerLosses(total, (log_probs * weights).sum(1), divergence)

    def step(
        self, parameters: Parameters, experience: Experience, rates: Rates, *, order: int = 0
    ) -> tuple[dict[str, th.Tensor], InnerLosses]:
        """Parameters after one step, and the losses before it.

        Args:
            parameters: (K, ...).
            experience: of these policies, or of others' whose step is repeated.
            rates: step sizes; parameters without one stay.
            order: 0: the result has no gradient. 1: it has that of MAML's first-order approximation, in which steps do
                not depend on where they start. 2: it has its own.
        """
        with th.enable_grad():
            # Without a graph behind them at order 0, so that nothing is kept alive.
            own = {name: tensor if order else tensor.detach() for name, tensor in parameters.items()}
            moving = {name: _learning(own[name]) for name in rates if name in own}
            own |= moving
            losses = self.losses(own, experience)
            gradients = th.autograd.grad(
                losses.total.sum(), list(moving.values()), create_graph=order == 2, retain_graph=order > 0,
                materialize_grads=True,
            )  # fmt: skip
            for (name, tensor), gradient in zip(moving.items(), gradients, strict=True):
                own[name] = tensor - rates[name] * gradient
        if order == 0:
            own = {name: tensor.detach() for name, tensor in own.items()}
        return own, losses

    def take(self, parameters: Parameters, experience: Experience, rates: Rates) -> dict[str, th.Tensor]:
        """Parameters after one step, without a gradient; arguments as in `step`."""
        function = self._function
        if self._vf_coef is not None or not (isinstance(function, MlpFunction) and function.all_learn):
            return self.step(parameters, experience, rates)[0]
        gradients = []
        for part in pieces(experience):
            lived = experience.tasks(part)
            policies = ActorPass(
                function, {name: parameters[name][part].detach() for name in rates}, lived.rollout.seen
            )
            slopes = Bowl(partial(self._total, lived), policies.numbers, curved=False).slopes
            gradients.append(policies.backward(slopes))
        moved = {name: parameters[name].detach() - size * th.cat([one[name] for one in gradients])
                 for name, size in rates.items()}  # fmt: skip
        return {**parameters, **moved}

    def _total(self, experience: Experience, *numbers: th.Tensor) -> th.Tensor:
        return self.judged(Heads(*numbers), experience).total.sum()

    def adapt(
        self, parameters: Parameters, experiences: Sequence[Experience], rates: Sequence[Rates], *, order: int
    ) -> tuple[dict[str, th.Tensor], list[InnerLosses]]:
        """Parameters after one step on each experience, and the losses before each step.

        Args:
            parameters: (K, ...).
            experiences: one a step.
            rates: one a step.
            order: see `step`.
        """
        own, before = dict(parameters), []
        for experience, step_rates in zip(experiences, rates, strict=True):
            own, losses = self.step(own, experience, step_rates, order=order)
            before.append(losses)
        return own, before


def _learning(tensor: th.Tensor) -> th.Tensor:
    return tensor if tensor.requires_grad else tensor.detach().requires_grad_()


def pieces(experience: Experience) -> list[slice]:
    """Tasks in groups that are computed fastest together."""
    num_tasks, num_steps = experience.advantages.shape
    size = max(1, STEPS_AT_ONCE // num_steps)
    return [slice(first, first + size) for first in range(0, num_tasks, size)]
