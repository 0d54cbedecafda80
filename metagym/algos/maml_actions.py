"""Distributions of actions for many tasks at once: drawn with noise that is given, and twice differentiable.

PyTorch's own distributions are left aside: they validate their arguments at every call, cannot draw under ``vmap``, and
SB3 keeps one of them inside the policy, which every call overwrites.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from torch.nn.functional import log_softmax, logsigmoid
from typing_extensions import override

from metagym.errors import ConfigError
from metagym.types import Array

__all__ = ["ActionLaw", "BernoulliLaw", "CategoricalLaw", "GaussianLaw", "Heads", "MultiCategoricalLaw", "law_of"]

_HALF_LOG_TAU = math.log(math.sqrt(2 * math.pi))
_LEAST_LOG_STD = math.log(1e-6)


class Heads(NamedTuple):
    """What policies say of their actions.

    Attributes:
        outputs: means or logits, (K, B, A).
        log_std: logarithms of standard deviations, (K, 1, A), or None.
    """

    outputs: th.Tensor
    log_std: th.Tensor | None = None

    def tasks(self, part: slice) -> "Heads":
        """Those of some tasks."""
        shared = self.log_std is None or len(self.log_std) == 1
        return Heads(self.outputs[part], self.log_std if shared or self.log_std is None else self.log_std[part])

    def copy(self) -> "Heads":
        """The same numbers, which stay when parameters that they were views of move on."""
        return Heads(self.outputs.detach().clone(), None if self.log_std is None else self.log_std.detach().clone())


class ActionLaw(ABC):
    """How actions are distributed in one kind of action space.

    Args:
        space: of one row.
    """

    def __init__(self, space: Any) -> None:
        self.space = space

    @abstractmethod
    def noise(self, generator: th.Generator, num_steps: int, num_rows: int, dtype: th.dtype) -> th.Tensor:
        """The noise of one task's rows, (T, n, A)."""

    @abstractmethod
    def act(self, heads: Heads, noise: th.Tensor) -> th.Tensor:
        """Actions (K, n) or (K, n, A), for noise (K, n, A)."""

    @abstractmethod
    def for_env(self, actions: th.Tensor) -> Array:
        """The actions that the env takes, (K * n, ...)."""

    @abstractmethod
    def log_prob(self, heads: Heads, actions: th.Tensor) -> th.Tensor:
        """Logarithms of probabilities or densities, (K, B)."""

    @abstractmethod
    def entropy(self, heads: Heads) -> th.Tensor:
        """Entropies, (K, B)."""

    @abstractmethod
    def divergence(self, before: Heads, after: Heads) -> th.Tensor:
        """Kullback-Leibler divergences of `after` from `before`, KL(before || after), (K, B)."""


class CategoricalLaw(ActionLaw):
    """Numbers 0..A-1."""

    @override
    def noise(self, generator: th.Generator, num_steps: int, num_rows: int, dtype: th.dtype) -> th.Tensor:
        # A race: the smallest of exponential times over probabilities wins.
        times = th.empty(num_steps, num_rows, int(self.space.n), dtype=dtype).exponential_(1, generator=generator)
        return times.log_()

    @override
    def act(self, heads: Heads, noise: th.Tensor) -> th.Tensor:
        return (heads.outputs - noise).argmax(-1)

    @override
    def for_env(self, actions: th.Tensor) -> Array:
        numbers: Array = actions.cpu().numpy().reshape(-1)
        return numbers

    @override
    def log_prob(self, heads: Heads, actions: th.Tensor) -> th.Tensor:
        return log_softmax(heads.outputs, -1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    @override
    def entropy(self, heads: Heads) -> th.Tensor:
        logs = log_softmax(heads.outputs, -1)
        return -(logs.exp() * logs).sum(-1)

    @override
    def divergence(self, before: Heads, after: Heads) -> th.Tensor:
        old, new = log_softmax(before.outputs, -1), log_softmax(after.outputs, -1)
        return (old.exp() * (old - new)).sum(-1)


class MultiCategoricalLaw(ActionLaw):
    """Vectors of numbers, each 0..A_d-1, drawn independently; outputs are the logits of all, one after the other.

    Args:
        space: of one row, a vector.
    """

    def __init__(self, space: Any) -> None:
        super().__init__(space)
        self._laws = [CategoricalLaw(spaces.Discrete(int(number))) for number in space.nvec]
        self._sizes = [int(number) for number in space.nvec]

    @override
    def noise(self, generator: th.Generator, num_steps: int, num_rows: int, dtype: th.dtype) -> th.Tensor:
        return th.cat([law.noise(generator, num_steps, num_rows, dtype) for law in self._laws], -1)

    @override
    def act(self, heads: Heads, noise: th.Tensor) -> th.Tensor:
        noises = th.split(noise, self._sizes, -1)
        return th.stack([law.act(own, one) for (law, own), one in zip(self._parts(heads), noises, strict=True)], -1)

    @override
    def for_env(self, actions: th.Tensor) -> Array:
        return _rows(actions, self.space)

    @override
    def log_prob(self, heads: Heads, actions: th.Tensor) -> th.Tensor:
        pairs = zip(self._parts(heads), actions.unbind(-1), strict=True)
        return th.stack([law.log_prob(own, chosen) for (law, own), chosen in pairs]).sum(0)

    @override
    def entropy(self, heads: Heads) -> th.Tensor:
        return th.stack([law.entropy(own) for law, own in self._parts(heads)]).sum(0)

    @override
    def divergence(self, before: Heads, after: Heads) -> th.Tensor:
        pairs = zip(self._parts(before), self._parts(after), strict=True)
        return th.stack([law.divergence(old, new) for (law, old), (_, new) in pairs]).sum(0)

    def _parts(self, heads: Heads) -> list[tuple[CategoricalLaw, Heads]]:
        return list(zip(self._laws, map(Heads, th.split(heads.outputs, self._sizes, -1)), strict=True))


class BernoulliLaw(ActionLaw):
    """Vectors of 0 and 1, drawn independently; outputs are the logits of 1."""

    @override
    def noise(self, generator: th.Generator, num_steps: int, num_rows: int, dtype: th.dtype) -> th.Tensor:
        return th.rand(num_steps, num_rows, int(self.space.n), dtype=dtype, generator=generator).logit()

    @override
    def act(self, heads: Heads, noise: th.Tensor) -> th.Tensor:
        return (heads.outputs > noise).long()

    @override
    def for_env(self, actions: th.Tensor) -> Array:
        return _rows(actions, self.space)

    @override
    def log_prob(self, heads: Heads, actions: th.Tensor) -> th.Tensor:
        return logsigmoid(heads.outputs * (2 * actions - 1)).sum(-1)

    @override
    def entropy(self, heads: Heads) -> th.Tensor:
        logits = heads.outputs
        return -(logits.sigmoid() * logsigmoid(logits) + (-logits).sigmoid() * logsigmoid(-logits)).sum(-1)

    @override
    def divergence(self, before: Heads, after: Heads) -> th.Tensor:
        old, new = before.outputs, after.outputs
        ones = old.sigmoid() * (logsigmoid(old) - logsigmoid(new))
        return (ones + (-old).sigmoid() * (logsigmoid(-old) - logsigmoid(-new))).sum(-1)


class GaussianLaw(ActionLaw):
    """Vectors of A numbers, drawn independently and clipped to the space."""

    @override
    def noise(self, generator: th.Generator, num_steps: int, num_rows: int, dtype: th.dtype) -> th.Tensor:
        return th.empty(num_steps, num_rows, math.prod(self.space.shape), dtype=dtype).normal_(generator=generator)

    @override
    def act(self, heads: Heads, noise: th.Tensor) -> th.Tensor:
        return heads.outputs + noise * _log_std(heads).exp()

    @override
    def for_env(self, actions: th.Tensor) -> Array:
        rows = actions.cpu().numpy().reshape(-1, *self.space.shape)
        clipped: Array = np.clip(rows, self.space.low, self.space.high).astype(self.space.dtype)
        return clipped

    @override
    def log_prob(self, heads: Heads, actions: th.Tensor) -> th.Tensor:
        log_std = _log_std(heads)
        distances = (actions - heads.outputs) * (-log_std).exp()
        return (-0.5 * distances.square() - log_std - _HALF_LOG_TAU).sum(-1)

    @override
    def entropy(self, heads: Heads) -> th.Tensor:
        spread = (_log_std(heads) + (0.5 + _HALF_LOG_TAU)).sum(-1)
        return spread.expand(heads.outputs.shape[:-1])

    @override
    def divergence(self, before: Heads, after: Heads) -> th.Tensor:
        old, new = _log_std(before), _log_std(after)
        squares = (2 * old).exp() + (before.outputs - after.outputs).square()
        return (new - old + 0.5 * squares * (-2 * new).exp() - 0.5).sum(-1)


def _rows(actions: th.Tensor, space: Any) -> Array:
    rows: Array = actions.cpu().numpy().reshape(-1, *space.shape).astype(space.dtype)
    return rows


def _log_std(heads: Heads) -> th.Tensor:
    assert heads.log_std is not None
    # Gradient steps move it like any other parameter, and nothing else keeps it from falling for ever.
    return heads.log_std.clamp(min=_LEAST_LOG_STD)


def law_of(space: Any) -> ActionLaw:
    """How actions are distributed in a space.

    Raises:
        ConfigError: if there is no law for it.
    """
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return CategoricalLaw(space)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return GaussianLaw(space)
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1 and not space.start.any():
        return MultiCategoricalLaw(space)
    if isinstance(space, spaces.MultiBinary) and len(space.shape) == 1:
        return BernoulliLaw(space)
    raise ConfigError(
        "gradient meta-learners take Box actions, Discrete ones from 0 on, and vectors of MultiDiscrete ones from 0 on "
        f"or MultiBinary ones, got {space}"
    )
