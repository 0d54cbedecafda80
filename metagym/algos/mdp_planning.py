"""What model-based agents for tabular decision processes compute with: counts, and backward induction over rows.

Arrays over transitions are laid out (N, S, S, A): the next state first, then the state left and the action, so that
values of next states meet contiguous blocks. Row i of every result depends on row i of the arguments only, to the bit.
"""

from typing import NamedTuple

import numpy as np

from metagym.types import Array, Bool, Float, Int

__all__ = [
    "Counts",
    "Episode",
    "backward_induction",
    "best_actions",
    "extended_value_iteration",
    "recorded",
    "sampled_transitions",
]


class Counts(NamedTuple):
    """What N agents have seen of their tasks."""

    tries: Int
    """How often each action was taken in each state, (N, S, A)."""
    earned: Float
    """Sum of the rewards it paid, (N, S, A)."""
    reached: Int
    """How often each next state was seen after it, (N, S, S, A), the next state first."""

    @classmethod
    def nothing(cls, num_rows: int, num_states: int, num_actions: int) -> "Counts":
        """Before anything was seen."""
        pairs = (num_states, num_actions)
        return cls(
            np.zeros((num_rows, *pairs), np.int64),
            np.zeros((num_rows, *pairs)),
            np.zeros((num_rows, num_states, *pairs), np.int64),
        )

    def of(self, rows: Array) -> "Counts":
        """Some rows; copies."""
        return Counts(self.tries[rows], self.earned[rows], self.reached[rows])


class Episode(NamedTuple):
    """The steps of N episodes under way."""

    states: Int
    """State in which each step was taken, (N, H)."""
    actions: Int
    """Action taken, (N, H)."""
    rewards: Float
    """Reward of it, (N, H)."""
    length: Int
    """Number of steps taken, (N,)."""


def recorded(counts: Counts, episode: Episode, finished: Bool, forgotten: Bool) -> Counts:
    """The counts with the episodes of some rows added. The state reached last is not seen, and not counted.

    Args:
        counts: before; they stay as they were.
        episode: of all rows.
        finished: rows whose episodes are added, (N,).
        forgotten: rows whose counts begin at nothing again, (N,).
    """
    tries, earned, reached = counts.tries.copy(), counts.earned.copy(), counts.reached.copy()
    tries[forgotten], earned[forgotten], reached[forgotten] = 0, 0.0, 0
    states, actions = episode.states, episode.actions
    for step in range(states.shape[1]):
        rows = np.flatnonzero(finished & (step < episode.length))
        tries[rows, states[rows, step], actions[rows, step]] += 1
        earned[rows, states[rows, step], actions[rows, step]] += episode.rewards[rows, step]
    for step in range(states.shape[1] - 1):
        rows = np.flatnonzero(finished & (step + 1 < episode.length))
        reached[rows, states[rows, step + 1], states[rows, step], actions[rows, step]] += 1
    return Counts(tries, earned, reached)


def backward_induction(rewards: Float, transitions: Float, horizon: int, *, bonus: Float | None = None) -> Float:
    """Best action values of known processes, undiscounted, by backward induction.

    Args:
        rewards: mean rewards, (N, S, A).
        transitions: probabilities, (N, S, S, A), the next state first.
        horizon: steps of an episode, H.
        bonus: what every step that follows adds to an action's value, (N, S, A).

    Returns:
        Action values in step 0, ..., H - 1 of an episode, (N, H, S, A).
    """
    num_rows, num_states, num_actions = rewards.shape
    flat = np.ascontiguousarray(transitions).reshape(num_rows, num_states, num_states * num_actions)
    values = np.empty((num_rows, horizon, num_states, num_actions))
    after = np.zeros((num_rows, num_states))
    for left in range(horizon):
        here = values[:, horizon - 1 - left]
        here[...] = np.matmul(after[:, None, :], flat).reshape(rewards.shape)
        here += rewards
        if bonus is not None:
            here += bonus * left
        after = here.max(axis=2)
    return values


def extended_value_iteration(
    rewards: Float, transitions: Float, radius: Float, horizon: int, *, cumulative: bool = False
) -> Float:
    """Best action values over all transition probabilities within an L1 distance of the given ones.

    Half the distance is the probability that may be moved, from the worst next states to the best. With next states in
    ascending order of value, F the cumulative probability before the move and m what may be moved, the expected value
    is then that of the best state less the sum over the steps between states of ``max(F - m, 0)`` times the step.

    Source: Jaksch, Ortner and Auer 2010, "Near-optimal regret bounds for reinforcement learning", section 3.1.2 and
    Figure 2, over a finite horizon. With `cumulative`: `compute_qVals_EVI` of iosband/TabulaRL.

    Args:
        rewards: mean rewards, optimistic already, (N, S, A).
        transitions: probabilities in the middle, (N, S, S, A), the next state first.
        radius: largest L1 distance, (N, S, A).
        horizon: steps of an episode, H.
        cumulative: in each step, start from what was moved in the step after it. Where less than half the distance is
            left to move, the move is not kept.

    Returns:
        Action values in step 0, ..., H - 1 of an episode, (N, H, S, A).
    """
    num_rows, num_states = rewards.shape[:2]
    values = np.empty((num_rows, horizon, *rewards.shape[1:]))
    after = np.zeros((num_rows, num_states))
    moved, rows = 0.5 * radius[:, None], np.arange(num_rows)[:, None]
    transitions = transitions.copy() if cumulative else transitions
    for left in range(horizon):
        order = np.argsort(after, axis=1, kind="stable")
        ascending = np.take_along_axis(after, order, axis=1)
        below = transitions[rows, order[:, :-1]]
        np.cumsum(below, axis=1, out=below)
        below -= moved
        kept = below[:, -1:] >= 0.0
        np.maximum(below, 0.0, out=below)
        lost = np.matmul(np.diff(ascending, axis=1)[:, None, :], below.reshape(num_rows, num_states - 1, -1))
        here = values[:, horizon - 1 - left]
        here[...] = rewards + ascending[:, -1, None, None] - lost.reshape(rewards.shape)
        after = here.max(axis=2)
        if cumulative:
            new = np.diff(below, axis=1, prepend=0.0, append=1.0)
            transitions[rows, order] = np.where(kept, new, transitions[rows, order])
    return values


def sampled_transitions(weights: Float, rng: np.random.Generator) -> Float:
    """One draw from the Dirichlet distributions with these weights, (N, S, S, A), the next state first."""
    drawn = rng.standard_gamma(weights)
    drawn /= drawn.sum(axis=1, keepdims=True)
    return drawn


def best_actions(values: Float, rng: np.random.Generator | None) -> Int:
    """Actions of the highest value; of equally good ones, one at random, or the first without a generator.

    Args:
        values: (N, A).
        rng: a generator, or None.

    Returns:
        Actions, (N,).
    """
    first: Int = values.argmax(axis=1)
    if rng is None:
        return first
    equal = values == np.take_along_axis(values, first[:, None], axis=1)
    if (equal.sum(axis=1) == 1).all():
        return first
    chosen: Int = np.where(equal, rng.random(values.shape), -1.0).argmax(axis=1)
    return chosen
