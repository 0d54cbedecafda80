"""Arms of bandits: which bandits there are, and what a pull pays. `metagym.envs.bandit` makes families of them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from typing_extensions import override

from metagym.envs.bandit_limits import (
    drifting_optimum,
    independent_limit,
    informative_limit,
    mirrored_limit,
    uniform_limit,
)
from metagym.errors import ConfigError
from metagym.family import Params, Region
from metagym.types import Array, Float, Int

__all__ = [
    "LEVELS",
    "Arms",
    "BanditParams",
    "DriftingArms",
    "DriftingParams",
    "IndependentArms",
    "InformativeArms",
    "InformativeParams",
    "MirroredArms",
    "MirroredParams",
    "Pull",
    "Walk",
]

LEVELS = {"easy": (0.1, 0.9), "medium": (0.25, 0.75), "hard": (0.4, 0.6)}
"""Means of the first of two mirrored arms, equally likely."""
_VOLATILITIES = (0.02, 0.2)
_LOWEST_VOLATILITY, _HIGHEST_VOLATILITY = 0.01, 0.5
_NUM_TARGETS = 10
# The normal quantile of 0 is -inf; half of the smallest uniform above it stands in.
_SMALLEST = 2.0**-54


@dataclass(frozen=True)
class BanditParams(Params):
    """Columns of N bandits with independent arms."""

    means: Float
    """Mean reward of each arm, (N, K)."""


@dataclass(frozen=True)
class MirroredParams(Params):
    """Columns of N bandits whose two arms pay with probabilities that sum to 1."""

    first_mean: Float
    """Mean reward of the first arm, (N,)."""

    @property
    def means(self) -> Float:
        """Mean reward of each arm, (N, 2)."""
        return np.stack([self.first_mean, 1.0 - self.first_mean], axis=1)


@dataclass(frozen=True)
class DriftingParams(MirroredParams):
    """Columns of N bandits whose two mirrored arms drift: `means` are those of the first pull."""

    volatility: Float
    """Standard deviation of the drift from pull to pull, (N,)."""


@dataclass(frozen=True)
class InformativeParams(Params):
    """Columns of N bandits whose last arm tells which of the others pays best."""

    target: Int
    """Arm that pays 5, 0 to 9, (N,)."""

    @property
    def means(self) -> Float:
        """Reward of each arm, (N, 11)."""
        means = np.ones((len(self.target), _NUM_TARGETS + 1))
        means[np.arange(len(means)), self.target] = 5.0
        means[:, -1] = (self.target + 1) / 10.0
        return means


class Pull(NamedTuple):
    """What was done last."""

    arm: Int
    """Arm pulled last, -1 before the first pull, (N,)."""


class Walk(NamedTuple):
    """What was done last, and where drifting arms have come to."""

    arm: Int
    """Arm pulled last, -1 before the first pull, (N,)."""
    first_mean: Float
    """Mean reward of the first arm at the next pull, (N,)."""


class Arms(ABC):
    """What distinguishes one variant of bandits from another.

    Attributes:
        params_type: as in `metagym.family.TaskFamily`; likewise the four that follow.
        structural: fields whose hash decides between train and test.
        task_space: the support.
        num_structure_draws: uniforms for the structural fields.
        num_detail_draws: uniforms for the others.
        num_step_draws: uniforms of a pull.
        num_arms: K.
        episode_length: pulls of an episode.
        levels: rewards that a picture marks.
    """

    params_type: type[Any] = MirroredParams
    structural: tuple[str, ...] = ("first_mean",)
    task_space: spaces.Dict
    num_structure_draws = 1
    num_detail_draws = 0
    num_step_draws = 1
    num_arms = 2
    episode_length = 1
    levels: tuple[float, ...] = (0.0, 0.5, 1.0)

    @abstractmethod
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        """As in `metagym.family.TaskFamily`; likewise the methods that follow."""

    def draw_details(self, noise: Float, region: Region) -> dict[str, Array]:
        """Other fields than the structural ones."""
        del noise, region
        return {}

    def enumerate_structures(self) -> tuple[dict[str, Array], Float] | None:
        """All structures, where they are few."""
        return None

    def initial(self, params: Any, num_rows: int) -> Any:
        """States before the first pull."""
        del params
        return Pull(np.full(num_rows, -1, dtype=np.int64))

    @abstractmethod
    def pull(self, state: Any, arm: Int, params: Any, noise: Float) -> tuple[Any, Float]:
        """New state and reward, (N,), of pulling `arm`, (N,)."""

    def means(self, state: Any, params: Any) -> Float:
        """Mean reward of each arm at the next pull, (N, K)."""
        del state
        means: Float = params.means
        return means

    def optimal_return(self, params: Any) -> Float:
        """Expected return of an episode for an agent that knows the task, (N,)."""
        best: Float = params.means.max(axis=1)
        return best

    def random_return(self, params: Any) -> Float:
        """Expected return of an episode for random pulls, (N,)."""
        mean: Float = params.means.mean(axis=1)
        return mean

    def bayes_return(self, num_pulls: int) -> tuple[float, ...] | None:
        """Expected reward of each pull for the Bayes-optimal agent, (num_pulls,)."""
        del num_pulls
        return None


class IndependentArms(Arms):
    """Every arm has a mean of its own, uniform on [0, 1].

    Args:
        num_arms: K.
        reward_std: standard deviation of normal rewards; None for rewards of 0 and 1.
    """

    params_type = BanditParams
    structural = ("means",)

    def __init__(self, num_arms: int, reward_std: float | None) -> None:
        self.num_arms, self.num_structure_draws, self.reward_std = num_arms, num_arms, reward_std
        self.levels = (0.0, 0.5, 1.0) if reward_std is None else (-1.0, 0.0, 1.0, 2.0)
        self.task_space = spaces.Dict(means=spaces.Box(self.levels[0], self.levels[-1], (num_arms,), np.float64))

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        if region == "train":
            return {"means": noise.copy()}
        if self.reward_std is not None:
            return {"means": np.where(noise < 0.5, 2.0 * noise - 1.0, 3.0 - 2.0 * noise)}
        best = (noise[:, :1] * self.num_arms).astype(np.int64)
        gap = 0.05 + 0.45 * noise[:, 1:2]
        return {"means": np.where(np.arange(self.num_arms) == best, 0.5 + gap, 0.5 - gap)}

    @override
    def pull(self, state: Pull, arm: Int, params: BanditParams, noise: Float) -> tuple[Pull, Float]:
        starts = np.arange(0, len(arm) * self.num_arms, self.num_arms)
        mean = params.means.reshape(-1).take(starts + arm)
        if self.reward_std is None:
            return Pull(arm), (noise[:, 0] < mean).astype(np.float64)
        return Pull(arm), mean + self.reward_std * _normal_quantile(noise[:, 0])

    @override
    def bayes_return(self, num_pulls: int) -> tuple[float, ...] | None:
        return independent_limit(self.num_arms, num_pulls) if self.reward_std is None else None


class MirroredArms(Arms):
    """Two arms that pay with q and 1 - q.

    Args:
        values: values of q, equally likely; None for q uniform on [0, 1].
    """

    def __init__(self, values: tuple[float, float] | None) -> None:
        self.values = values
        self.task_space = spaces.Dict(first_mean=spaces.Box(0.0, 1.0, (), np.float64))

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        if self.values is None:
            if region == "ood":
                raise ConfigError("split='ood' has no tasks with variant='uniform': training covers all of them")
            return {"first_mean": noise[:, 0].copy()}
        if region == "ood":
            return {"first_mean": noise[:, 0].copy()}
        return {"first_mean": np.where(noise[:, 0] < 0.5, *self.values)}

    @override
    def pull(self, state: Pull, arm: Int, params: MirroredParams, noise: Float) -> tuple[Pull, Float]:
        return Pull(arm), (noise[:, 0] < np.abs(arm - params.first_mean)).astype(np.float64)

    @override
    def bayes_return(self, num_pulls: int) -> tuple[float, ...] | None:
        return uniform_limit(num_pulls) if self.values is None else mirrored_limit(self.values, num_pulls)


class DriftingArms(Arms):
    """Two mirrored arms whose means walk while they are pulled, reflected at 0 and 1.

    Args:
        episode_length: pulls of an episode.
    """

    params_type = DriftingParams
    num_detail_draws = 1
    num_step_draws = 2

    def __init__(self, episode_length: int = 100) -> None:
        self.episode_length = episode_length
        volatility = spaces.Box(_LOWEST_VOLATILITY, _HIGHEST_VOLATILITY, (), np.float64)
        self.task_space = spaces.Dict(first_mean=spaces.Box(0.0, 1.0, (), np.float64), volatility=volatility)

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        return {"first_mean": noise[:, 0].copy()}

    @override
    def draw_details(self, noise: Float, region: Region) -> dict[str, Array]:
        if region == "train":
            return {"volatility": np.where(noise[:, 0] < 0.5, *_VOLATILITIES)}
        highest = _VOLATILITIES[1]
        return {"volatility": _HIGHEST_VOLATILITY - (_HIGHEST_VOLATILITY - highest) * noise[:, 0]}

    @override
    def initial(self, params: DriftingParams, num_rows: int) -> Walk:
        return Walk(np.full(num_rows, -1, dtype=np.int64), params.first_mean.copy())

    @override
    def pull(self, state: Walk, arm: Int, params: DriftingParams, noise: Float) -> tuple[Walk, Float]:
        reward = (noise[:, 0] < np.abs(arm - state.first_mean)).astype(np.float64)
        moved = state.first_mean + params.volatility * _normal_quantile(noise[:, 1])
        return Walk(arm, np.abs((moved + 1.0) % 2.0 - 1.0)), reward

    @override
    def means(self, state: Walk, params: DriftingParams) -> Float:
        return MirroredParams(state.first_mean).means

    @override
    def optimal_return(self, params: DriftingParams) -> Float:
        return drifting_optimum(params.first_mean, params.volatility, self.episode_length)

    @override
    def random_return(self, params: DriftingParams) -> Float:
        return np.full(len(params), 0.5 * self.episode_length)


class InformativeArms(Arms):
    """Nine arms pay 1, the target pays 5, and the eleventh arm pays a tenth of the target's number."""

    params_type = InformativeParams
    structural = ("target",)
    num_step_draws = 0
    num_arms = _NUM_TARGETS + 1
    levels = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)

    def __init__(self) -> None:
        self.task_space = spaces.Dict(target=spaces.Box(0, _NUM_TARGETS - 1, (), np.int64))

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        if region == "ood":
            raise ConfigError("split='ood' has no tasks with variant='informative': train and test hold all ten")
        return {"target": (noise[:, 0] * _NUM_TARGETS).astype(np.int64)}

    @override
    def enumerate_structures(self) -> tuple[dict[str, Array], Float]:
        return {"target": np.arange(_NUM_TARGETS)}, np.ones(_NUM_TARGETS)

    @override
    def pull(self, state: Pull, arm: Int, params: InformativeParams, noise: Float) -> tuple[Pull, Float]:
        told = np.where(arm == _NUM_TARGETS, (params.target + 1) / 10.0, 1.0)
        return Pull(arm), np.where(arm == params.target, 5.0, told)

    @override
    def bayes_return(self, num_pulls: int) -> tuple[float, ...]:
        return informative_limit(num_pulls)


def _normal_quantile(uniform: Float) -> Float:
    # Imported where it is used: scipy.special would treble the time that `gymnasium.make` takes for other families.
    from scipy.special import ndtri

    quantile: Float = ndtri(np.maximum(uniform, _SMALLEST))
    return quantile
