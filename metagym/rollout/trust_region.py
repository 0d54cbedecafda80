"""sb3-contrib's TRPO on whole trials."""

from typing import Any

import torch as th
from sb3_contrib import TRPO
from torch import nn
from typing_extensions import override

from metagym.errors import ConfigError

__all__ = ["TrialTRPO"]


class TrialTRPO(TRPO):
    """TRPO whose gradients go through whole trials once, not once for each parameter.

    Everything else is sb3-contrib's (Schulman et al. 2015).

    Raises:
        ConfigError: if ``sub_sampling_factor`` is not 1: a part of the steps of a trial is no trial.
    """

    @override
    def _setup_model(self) -> None:
        if self.sub_sampling_factor != 1:
            raise ConfigError(
                f"sub_sampling_factor must be 1, not {self.sub_sampling_factor!r}: memories read whole trials, which "
                "cannot be thinned out. Shorten the rollout instead (n_steps)."
            )
        super()._setup_model()

    @override
    def _compute_actor_grad(
        self, kl_div: th.Tensor, policy_objective: th.Tensor
    ) -> tuple[list[nn.Parameter], th.Tensor, th.Tensor, list[tuple[int, ...]]]:
        everything = list(self.policy.parameters())
        of_kl = th.autograd.grad(kl_div, everything, create_graph=True, retain_graph=True, allow_unused=True)
        # Parameters that the policy does not depend on are the critic's alone.
        used = [(parameter, slope) for parameter, slope in zip(everything, of_kl, strict=True) if slope is not None]
        parameters = [parameter for parameter, _ in used]
        of_objective = th.autograd.grad(policy_objective, parameters, retain_graph=True)
        shapes: list[Any] = [parameter.shape for parameter in parameters]
        objective = th.cat([slope.reshape(-1) for slope in of_objective])
        return parameters, objective, th.cat([slope.reshape(-1) for _, slope in used]), shapes

    @override
    def train(self) -> None:
        # cuDNN's recurrent networks cannot be differentiated twice.
        with th.backends.cudnn.flags(enabled=False):
            super().train()
