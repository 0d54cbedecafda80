"""Actions of many policies at once, drawn from random streams of their own: what SB3's distributions would draw.

What SB3 draws for one task comes from the process's stream, call by call. Here every task has a generator, from which
the noise of a whole rollout is drawn ahead, with the same calls.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from torch.nn.functional import log_softmax
from typing_extensions import override

from metagym.algos.batched_policy import StackedPolicy
from metagym.errors import ConfigError
from metagym.types import Array

__all__ = ["Actions", "CategoricalActions", "GaussianActions", "actions_of"]

_HALF_LOG_TAU = math.log(math.sqrt(2 * math.pi))


class Actions(ABC):
    """How policies act in one kind of action space.

    Args:
        space: of one row.
    """

    def __init__(self, space: Any) -> None:
        self.space = space

    @abstractmethod
    def noise(self, generators: Sequence[th.Generator], num_steps: int, num_rows: int, dtype: th.dtype) -> th.Tensor:
        """The noise of a rollout of K tasks, (T, K, n, A), each task's from its own generator."""

    @abstractmethod
    def act(self, policy: StackedPolicy, outputs: th.Tensor, noise: th.Tensor) -> th.Tensor:
        """Actions (K, n) or (K, n, A) for outputs (K, n, A) of the actors and the noise of one step."""

    @abstractmethod
    def for_env(self, actions: th.Tensor) -> Array:
        """The actions that the env takes, (K * n, ...)."""

    @abstractmethod
    def evaluate(self, policy: StackedPolicy, outputs: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Logarithms of probabilities (K, B) and entropies (K, B) or (K, 1), for outputs (K, B, A)."""

    @abstractmethod
    def stored(self, actions: th.Tensor) -> th.Tensor:
        """The actions as a rollout buffer keeps them."""


class CategoricalActions(Actions):
    """Numbers 0..A-1."""

    @override
    def noise(self, generators: Sequence[th.Generator], num_steps: int, num_rows: int, dtype: th.dtype) -> th.Tensor:
        # torch.multinomial draws one of A by a race: the smallest of exponential times over probabilities wins.
        noise = th.empty(num_steps, len(generators), num_rows, int(self.space.n), dtype=dtype)
        for step in noise:
            for times, generator in zip(step, generators, strict=True):
                times.exponential_(1, generator=generator)
        return noise.log_()

    @override
    def act(self, policy: StackedPolicy, outputs: th.Tensor, noise: th.Tensor) -> th.Tensor:
        return (outputs - noise).argmax(-1)

    @override
    def for_env(self, actions: th.Tensor) -> Array:
        numbers: Array = actions.numpy().reshape(-1)
        return numbers

    @override
    def evaluate(self, policy: StackedPolicy, outputs: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        logs = log_softmax(outputs, -1)
        chosen = logs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        return chosen, -(logs * logs.exp()).sum(-1)

    @override
    def stored(self, actions: th.Tensor) -> th.Tensor:
        return actions


class GaussianActions(Actions):
    """Vectors of A numbers, drawn independently and clipped to the space."""

    @override
    def noise(self, generators: Sequence[th.Generator], num_steps: int, num_rows: int, dtype: th.dtype) -> th.Tensor:
        noise = th.empty(num_steps, len(generators), num_rows, int(np.prod(self.space.shape)), dtype=dtype)
        for step in noise:
            for values, generator in zip(step, generators, strict=True):
                values.normal_(generator=generator)
        return noise

    @override
    def act(self, policy: StackedPolicy, outputs: th.Tensor, noise: th.Tensor) -> th.Tensor:
        assert policy.log_std is not None
        return outputs + noise * policy.log_std.exp().unsqueeze(1)

    @override
    def for_env(self, actions: th.Tensor) -> Array:
        rows = actions.numpy().reshape(-1, *self.space.shape)
        clipped: Array = np.clip(rows, self.space.low, self.space.high)
        return clipped

    @override
    def evaluate(self, policy: StackedPolicy, outputs: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        assert policy.log_std is not None
        log_std = policy.log_std.unsqueeze(1)
        distances = (actions - outputs) * (-log_std).exp()
        logs = -0.5 * distances.square() - (log_std + _HALF_LOG_TAU)
        return logs.sum(-1), (log_std + (0.5 + _HALF_LOG_TAU)).sum(-1)

    @override
    def stored(self, actions: th.Tensor) -> th.Tensor:
        return th.as_tensor(actions.numpy().astype(self.space.dtype).astype(np.float32))


def actions_of(space: Any) -> Actions:
    """How policies act in a space.

    Raises:
        ConfigError: if batched adaptation does not support it.
    """
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return CategoricalActions(space)
    if isinstance(space, spaces.Box):
        return GaussianActions(space)
    raise ConfigError(f"batched=True takes Discrete actions from 0 on, and Box actions, got {space}")
