"""Proximal meta-policy search (Rothfuss, Lee, Clavera, Asfour & Abbeel 2019, arXiv 1810.06784), Algorithm 1.

     1  initialise theta
     2  for iteration = 1, 2, ... do
     3      sample tasks tau_1, ..., tau_K
     4      theta_o = theta
     5      sample D_k with pi_theta_o; theta_k' = theta_o + alpha * grad J_LR(theta_o, D_k); sample D_k' with it
     6      for n_epochs times do
     7          theta <- theta + beta * grad of mean_k J_clip(theta_k'(theta), D_k') - eta * KL(pi_theta_o, pi_theta)

J_LR is the mean of likelihood ratio times advantage, whose gradient is that of MAML's inner loss on fresh episodes and
whose curvature has the low variance that gives the method its second order; J_clip is PPO's, in D_k' against the
policies that played it; KL is measured in D_k. As in the authors' code (jonasrothfuss/ProMP, ``pro_mp.py``), eta may
follow the divergence: doubled above 1.5 times a target, halved below the target divided by 1.5.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch as th
from stable_baselines3.common.policies import BasePolicy
from typing_extensions import override

from metagym.algos.maml_inner import InnerLosses, Objective
from metagym.algos.maml_learner import GradientMetaLearner
from metagym.algos.maml_objective import Batch
from metagym.algos.maml_outer import Report
from metagym.errors import ConfigError

__all__ = ["ProMP"]


class ProMP(GradientMetaLearner):
    """ProMP: several clipped outer steps on the same episodes, with low-variance curvature and a penalty on divergence.

    Args:
        policy: as in `GradientMetaLearner`.
        env: as there.
        inner_kl_coef: eta, weight of the divergence of the policies that inner steps begin with.
        target_inner_kl: divergence that eta follows; None leaves eta as it is.
        inner_objective: "likelihood_ratio".
        outer: "ppo".
        clip_range: of likelihood ratios.
        n_epochs: outer steps on the same episodes.
        **kwargs: as in `GradientMetaLearner`.

    Attributes:
        inner_kl_coefs: eta of each inner step now.
    """

    stored_arguments: ClassVar[tuple[str, ...]] = (
        *GradientMetaLearner.stored_arguments, "inner_kl_coef", "target_inner_kl",
    )  # fmt: skip

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        *,
        inner_kl_coef: float = 5e-4,
        target_inner_kl: float | None = None,
        inner_objective: Objective = "likelihood_ratio",
        outer: Literal["trpo", "ppo"] = "ppo",
        clip_range: float = 0.3,
        n_epochs: int = 5,
        **kwargs: Any,
    ) -> None:
        for name, value in (("inner_kl_coef", inner_kl_coef), ("target_inner_kl", target_inner_kl)):
            if value is not None and not (type(value) in {int, float} and value >= 0):
                raise ConfigError(f"{name} must be a number of at least 0, got {value!r}")
        self.inner_kl_coef, self.target_inner_kl = inner_kl_coef, target_inner_kl
        self.inner_kl_coefs = [float(inner_kl_coef)] * kwargs.get("n_inner_steps", 1)
        super().__init__(
            policy,
            env,
            inner_objective=inner_objective,
            outer=outer,
            clip_range=clip_range,
            n_epochs=n_epochs,
            **kwargs,
        )

    @override
    def _extra_loss(self, before: list[InnerLosses], batch: Batch) -> th.Tensor | float:
        pairs = zip(self.inner_kl_coefs, before, strict=True)
        penalties = [coefficient * losses.divergence.mean() for coefficient, losses in pairs]
        return th.stack(penalties).mean()

    @override
    def _after_outer_step(self, report: Report) -> None:
        target = self.target_inner_kl
        if target is not None:
            pairs = zip(self.inner_kl_coefs, report.inner_divergences, strict=True)
            self.inner_kl_coefs = [_followed(coefficient, found, target) for coefficient, found in pairs]
        self.logger.record("meta/inner_kl_coef", self.inner_kl_coefs[0])

    @override
    def _method_state(self) -> dict[str, Any]:
        return {"inner_kl_coefs": list(self.inner_kl_coefs)}

    @override
    def _restore_method_state(self, state: Mapping[str, Any]) -> None:
        self.inner_kl_coefs = [float(value) for value in state["inner_kl_coefs"]]


def _followed(coefficient: float, divergence: float, target: float) -> float:
    if divergence < target / 1.5:
        return coefficient / 2
    return coefficient * 2 if divergence > target * 1.5 else coefficient
