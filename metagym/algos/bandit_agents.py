"""Classical agents for Bernoulli bandits: Thompson sampling, its optimistic kin, UCB1, epsilon-greedy and greedy.

They are those of Duan et al. 2016, "RL²: Fast Reinforcement Learning via Slow Reinforcement Learning", Table 1, with
the constants of the authors' own script (florensacc/rllab-curriculum,
`sandbox/rocky/neural_learner/scripts/bandits/evaluate_bandits.py`): every arm starts with one success and one failure,
which is the posterior of a mean uniform on [0, 1]. `metagym.algos.Gittins` is the table's other column.
"""

from abc import abstractmethod
from typing import Any, TypeAlias

import numpy as np
from typing_extensions import override

from metagym.algos.memory_agent import MemoryAgent, Seen, between, whole
from metagym.types import Float, Int

__all__ = [
    "UCB1",
    "BanditAgent",
    "EpsilonGreedyBandit",
    "GreedyBandit",
    "OptimisticThompsonSampling",
    "ThompsonSampling",
    "ucb1_indices",
]

Tally: TypeAlias = tuple[Int, Int]


class BanditAgent(MemoryAgent):
    """Counts successes and failures of every arm, (N, K) each, and decides by them.

    Arguments, attributes and errors are those of `MemoryAgent`. Of equally good arms the first is pulled.
    """

    plays = "Bernoulli bandits with independent arms: 'MetaBandit-v0' with variant='independent' and reward='bernoulli'"

    @abstractmethod
    def arms(self, wins: Int, losses: Int, deterministic: bool) -> Int:
        """The arms to pull, (N,).

        Args:
            wins: successes so far, (N, K).
            losses: failures so far, (N, K).
            deterministic: whether exploration at random is left out.
        """

    @classmethod
    @override
    def suits(cls, family: Any) -> bool:
        kind = tuple(getattr(family, name, None) for name in ("name", "variant", "reward"))
        return kind == ("Bandit", "independent", "bernoulli")

    @override
    def blank(self, num_rows: int) -> Tally:
        shape = (num_rows, int(self.action_space.n))
        return np.zeros(shape, np.int64), np.zeros(shape, np.int64)

    @override
    def act(self, seen: Seen, memory: Tally, deterministic: bool) -> tuple[Int, Tally]:
        remembered = ~seen.fresh[:, None]
        wins, losses = memory[0] * remembered, memory[1] * remembered
        rows = np.flatnonzero(~seen.fresh)
        arm, paid = seen.action[rows], seen.reward[rows] > 0.0
        wins[rows, arm] += paid
        losses[rows, arm] += ~paid
        return self.arms(wins, losses, deterministic), (wins, losses)


class ThompsonSampling(BanditAgent):
    """Thompson sampling: draws a mean for every arm from its posterior, and pulls the arm whose draw is highest.

    Arguments, attributes and errors are those of `MemoryAgent`.

    Source: Thompson 1933, "On the likelihood that one unknown probability exceeds another"; column TS of Duan et al.
    2016, Table 1.
    """

    @override
    def arms(self, wins: Int, losses: Int, deterministic: bool) -> Int:
        drawn: Int = self.generator().beta(wins + 1.0, losses + 1.0).argmax(axis=1)
        return drawn


class OptimisticThompsonSampling(BanditAgent):
    """Thompson sampling from the likeliest of several draws.

    Draws the means of all arms `num_samples` times, keeps the draw whose joint posterior density is highest, and pulls
    its best arm. One draw is Thompson sampling; many come near to the mode of the posterior.

    Args:
        policy: as in `MemoryAgent`; likewise env, episodes_per_trial, env_kwargs, seed.
        num_samples: draws, at least 1. Duan et al. tuned it between 1 and 20 for each number of arms and pulls.

    Raises:
        ConfigError: as `MemoryAgent`.

    Source: column OTS of Duan et al. 2016, Table 1. Differs: May et al. 2012, "Optimistic Bayesian sampling in
    contextual-bandit problems", whom they cite for it, draw once and raise draws below the posterior mean to it.
    """

    def __init__(self, policy: str | None = None, env: Any = None, *, num_samples: int = 10, **options: Any) -> None:
        self.num_samples = whole("num_samples", num_samples, 1)
        super().__init__(policy, env, **options)

    @override
    def arms(self, wins: Int, losses: Int, deterministic: bool) -> Int:
        rng = self.generator()
        means = rng.beta(wins + 1.0, losses + 1.0)
        best, density = means, _log_density(means, wins, losses)
        for _ in range(1, self.num_samples):
            means = rng.beta(wins + 1.0, losses + 1.0)
            log_density = _log_density(means, wins, losses)
            likelier = log_density > density
            best = np.where(likelier[:, None], means, best)
            density = np.where(likelier, log_density, density)
        drawn: Int = best.argmax(axis=1)
        return drawn


class UCB1(BanditAgent):
    """Pulls the arm of the highest mean plus ``exploration * sqrt(2 log t / n)``, t pulls in all, n of the arm.

    Mean and n count one success and one failure more than were seen.

    Args:
        policy: as in `MemoryAgent`; likewise env, episodes_per_trial, env_kwargs, seed.
        exploration: c, in [0, 100]. Duan et al. tuned it over 0, 0.1, ..., 1 for each number of arms and pulls; 0.2 is
            best or next to it for all but 10 pulls.

    Raises:
        ConfigError: as `MemoryAgent`.

    Source: Auer, Cesa-Bianchi and Fischer 2002, "Finite-time analysis of the multiarmed bandit problem"; column UCB1 of
    Duan et al. 2016, Table 1. Differs: Auer et al. pull every arm once first, have no prior counts, and c is 1.
    """

    def __init__(self, policy: str | None = None, env: Any = None, *, exploration: float = 0.2, **options: Any) -> None:
        self.exploration = between("exploration", exploration, 0.0, 100.0)
        super().__init__(policy, env, **options)

    @override
    def arms(self, wins: Int, losses: Int, deterministic: bool) -> Int:
        best: Int = ucb1_indices(wins, losses, self.exploration).argmax(axis=1)
        return best


class EpsilonGreedyBandit(BanditAgent):
    """Pulls the arm of the highest posterior mean, and with probability epsilon any arm.

    Args:
        policy: as in `MemoryAgent`; likewise env, episodes_per_trial, env_kwargs, seed.
        epsilon: probability of an arm drawn uniformly, in [0, 1]. Duan et al. tuned it over 0, 0.1, ..., 1 for each
            number of arms and pulls. With `deterministic=True` it is 0.

    Raises:
        ConfigError: as `MemoryAgent`.

    Source: column ε-Greedy of Duan et al. 2016, Table 1.
    """

    def __init__(self, policy: str | None = None, env: Any = None, *, epsilon: float = 0.1, **options: Any) -> None:
        self.epsilon = between("epsilon", epsilon, 0.0, 1.0)
        super().__init__(policy, env, **options)

    @override
    def arms(self, wins: Int, losses: Int, deterministic: bool) -> Int:
        best: Int = _means(wins, losses).argmax(axis=1)
        if deterministic or self.epsilon == 0.0:
            return best
        rng = self.generator()
        explores = rng.random(len(best)) < self.epsilon
        return np.where(explores, rng.integers(wins.shape[1], size=len(best)), best)


class GreedyBandit(BanditAgent):
    """Pulls the arm of the highest posterior mean.

    Arguments, attributes and errors are those of `MemoryAgent`.

    Source: column Greedy of Duan et al. 2016, Table 1.
    """

    @override
    def arms(self, wins: Int, losses: Int, deterministic: bool) -> Int:
        best: Int = _means(wins, losses).argmax(axis=1)
        return best


def ucb1_indices(wins: Int, losses: Int, exploration: float) -> Float:
    """Mean plus exploration bonus of every arm, (N, K); before the first pull, the mean.

    Args:
        wins: successes, (N, K).
        losses: failures, (N, K).
        exploration: c.
    """
    pulls = wins + losses
    log_time = np.log(np.maximum(pulls.sum(axis=1, keepdims=True), 1))
    indices: Float = _means(wins, losses) + exploration * np.sqrt(2.0 * log_time / (pulls + 2))
    return indices


def _means(wins: Int, losses: Int) -> Float:
    means: Float = (wins + 1) / (wins + losses + 2)
    return means


def _log_density(means: Float, wins: Int, losses: Int) -> Float:
    """Logarithm of the joint posterior density of the means, up to a constant that depends on the counts, (N,)."""
    # A draw may be rounded to 0 or 1, where a count of 0 times infinity is no number.
    inside = np.clip(means, 1e-300, 1.0 - 1e-16)
    terms = wins * np.log(inside) + losses * np.log1p(-inside)
    density: Float = terms.sum(axis=1)
    return density
