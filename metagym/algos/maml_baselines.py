"""What returns are compared with, and the advantages that come of it.

Linear features are those of Duan et al. 2016, "Benchmarking Deep Reinforcement Learning for Continuous Control", as
MAML and ProMP use them: observations o, their squares, powers of time, and a constant, fitted to the returns of each
task's own episodes. They know how much time is left, so that an episode's end is worth nothing to them. A value
network does not, and is asked what the last observation of an episode is worth that was cut off.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch as th
from typing_extensions import override

from metagym.algos.maml_policy import Parameters, PolicyFunction, Seen
from metagym.algos.maml_rollout import Rollout
from metagym.types import Bool, Float

__all__ = ["Baseline", "Experience", "LinearBaseline", "ValueNet", "advantages", "credited", "discounted"]

_TIME_UNIT = 100.0
_CLIP = 10.0
_VECTOR = 3
"""Axes of observations that are vectors: (K, B, D)."""


@dataclass
class Experience:
    """A rollout and what its actions were worth.

    Attributes:
        rollout: what happened.
        advantages: of the actions, (K, B).
        returns: targets for a value function, (K, B).
    """

    rollout: Rollout
    advantages: th.Tensor
    returns: th.Tensor

    def tasks(self, part: slice) -> "Experience":
        """That of some tasks."""
        return Experience(self.rollout.tasks(part), self.advantages[part], self.returns[part])

    def thinned(self, factor: int) -> "Experience":
        """One of `factor` episodes of each task."""
        thin = self.rollout.thin
        return Experience(self.rollout.thinned(factor), thin(self.advantages, factor), thin(self.returns, factor))


class Baseline(ABC):
    """Predicts the discounted return of what is left of an episode."""

    @abstractmethod
    def values(self, rollout: Rollout, parameters: Parameters) -> tuple[Float, Float]:
        """Predictions before each step, (K, n, T), and after the last step of episodes cut off, (K, n).

        Args:
            rollout: of K tasks.
            parameters: that the policies acted with.
        """


class LinearBaseline(Baseline):
    """Ridge regression on features of observations and time, for each task by itself.

    Args:
        gamma: discount factor.
        ridge: weight of the squared coefficients.
    """

    def __init__(self, gamma: float, ridge: float = 1e-5) -> None:
        self._gamma, self._ridge = gamma, ridge

    @override
    def values(self, rollout: Rollout, parameters: Parameters) -> tuple[Float, Float]:
        num_tasks, num_rows, num_steps = rollout.mask.shape
        mask = th.as_tensor(rollout.mask.reshape(num_tasks, -1, 1), dtype=th.float64)
        features = _features(rollout.seen, num_rows, num_steps) * mask
        targets = discounted(rollout.rewards, rollout.mask, self._gamma).reshape(num_tasks, -1, 1)
        transposed = features.transpose(1, 2)
        square = transposed @ features + self._ridge * th.eye(features.shape[-1], dtype=th.float64)
        factor = th.linalg.cholesky(square)
        coefficients = th.cholesky_solve(transposed @ th.as_tensor(targets), factor)
        fitted: Float = (features @ coefficients).numpy().reshape(rollout.mask.shape)
        return fitted, np.zeros((num_tasks, num_rows))


class ValueNet(Baseline):
    """The policy's own critic.

    Args:
        function: that computes it.
    """

    def __init__(self, function: PolicyFunction) -> None:
        self._function = function

    @override
    def values(self, rollout: Rollout, parameters: Parameters) -> tuple[Float, Float]:
        with th.no_grad():
            inside = self._function.critic(parameters, rollout.seen).double().cpu().numpy()
            last = self._function.critic(parameters, rollout.last_seen).double().cpu().numpy()
        return inside.reshape(rollout.mask.shape), last * rollout.cut


def credited(
    rollout: Rollout, values: Float, last: Float, *, gamma: float, gae_lambda: float, normalize: bool
) -> Experience:
    """A rollout with its advantages.

    Args:
        rollout: of K tasks.
        values: a baseline's predictions, (K, n, T).
        last: after the last steps, (K, n).
        gamma: discount factor.
        gae_lambda: that of generalised advantages.
        normalize: give each task's advantages mean 0 and standard deviation 1.
    """
    found = advantages(rollout.rewards, rollout.mask, values, last, gamma=gamma, gae_lambda=gae_lambda)
    returns = (found + values) * rollout.mask
    if normalize:
        found = _normalized(found, rollout.mask)
    shape, like = rollout.weights.shape, rollout.weights
    return Experience(
        rollout,
        th.as_tensor(found.reshape(shape), dtype=like.dtype, device=like.device),
        th.as_tensor(returns.reshape(shape), dtype=like.dtype, device=like.device),
    )


def discounted(rewards: Float, mask: Bool, gamma: float) -> Float:
    """Discounted sums of what is left of each episode, (K, n, T)."""
    zeros = np.zeros_like(rewards)
    return advantages(rewards, mask, zeros, zeros[:, :, 0], gamma=gamma, gae_lambda=1.0)


def advantages(rewards: Float, mask: Bool, values: Float, last: Float, *, gamma: float, gae_lambda: float) -> Float:
    """Generalised advantages (Schulman et al. 2016) of episodes that end at different times.

    Args:
        rewards: (K, n, T).
        mask: steps that belong to the episode: the first ones of each row, (K, n, T).
        values: predictions before each step, (K, n, T).
        last: predictions after the last step, (K, n).
        gamma: discount factor.
        gae_lambda: weight of longer sums.

    Returns:
        (K, n, T), zeros after an episode's end.
    """
    found = np.zeros_like(rewards)
    following, advantage = last, np.zeros_like(last)
    for step in reversed(range(rewards.shape[2])):
        inside, value = mask[:, :, step], values[:, :, step]
        error = rewards[:, :, step] + gamma * following - value
        advantage = np.where(inside, error + gamma * gae_lambda * advantage, 0.0)
        following = np.where(inside, value, last)
        found[:, :, step] = advantage
    return found


def _normalized(found: Float, mask: Bool) -> Float:
    number = mask.sum(axis=(1, 2), keepdims=True)
    centred = (found - found.sum(axis=(1, 2), keepdims=True) / number) * mask
    spread = np.sqrt((centred * centred).sum(axis=(1, 2), keepdims=True) / number)
    normalized: Float = centred / (spread + 1e-8)
    return normalized


def _features(seen: Seen, num_rows: int, num_steps: int) -> th.Tensor:
    """Of observations and time, (K, n * T, F): vectors of numbers, also among other things, but no images."""
    parts = list(seen.values()) if isinstance(seen, dict) else [seen]
    vectors = [part.double().cpu().clamp(-_CLIP, _CLIP) for part in parts if part.ndim == _VECTOR]
    num_tasks = len(parts[0])
    time = (th.arange(num_steps, dtype=th.float64) / _TIME_UNIT).repeat(num_rows).expand(num_tasks, -1).unsqueeze(-1)
    squares = [vector.square() for vector in vectors]
    return th.cat([*vectors, *squares, time, time.square(), time**3, th.ones_like(time)], dim=-1)
