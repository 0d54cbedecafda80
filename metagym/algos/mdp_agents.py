"""Classical agents for random tabular decision processes: posterior sampling, optimism, bonuses, greed, Q-learning.

The model-based ones are those of Duan et al. 2016, "RL²: Fast Reinforcement Learning via Slow Reinforcement Learning",
Table 2. The authors ran the agents of iosband/TabulaRL, `src/finite_tabular_agents.py`, with its defaults
(florensacc/rllab-curriculum, `sandbox/rocky/neural_learner/scripts/pacmdp/evaluate_pacmdp.py`): prior mean rewards are
0, where those of the family are 1. That matters, and `prior_mean` changes it: what is not known looks worse than it is.
"""

from typing import Any, NamedTuple

import numpy as np
from typing_extensions import override

from metagym.algos.mdp_model import MDPAgent, ModelAgent
from metagym.algos.mdp_planning import Counts, backward_induction, extended_value_iteration, sampled_transitions
from metagym.algos.memory_agent import Seen, between, whole
from metagym.errors import ConfigError
from metagym.types import Float, Int

__all__ = ["BEB", "OPSRL", "PSRL", "UCRL2", "EpsilonGreedyMDP", "GreedyMDP", "QLearning", "QMemory"]


class OPSRL(ModelAgent):
    """Optimistic posterior sampling: the highest value of every action over several processes drawn.

    At the start of an episode it draws `num_samples` processes from the posterior, solves each, and acts by the highest
    of the values that an action has in them, step by step and state by state. One draw is `PSRL`.

    Args:
        policy: as in `ModelAgent`; likewise env, episodes_per_trial, env_kwargs, seed, prior_mean.
        num_samples: processes drawn, at least 1. Duan et al. tuned it between 1 and 20 for each number of episodes.

    Raises:
        ConfigError: as `MemoryAgent`.

    Source: `OptimisticPSRL` of TabulaRL; column OPSRL of Duan et al. 2016, Table 2. Optimism by several draws: Asmuth
    et al. 2009, "A Bayesian sampling approach to exploration in reinforcement learning" (BOSS).
    """

    def __init__(self, policy: str | None = None, env: Any = None, *, num_samples: int = 10, **options: Any) -> None:
        self.num_samples = whole("num_samples", num_samples, 1)
        super().__init__(policy, env, **options)

    @override
    def values(self, counts: Counts, number: Int) -> Float:
        rng = self.generator()
        (mean, precision), weights = self.believed_rewards(counts), self.weights(counts)
        values: Float | None = None
        for _ in range(self.num_samples):
            rewards = mean + rng.standard_normal(mean.shape) / np.sqrt(precision)
            drawn = backward_induction(rewards, sampled_transitions(weights, rng), self.horizon)
            values = drawn if values is None else np.maximum(values, drawn, out=values)
        assert values is not None
        return values


class PSRL(OPSRL):
    """Posterior sampling: acts for an episode as would be best in one process drawn from the posterior.

    Args:
        policy: as in `ModelAgent`; likewise env, episodes_per_trial, env_kwargs, seed, prior_mean.

    Raises:
        ConfigError: as `MemoryAgent`.

    Source: Strens 2000, "A Bayesian framework for reinforcement learning"; Osband, Russo and Van Roy 2013, "(More)
    efficient reinforcement learning via posterior sampling"; column PSRL of Duan et al. 2016, Table 2.
    """

    def __init__(self, policy: str | None = None, env: Any = None, **options: Any) -> None:
        super().__init__(policy, env, num_samples=1, **options)


class UCRL2(ModelAgent):
    """Acts as would be best in the best process that what was seen leaves plausible.

    Mean rewards may be higher than estimated by ``scaling * sqrt(4 L / n)``, transition probabilities within an L1
    distance of ``scaling * sqrt(4 S L / n)``, with ``L = log(2 S A (e + 1) / delta)``, e the number of the episode from
    1 and n the number of observations, at least 1.

    Args:
        policy: as in `ModelAgent`; likewise env, episodes_per_trial, env_kwargs, seed, prior_mean.
        scaling: of both, in [0, 100]. Duan et al. tuned it over 21 values from 0.0001 to 1, evenly spaced in the
            logarithm, for each number of episodes.
        delta: probability with which the truth may be implausible, in (0, 1].
        cumulative: while planning backwards, a probability moved stays moved for the steps before, so that the distance
            adds up over the steps of an episode. TabulaRL does so, and the published column is reproduced with it only.

    Raises:
        ConfigError: as `MemoryAgent`.

    Source: Jaksch, Ortner and Auer 2010, "Near-optimal regret bounds for reinforcement learning"; `UCRL2` of TabulaRL,
    whose constants these are; column UCRL2 of Duan et al. 2016, Table 2. Differs: Jaksch et al. have no episodes of a
    fixed length, and plan anew when some count has doubled. TabulaRL moves probabilities in place, where the next step
    of planning finds them moved: `cumulative=True`.
    """

    dirichlet = 1e-5
    precision = 1e-4

    def __init__(
        self,
        policy: str | None = None,
        env: Any = None,
        *,
        scaling: float = 0.4,
        delta: float = 0.05,
        cumulative: bool = False,
        **options: Any,
    ) -> None:
        self.scaling = between("scaling", scaling, 0.0, 100.0)
        self.delta = between("delta", delta, 1e-12, 1.0)
        if not isinstance(cumulative, bool):
            raise ConfigError(f"cumulative={cumulative!r} is not accepted; accepted are True and False")
        self.cumulative = cumulative
        super().__init__(policy, env, **options)

    def slack(self, counts: Counts, number: Int) -> tuple[Float, Float]:
        """How far mean rewards and transition probabilities may be from the estimates, (N, S, A) each."""
        num_states, num_actions = self.family.num_states, self.family.num_actions
        confidence = np.log(2.0 * num_states * num_actions * (number + 1.0) / self.delta)[:, None, None]
        seen = np.maximum(counts.reached.sum(axis=1), 1)
        rewards = self.scaling * np.sqrt(4.0 * confidence / (self.noise_precision * np.maximum(counts.tries, 1)))
        return rewards, self.scaling * np.sqrt(4.0 * num_states * confidence / seen)

    @override
    def values(self, counts: Counts, number: Int) -> Float:
        rewards, radius = self.slack(counts, number)
        optimistic = self.believed_rewards(counts)[0] + rewards
        transitions = self.believed_transitions(counts)
        return extended_value_iteration(optimistic, transitions, radius, self.horizon, cumulative=self.cumulative)


class BEB(ModelAgent):
    """Acts as would be best in the mean process, with a bonus for what was tried little.

    An action's value has the bonus ``1 / (1 + p)``, p the precision of its mean reward, and for every step that follows
    ``2 H^3 scaling / (1 + w)``, w the sum of its Dirichlet weights.

    Args:
        policy: as in `ModelAgent`; likewise env, episodes_per_trial, env_kwargs, seed, prior_mean.
        scaling: in [0, 100]. Duan et al. tuned it over 21 values from 0.0001 to 1, evenly spaced in the logarithm, for
            each number of episodes.

    Raises:
        ConfigError: as `MemoryAgent`.

    Source: Kolter and Ng 2009, "Near-Bayesian exploration in polynomial time"; `BEB` of TabulaRL, whose bonuses these
    are; column BEB of Duan et al. 2016, Table 2. Differs: Kolter and Ng know the rewards and give one bonus,
    ``beta / (1 + w)``.
    """

    def __init__(self, policy: str | None = None, env: Any = None, *, scaling: float = 0.0016, **options: Any) -> None:
        self.scaling = between("scaling", scaling, 0.0, 100.0)
        super().__init__(policy, env, **options)

    def bonuses(self, counts: Counts) -> tuple[Float, Float]:
        """For the reward, and for every step that follows, (N, S, A) each."""
        precision = self.believed_rewards(counts)[1]
        weight = self.dirichlet * self.family.num_states + counts.reached.sum(axis=1)
        return 1.0 / (1.0 + precision), 2.0 * self.horizon**3 * self.scaling / (1.0 + weight)

    @override
    def values(self, counts: Counts, number: Int) -> Float:
        now, later = self.bonuses(counts)
        rewards = self.believed_rewards(counts)[0] + now
        return backward_induction(rewards, self.believed_transitions(counts), self.horizon, bonus=later)


class EpsilonGreedyMDP(ModelAgent):
    """Acts as is best in the process estimated, and with probability epsilon at random.

    The prior weighs next to nothing: 0.0001 for every next state and as precision of mean rewards. An action not tried
    yet is thought to pay `prior_mean` and to lead anywhere.

    Args:
        policy: as in `ModelAgent`; likewise env, episodes_per_trial, env_kwargs, seed, prior_mean.
        epsilon: probability of an action drawn uniformly, in [0, 1]. Duan et al. tuned it over 0.1, 0.2, ..., 1 for
            each number of episodes. With `deterministic=True` it is 0.

    Raises:
        ConfigError: as `MemoryAgent`.

    Source: `EpsilonGreedy` of TabulaRL; column ε-Greedy of Duan et al. 2016, Table 2.
    """

    dirichlet = 1e-4
    precision = 1e-4

    def __init__(self, policy: str | None = None, env: Any = None, *, epsilon: float = 0.1, **options: Any) -> None:
        self.epsilon = between("epsilon", epsilon, 0.0, 1.0)
        super().__init__(policy, env, **options)

    @override
    def values(self, counts: Counts, number: Int) -> Float:
        return backward_induction(self.believed_rewards(counts)[0], self.believed_transitions(counts), self.horizon)


class GreedyMDP(EpsilonGreedyMDP):
    """Acts as is best in the process estimated.

    Args:
        policy: as in `ModelAgent`; likewise env, episodes_per_trial, env_kwargs, seed, prior_mean.

    Raises:
        ConfigError: as `MemoryAgent`.

    Source: column Greedy of Duan et al. 2016, Table 2: `EpsilonGreedy` of TabulaRL with epsilon 0.
    """

    def __init__(self, policy: str | None = None, env: Any = None, **options: Any) -> None:
        super().__init__(policy, env, epsilon=0.0, **options)


# --- an agent without ------------------------------------------------------------------------------------------------


class QMemory(NamedTuple):
    """Memory of `QLearning`."""

    values: Float
    """What each action is thought to be worth in each state, (N, S, A)."""
    state: Int
    """The state before the one seen, (N,)."""


class QLearning(MDPAgent):
    """Tabular Q-learning with epsilon-greedy actions, from nothing in every trial.

    Values do not depend on the step of the episode. Those of what follows the last step are 0.

    Args:
        policy: as in `MemoryAgent`; likewise env, episodes_per_trial, env_kwargs, seed.
        learning_rate: share of the error that is corrected at once, in [0, 1].
        discount: of what follows, in [0, 1].
        epsilon: probability of an action drawn uniformly, in [0, 1]. With `deterministic=True` it is 0.
        initial_value: of every action, in [-1000, 1000]; high ones explore.

    Raises:
        ConfigError: as `MemoryAgent`.

    Source: Watkins and Dayan 1992, "Q-learning". Duan et al. have no such column; the defaults are chosen here. Tuned
    for up to 100 episodes (`benchmarks/classical.py`), the discount is 0: acting for the next reward alone is worth
    99 % of the optimum in this family, and what follows is noise to a learner of few episodes.
    """

    def __init__(
        self,
        policy: str | None = None,
        env: Any = None,
        *,
        learning_rate: float = 0.5,
        discount: float = 0.5,
        epsilon: float = 0.1,
        initial_value: float = 0.0,
        **options: Any,
    ) -> None:
        self.learning_rate = between("learning_rate", learning_rate, 0.0, 1.0)
        self.discount = between("discount", discount, 0.0, 1.0)
        self.epsilon = between("epsilon", epsilon, 0.0, 1.0)
        self.initial_value = between("initial_value", initial_value, -1000.0, 1000.0)
        super().__init__(policy, env, **options)

    @override
    def blank(self, num_rows: int) -> QMemory:
        pairs = (self.family.num_states, self.family.num_actions)
        return QMemory(np.full((num_rows, *pairs), self.initial_value), np.zeros(num_rows, np.int64))

    @override
    def act(self, seen: Seen, memory: QMemory, deterministic: bool) -> tuple[Int, QMemory]:
        rows, state = np.arange(len(seen.fresh)), seen.look.argmax(axis=1)
        values = np.where(seen.fresh[:, None, None], self.initial_value, memory.values)
        target = seen.reward + self.discount * values[rows, state].max(axis=1) * ~seen.boundary
        error = target - values[rows, memory.state, seen.action]
        values[rows, memory.state, seen.action] += self.learning_rate * error * ~seen.fresh
        return self.choose(values[rows, state], self.epsilon, deterministic), QMemory(values, state)
