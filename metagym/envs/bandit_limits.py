"""What the best agent earns on bandits that it does not know: exact dynamic programming, pull by pull.

The Bayes-optimal agent knows how bandits are drawn and maximises the reward of all pulls together. Each function
returns the expected reward of every pull under that agent. Where two arms lead to the same total, it pulls the one
that pays more at once.
"""

from functools import lru_cache
from typing import TypeAlias

import numpy as np

from metagym.types import Bool, Float

__all__ = ["drifting_optimum", "independent_limit", "informative_limit", "mirrored_limit", "uniform_limit"]

# Two totals closer than this are the same: far above rounding, far below any true difference that matters.
_TIE = 1e-12
_MAX_TWO_ARMED_PULLS = 200
_MAX_MULTISETS = 100_000
_MAX_LINEAR_PULLS = 20_000
# Enough for the smallest volatility of a task, 0.01: exp(-2 pi^2 m^2 0.01^2) is 1e-16 at m = 137.
_ODD = np.arange(1, 140, 2)

_Arms: TypeAlias = tuple[tuple[int, int], ...]
_Blocks: TypeAlias = dict[tuple[int, int], Float]


# --- independent arms ------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def independent_limit(num_arms: int, num_pulls: int) -> tuple[float, ...] | None:
    """Expected reward of each pull of independent Bernoulli arms with means uniform on [0, 1].

    Backward induction over the counts of successes and failures of the arms, in any order: arms with equal
    counts are exchangeable. What an agent has not touched after n pulls does not matter, so K > n is K = n.

    Args:
        num_arms: K, at least 2.
        num_pulls: n, at least 1.

    Returns:
        (n,), or None where there are too many counts: beyond 200 pulls of 2 arms, or 100,000 multisets (3 arms: 24
        pulls; 5: 17; 10 and more: 16).
    """
    arms = min(num_arms, num_pulls)
    if arms <= 2:
        return tuple(_two_arms(num_pulls)) if num_pulls <= _MAX_TWO_ARMED_PULLS else None
    if not _is_small(arms, num_pulls):
        return None
    return tuple(_many_arms(arms, num_pulls))


def _mean(num_pulled: int) -> Float:
    """Posterior mean of an arm for every number of successes, (num_pulled + 1,)."""
    mean: Float = np.arange(1, num_pulled + 2) / (num_pulled + 2)
    return mean


def _two_arms(num_pulls: int) -> list[float]:
    """Counts of two arms in blocks (n1, n2), n1 >= n2, each with axes successes of the one and of the other."""
    value: _Blocks = {(n1, num_pulls - n1): np.zeros((n1 + 1, num_pulls - n1 + 1)) for n1 in range(num_pulls + 1)}
    choices: list[dict[tuple[int, int], Bool]] = []
    for pulled in range(num_pulls - 1, -1, -1):
        choice, now = {}, {}
        for n1 in range((pulled + 1) // 2, pulled + 1):
            n2 = pulled - n1
            mean1, mean2 = _mean(n1)[:, None], _mean(n2)
            after1, after2 = value[n1 + 1, n2], value[n1, n2 + 1] if n1 > n2 else value[n2 + 1, n1].T
            total1 = mean1 * (1.0 + after1[1:]) + (1.0 - mean1) * after1[:-1]
            total2 = mean2 * (1.0 + after2[:, 1:]) + (1.0 - mean2) * after2[:, :-1]
            lead = total1 - total2
            choice[n1, n2] = (lead > _TIE) | ((lead >= -_TIE) & (mean1 >= mean2))
            now[n1, n2] = np.maximum(total1, total2)
        value = now
        choices.append(choice)
    return _play_two_arms(choices[::-1])


def _play_two_arms(choices: list[dict[tuple[int, int], Bool]]) -> list[float]:
    """Expected reward of each pull, from the choices that are best at all counts."""
    rewards = []
    mass: _Blocks = {(0, 0): np.ones((1, 1))}
    for pulled, choice in enumerate(choices):
        reward = 0.0
        later = {(n1, pulled + 1 - n1): np.zeros((n1 + 1, pulled + 2 - n1)) for n1 in range(pulled // 2, pulled + 2)}
        for (n1, n2), weight in mass.items():
            first, mean1, mean2 = choice[n1, n2], _mean(n1)[:, None], _mean(n2)
            won1, won2 = weight * first * mean1, weight * ~first * mean2
            reward += float(won1.sum() + won2.sum())
            after = later[n1 + 1, n2]
            after[1:] += won1
            after[:-1] += weight * first - won1
            after = later[n1, n2 + 1] if n1 > n2 else later[n2 + 1, n1].T
            after[:, 1:] += won2
            after[:, :-1] += weight * ~first - won2
        mass = {counts: weight for counts, weight in later.items() if counts[0] >= counts[1]}
        rewards.append(reward)
    return rewards


def _is_small(num_arms: int, num_pulls: int) -> bool:
    """Whether the multisets of (successes, failures) of at most K arms with at most n pulls are few enough."""
    if num_pulls > 40:
        return False  # 3 arms have more
    ways = np.zeros((num_arms + 1, num_pulls + 1))
    ways[0, 0] = 1.0
    for size in range(1, num_pulls + 1):
        for _ in range(size + 1):
            for arms in range(1, num_arms + 1):
                ways[arms, size:] += ways[arms - 1, : num_pulls + 1 - size]
    return bool(ways[:, :-1].sum() <= _MAX_MULTISETS)


def _pulls(state: _Arms, num_arms: int) -> list[tuple[float, _Arms, _Arms]]:
    """Mean, state after a success and state after a failure, for each arm that differs from the others."""
    options = []
    for place, (wins, losses) in enumerate(state):
        if place == 0 or state[place - 1] != state[place]:
            rest = state[:place] + state[place + 1 :]
            won, lost = (wins + 1, losses), (wins, losses + 1)
            options.append((wins, losses, rest, won, lost))
    if len(state) < num_arms:
        options.append((0, 0, state, (1, 0), (0, 1)))
    return [
        ((wins + 1) / (wins + losses + 2), tuple(sorted((*rest, won))), tuple(sorted((*rest, lost))))
        for wins, losses, rest, won, lost in options
    ]


def _many_arms(num_arms: int, num_pulls: int) -> list[float]:
    """The same for K arms, over sorted tuples of (successes, failures) of the arms touched so far."""
    layers: list[dict[_Arms, list[tuple[float, _Arms, _Arms]]]] = []
    states: set[_Arms] = {()}
    for _ in range(num_pulls):
        layer = {state: _pulls(state, num_arms) for state in states}
        layers.append(layer)
        states = {after for options in layer.values() for _, won, lost in options for after in (won, lost)}
    value = dict.fromkeys(states, 0.0)
    best: list[dict[_Arms, tuple[float, _Arms, _Arms]]] = []
    for layer in reversed(layers):
        now, chosen = {}, {}
        for state, options in layer.items():
            totals = [mean * (1.0 + value[won]) + (1.0 - mean) * value[lost] for mean, won, lost in options]
            now[state] = top = max(totals)
            chosen[state] = max(option for option, total in zip(options, totals, strict=True) if total >= top - _TIE)
        value = now
        best.append(chosen)
    rewards = []
    mass: dict[_Arms, float] = {(): 1.0}
    for chosen in reversed(best):
        reward = 0.0
        later: dict[_Arms, float] = {}
        for state, weight in mass.items():
            mean, won, lost = chosen[state]
            reward += weight * mean
            later[won] = later.get(won, 0.0) + weight * mean
            later[lost] = later.get(lost, 0.0) + weight * (1.0 - mean)
        mass = later
        rewards.append(reward)
    return rewards


# --- dependent arms --------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def mirrored_limit(first_means: tuple[float, ...], num_pulls: int) -> tuple[float, ...] | None:
    """Expected reward of each pull of two arms that pay with q and 1 - q, q one of some values, equally likely.

    A reward of the one arm tells what a missing reward of the other tells, so what is learnt does not depend on
    what is pulled, and the best agent pulls what pays more now. What it knows is how often the first arm paid or the
    second did not, in t pulls: a random walk.

    Args:
        first_means: values of q.
        num_pulls: n.

    Returns:
        (n,), or None beyond 20,000 pulls.
    """
    if num_pulls > _MAX_LINEAR_PULLS:
        return None
    q = np.array(first_means)[:, None]
    rewards = []
    mass = np.full((len(q), 1), 1.0 / len(q))  # joint with q, by how often the first arm did better
    for _ in range(num_pulls):
        first = (q * mass).sum(axis=0)
        rewards.append(float(np.maximum(first, mass.sum(axis=0) - first).sum()))
        later = np.zeros((len(q), mass.shape[1] + 1))
        later[:, 1:] = q * mass
        later[:, :-1] += (1.0 - q) * mass
        mass = later
    return tuple(rewards)


@lru_cache(maxsize=64)
def uniform_limit(num_pulls: int) -> tuple[float, ...] | None:
    """Expected reward of each pull of two arms that pay with q and 1 - q, q uniform on [0, 1].

    As in `mirrored_limit`. After t pulls the first arm has done better k times with probability 1 / (t + 1) for
    every k, and its mean is (k + 1) / (t + 2).

    Args:
        num_pulls: n.

    Returns:
        (n,), or None beyond 20,000 pulls.
    """
    if num_pulls > _MAX_LINEAR_PULLS:
        return None
    means = (_mean(pulled) for pulled in range(num_pulls))
    return tuple(float(np.maximum(mean, 1.0 - mean).mean()) for mean in means)


def informative_limit(num_pulls: int) -> tuple[float, ...]:
    """Expected reward of each pull of the bandit with an informative arm, (n,).

    With two pulls or more the informative arm comes first: that makes 0.55 + 5 (n - 1). An agent that tries one of
    the ten others instead earns 1.4, finds the target with probability 0.1, and otherwise at most 13 / 9 at its next
    pull: 1.4 + 0.1 * 5 (n - 1) + 0.9 * (13 / 9 + 5 (n - 2)) = 5 n - 6.8 at most. A single pull goes to one of the ten.

    Args:
        num_pulls: n.
    """
    return (0.55, *[5.0] * (num_pulls - 1)) if num_pulls > 1 else (1.4,)


# --- drifting arms ---------------------------------------------------------------------------------------------------


def drifting_optimum(first_mean: Float, volatility: Float, num_pulls: int) -> Float:
    """Expected sum of max(p, 1 - p) while p walks, with normal steps, between walls at 0 and 1 that reflect it.

    max(p, 1 - p) = 3/4 + sum over odd m of 2 / (pi m)^2 cos(2 pi m p), and a step of standard deviation s multiplies
    the expectation of cos(2 pi m p) by exp(-2 (pi m s)^2).

    Args:
        first_mean: p at the first pull, (N,).
        volatility: standard deviation of a step, at least 0.01, (N,).
        num_pulls: n.

    Returns:
        (N,), exact to rounding.
    """
    decay = np.exp(-2.0 * (np.pi * _ODD * volatility[:, None]) ** 2)
    waves = 2.0 / (np.pi * _ODD) ** 2 * np.cos(2.0 * np.pi * _ODD * first_mean[:, None])
    # The first pull is taken exactly; the others, whose series converge fast, as geometric sums.
    later = (waves * decay * (1.0 - decay ** (num_pulls - 1)) / (1.0 - decay)).sum(axis=1)
    total: Float = np.maximum(first_mean, 1.0 - first_mean) + 0.75 * (num_pulls - 1) + later
    return total
