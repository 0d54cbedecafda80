"""Probabilistic MAML: tasks begin with parameters drawn from a Gaussian that is meta-learned.

After Finn, Xu & Levine 2018, "Probabilistic Model-Agnostic Meta-Learning" (arXiv 1806.02817), whose prior over initial
parameters this is. As MAML, with

    5          draw theta_k = mu + sigma * noise, and sample episodes D_k with pi_theta_k in tau_k
    6          theta_k' = theta_k - alpha * grad L(theta_k, D_k)
    8      (mu, log sigma) <- the outer step on (1/K) * sum_k L'(theta_k'(mu, sigma), D_k') + c * KL(sigma)

Differs from the paper: there is no approximate posterior that has seen test data, as the paper has in training; instead
the KL of the Gaussian from one with the initial sigma around the same mean, per parameter, keeps it from collapsing.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.policies import BasePolicy
from typing_extensions import override

from metagym.algos.maml_learner import GradientMetaLearner
from metagym.algos.maml_policy import PolicyFunction
from metagym.algos.maml_start import RandomStart, Start
from metagym.errors import ConfigError

__all__ = ["ProbabilisticMAML"]


class ProbabilisticMAML(GradientMetaLearner):
    """Probabilistic MAML: each task begins with another draw, and `adapt` with another for each seed.

    `predict` acts with the mean.

    Args:
        policy: as in `GradientMetaLearner`.
        env: as there.
        initial_std: sigma of every parameter where training begins.
        kl_coef: c, how strongly sigma is kept there.
        **kwargs: as in `GradientMetaLearner`.
    """

    stored_arguments: ClassVar[tuple[str, ...]] = (*GradientMetaLearner.stored_arguments, "initial_std", "kl_coef")

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        *,
        initial_std: float = 0.02,
        kl_coef: float = 0.01,
        **kwargs: Any,
    ) -> None:
        if not (type(initial_std) in {int, float} and initial_std > 0):
            raise ConfigError(f"initial_std must be a positive number, got {initial_std!r}")
        if not (type(kl_coef) in {int, float} and kl_coef >= 0):
            raise ConfigError(f"kl_coef must be a number of at least 0, got {kl_coef!r}")
        self.initial_std, self.kl_coef = initial_std, kl_coef
        super().__init__(policy, env, **kwargs)

    @override
    def _make_start(self, function: PolicyFunction, names: Sequence[str], units: Mapping[str, th.Tensor]) -> Start:
        return RandomStart(function, names, units, self.inner_learning_rate, std=self.initial_std, pull=self.kl_coef)
