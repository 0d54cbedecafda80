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
from torch.nn.functional import log_softmax
from typing_extensions import override

from metagym.errors import ConfigError
from metagym.types import Array

__all__ = ["ActionLaw", "CategoricalLaw", "GaussianLaw", "Heads", "law_of"]

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
    raise ConfigError(f"gradient meta-learners take Discrete actions from 0 on, and Box actions, got {space}")
