"""E-MAML (Stadie et al. 2018, arXiv 1803.01118): episodes before adaptation get credit for what comes after it.

As MAML, with line 8 changed. What happens in D_k decides where theta_k' lies, and pi_theta decides what happens in D_k:

    8      theta <- the outer step on (1/K) * sum_k [L'(theta_k'(theta), D_k') - c * R_k * mean in D_k of log pi_theta]

R_k says how much better steps in D_k' were paid than in other tasks, in standard deviations, as in the code of Rothfuss
et al. 2019 (jonasrothfuss/ProMP, ``trpo_maml.py``, ``exploration=True``). With several inner steps, the episodes before
each of them get the credit.
"""

from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.policies import BasePolicy
from typing_extensions import override

from metagym.algos.maml_inner import InnerLosses
from metagym.algos.maml_learner import GradientMetaLearner
from metagym.algos.maml_objective import Batch
from metagym.errors import ConfigError

__all__ = ["EMAML"]


class EMAML(GradientMetaLearner):
    """E-MAML: MAML that also learns to play, before a step, the episodes that make the step a good one.

    Args:
        policy: as in `GradientMetaLearner`.
        env: as there.
        exploration_coef: c, weight of the credit.
        **kwargs: as in `GradientMetaLearner`.
    """

    stored_arguments: ClassVar[tuple[str, ...]] = (*GradientMetaLearner.stored_arguments, "exploration_coef")

    def __init__(
        self, policy: str | type[BasePolicy], env: Any, *, exploration_coef: float = 1.0, **kwargs: Any
    ) -> None:
        if not (type(exploration_coef) in {int, float} and exploration_coef >= 0):
            raise ConfigError(f"exploration_coef must be a number of at least 0, got {exploration_coef!r}")
        self.exploration_coef = exploration_coef
        super().__init__(policy, env, **kwargs)

    @override
    def _extra_loss(self, before: list[InnerLosses], batch: Batch) -> th.Tensor | float:
        log_probs = th.stack([losses.log_prob for losses in before]).sum(0)
        credit = th.as_tensor(batch.standings).to(log_probs)
        return -self.exploration_coef * (credit * log_probs).mean()
