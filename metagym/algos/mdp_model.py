"""What agents for random tabular decision processes share: their choice of actions, and beliefs that they plan by."""

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np
from typing_extensions import override

from metagym.algos.mdp_planning import Counts, Episode, best_actions, recorded
from metagym.algos.memory_agent import MemoryAgent, Seen, between
from metagym.types import Array, Float, Int

__all__ = ["MDPAgent", "ModelAgent", "Plan"]

_CHUNK = 256  # rows planned together; their arrays stay in the cache
_LEAST_STD = 1e-3  # of rewards without noise, whose precision would be infinite


class MDPAgent(MemoryAgent):
    """Plays `MetaTabularMDP-v0`; what its agents share.

    Arguments, attributes and errors are those of `MemoryAgent`.
    """

    plays = "random tabular decision processes: 'MetaTabularMDP-v0'"

    @classmethod
    @override
    def suits(cls, family: Any) -> bool:
        return getattr(family, "name", None) == "TabularMDP"

    def choose(self, values: Float, epsilon: float, deterministic: bool) -> Int:
        """Best actions, and with probability epsilon any, (N,).

        Args:
            values: of every action, (N, A).
            epsilon: share of actions drawn uniformly.
            deterministic: no action is drawn, and of equally good ones the first is taken.
        """
        if deterministic:
            return best_actions(values, None)
        rng = self.generator()
        best = best_actions(values, rng)
        if epsilon == 0.0:
            return best
        explores = rng.random(len(best)) < epsilon
        return np.where(explores, rng.integers(values.shape[1], size=len(best)), best)


class Plan(NamedTuple):
    """Memory of the agents with a model."""

    counts: Counts
    """From the episodes before this one."""
    episode: Episode
    """The one under way."""
    number: Int
    """Of this episode, from 1, (N,)."""
    values: Float
    """What each action is thought to be worth in each step and state, (N, H, S, A)."""


class ModelAgent(MDPAgent):
    """Counts, and plans anew at the start of every episode.

    Beliefs: transitions Dirichlet, mean rewards normal, the standard deviation of rewards known (that of the family, at
    least 0.001). The last transition of an episode is not seen, since what follows is the start of the next.

    Args:
        policy: as in `MemoryAgent`; likewise env, episodes_per_trial, env_kwargs, seed.
        prior_mean: of mean rewards, in [-100, 100].

    Raises:
        ConfigError: as `MemoryAgent`.
    """

    dirichlet: ClassVar[float] = 1.0
    """Prior weight of every next state."""
    precision: ClassVar[float] = 1.0
    """Prior precision of mean rewards."""
    epsilon: float = 0.0
    """Probability of an action drawn uniformly."""

    def __init__(self, policy: str | None = None, env: Any = None, *, prior_mean: float = 0.0, **options: Any) -> None:
        self.prior_mean = between("prior_mean", prior_mean, -100.0, 100.0)
        super().__init__(policy, env, **options)
        self.noise_precision = max(float(self.family.reward_std), _LEAST_STD) ** -2

    @abstractmethod
    def values(self, counts: Counts, number: Int) -> Float:
        """What actions are thought to be worth, (N, H, S, A).

        Args:
            counts: of N rows.
            number: of the episode that begins, from 1, (N,).
        """

    def believed_rewards(self, counts: Counts) -> tuple[Float, Float]:
        """Posterior mean and precision of mean rewards, (N, S, A) each."""
        precision: Float = np.multiply(counts.tries, self.noise_precision, dtype=np.float64) + self.precision
        mean: Float = self.prior_mean * self.precision + counts.earned * self.noise_precision
        return np.divide(mean, precision, out=mean), precision

    def weights(self, counts: Counts) -> Float:
        """Posterior Dirichlet weights of next states, (N, S, S, A), the next state first."""
        weights: Float = np.add(counts.reached, self.dirichlet, dtype=np.float64)
        return weights

    def believed_transitions(self, counts: Counts) -> Float:
        """Posterior mean probabilities of next states, (N, S, S, A), the next state first."""
        weights = self.weights(counts)
        np.divide(weights, weights.sum(axis=1, keepdims=True), out=weights)
        return weights

    @property
    def horizon(self) -> int:
        """Steps of an episode, H."""
        return int(self.family.episode_length)

    @override
    def blank(self, num_rows: int) -> Plan:
        shape = (num_rows, self.horizon)
        pairs = (self.family.num_states, self.family.num_actions)
        steps = Episode(np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape), np.zeros(num_rows, int))
        return Plan(Counts.nothing(num_rows, *pairs), steps, np.zeros(num_rows, int), np.zeros((*shape, *pairs)))

    @override
    def act(self, seen: Seen, memory: Plan, deterministic: bool) -> tuple[Int, Plan]:
        rows, state = np.arange(len(seen.fresh)), seen.look.argmax(axis=1)
        states, actions, rewards, length = memory.episode
        states, actions, rewards = states.copy(), actions.copy(), rewards.copy()
        last = np.maximum(length - 1, 0)
        actions[rows, last], rewards[rows, last] = seen.action, seen.reward
        memory = memory._replace(episode=Episode(states, actions, rewards, length))
        starts = seen.boundary | seen.fresh
        if starts.any():
            memory = self._begin(memory, starts, seen.fresh)
        step = np.minimum(memory.episode.length, self.horizon - 1)
        states[rows, step] = state
        memory = memory._replace(episode=Episode(states, actions, rewards, step + 1))
        return self.choose(memory.values[rows, step, state], self.epsilon, deterministic), memory

    def _begin(self, memory: Plan, starts: Array, fresh: Array) -> Plan:
        """Add the episodes that ended to the counts, and plan the next."""
        counts = recorded(memory.counts, memory.episode, starts & ~fresh, fresh)
        number = np.where(fresh, 1, memory.number + starts)
        values = memory.values.copy()
        rows = np.flatnonzero(starts)
        for first in range(0, len(rows), _CHUNK):
            some = rows[first : first + _CHUNK]
            values[some] = self.values(counts.of(some), number[some])
        episode = memory.episode._replace(length=np.where(starts, 0, memory.episode.length))
        return Plan(counts, episode, number, values)
