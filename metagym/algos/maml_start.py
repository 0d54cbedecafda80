"""What is meta-learned, and how tasks begin from it: initial parameters, perhaps step sizes, perhaps their spread."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from torch import nn
from typing_extensions import override

from metagym.algos.maml_inner import Rates
from metagym.algos.maml_policy import Parameters, PolicyFunction, stacked

__all__ = ["LearnedRates", "RandomStart", "Start", "half_widths", "rate_units"]

_RATE, _SPREAD = "rate/", "spread/"


def half_widths(space: spaces.Space[Any]) -> th.Tensor:
    """Half the width of each action, (A,); 1 where there is no bound, and for actions that are numbered."""
    if not isinstance(space, spaces.Box):
        return th.ones(1)
    halves = (space.high.astype(np.float64) - space.low.astype(np.float64)).ravel() / 2
    return th.as_tensor(np.where(np.isfinite(halves) & (halves > 0), halves, 1.0))


def rate_units(parameters: Parameters, space: spaces.Space[Any]) -> dict[str, th.Tensor]:
    """What step sizes count in, so that they mean the same whatever unit actions are measured in.

    A policy whose actions are scaled to [-1, 1] and multiplied by s outside behaves as one without scaling whose last
    layer is s times as large; its gradient is 1 / s of the latter's, and its step is s times as far: the last layer's
    step sizes count in squares of s.
    """
    squares = half_widths(space).square()
    units = {name: th.ones((), dtype=tensor.dtype) for name, tensor in parameters.items()}
    for name, like in (("action_net.weight", squares.unsqueeze(1)), ("action_net.bias", squares)):
        if name in parameters and isinstance(space, spaces.Box):
            units[name] = like.to(parameters[name])
    return units


class Start:
    """Tasks begin with the same parameters, and take steps of given sizes.

    Args:
        function: of the policy that holds the initial parameters.
        names: of the parameters that steps within tasks move.
        units: what step sizes count in.
        rates: sizes of the first steps; the last one is that of all further ones.

    Attributes:
        tensors: what is meta-learned, live, by name.
    """

    def __init__(
        self, function: PolicyFunction, names: Sequence[str], units: Mapping[str, th.Tensor], rates: Sequence[float]
    ) -> None:
        self.tensors: dict[str, nn.Parameter] = function.parameters(function.actor_names)
        self._fixed = function.parameters(name for name in names if name not in self.tensors)
        self._names, self._units, self._rates = tuple(names), units, tuple(rates)

    def rate(self, step: int) -> float:
        """The size of a step, counted from 0."""
        return self._rates[min(step, len(self._rates) - 1)]

    def begin(self, tensors: Parameters, seeds: Sequence[int]) -> dict[str, th.Tensor]:
        """Parameters that K tasks begin with, (K, ...).

        Args:
            tensors: like `tensors`.
            seeds: of what is random in it, K.
        """
        fixed = {name: tensor.detach() for name, tensor in self._fixed.items()}
        return stacked({name: tensors[name] for name in tensors if "/" not in name} | fixed, len(seeds))

    def rates(self, tensors: Parameters, step: int) -> Rates:
        """Sizes of one step by name of parameter.

        Args:
            tensors: like `tensors`.
            step: counted from 0.
        """
        del tensors
        rate = self.rate(step)
        return {name: rate * self._units[name] for name in self._names}

    def penalty(self, tensors: Parameters) -> th.Tensor | float:
        """What the outer loss adds for the tensors themselves."""
        del tensors
        return 0.0

    def extras(self) -> dict[str, nn.Parameter]:
        """What is meta-learned besides the policy's parameters, live, by name."""
        return {name: tensor for name, tensor in self.tensors.items() if "/" in name}


class LearnedRates(Start):
    """Step sizes are meta-learned, one for each number of the parameters: Meta-SGD."""

    def __init__(
        self, function: PolicyFunction, names: Sequence[str], units: Mapping[str, th.Tensor], rates: Sequence[float]
    ) -> None:
        super().__init__(function, names, units, rates)
        for name, tensor in function.parameters(names).items():
            # Counted in the given sizes: 1 wherever training begins.
            self.tensors[f"{_RATE}{name}"] = nn.Parameter(th.ones_like(tensor))

    @override
    def rates(self, tensors: Parameters, step: int) -> Rates:
        plain = super().rates(tensors, step)
        return {name: tensors[f"{_RATE}{name}"] * plain[name] for name in self._names}


class RandomStart(Start):
    """Each task begins with parameters drawn from a Gaussian whose mean and standard deviations are meta-learned.

    Args:
        function: of the policy that holds the means.
        names: of the parameters that steps within tasks move.
        units: what step sizes count in.
        rates: sizes of the first steps.
        std: standard deviation of every parameter where training begins, and the one that `penalty` pulls towards.
        pull: weight of that.
    """

    def __init__(
        self, function: PolicyFunction, names: Sequence[str], units: Mapping[str, th.Tensor], rates: Sequence[float],
        *, std: float, pull: float,
    ) -> None:  # fmt: skip
        super().__init__(function, names, units, rates)
        self._log_std, self._pull = math.log(std), pull
        for name in function.actor_names:
            spread = th.full_like(self.tensors[name], self._log_std, requires_grad=False)
            self.tensors[f"{_SPREAD}{name}"] = nn.Parameter(spread)

    @override
    def begin(self, tensors: Parameters, seeds: Sequence[int]) -> dict[str, th.Tensor]:
        generators = [th.Generator().manual_seed(seed) for seed in seeds]
        own = super().begin(tensors, seeds)
        for name in own:
            spread = tensors.get(f"{_SPREAD}{name}")
            if spread is not None:
                drawn = [th.empty(spread.shape, dtype=spread.dtype).normal_(generator=one) for one in generators]
                own[name] = own[name] + spread.exp() * th.stack(drawn).to(spread.device)
        return own

    @override
    def penalty(self, tensors: Parameters) -> th.Tensor | float:
        """Mean divergence of a parameter's Gaussian from one around the same mean that has the initial spread."""
        logs = th.cat([tensors[name].flatten() for name in tensors if name.startswith(_SPREAD)]) - self._log_std
        return self._pull * (0.5 * ((2 * logs).exp() - 1) - logs).mean()
