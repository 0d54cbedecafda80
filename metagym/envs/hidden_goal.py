"""The Bayes-optimal search for a goal hidden in one of many places, where moves are certain: exact, or not at all.

Until the goal is found, all that an agent learns is where it is not, so its policy is one walk, planned in advance.
Once found, the task is known. The best walk is found by branch and bound, with a bound that lets goals be found as
early as their distances, and one goal a step, allow.
"""

from typing import NamedTuple

import numpy as np

from metagym.types import Float, Int

__all__ = ["Search", "distances", "episode_returns"]

_MARGIN = 1e-9
"""Of values that count as equal: far below any difference of rewards, far above rounding."""


class Search(NamedTuple):
    """A goal, uniform over some places of a graph, that pays at every step that ends there."""

    neighbours: Int
    """Where each action leads from each place, (S, A)."""
    start: int
    """The place where episodes start."""
    goals: Int
    """Places where the goal may be, each as likely, (G,)."""
    episode_length: int
    """Steps of an episode."""
    reward: float = 1.0
    """For a step that ends at the goal."""
    cost: float = 0.0
    """For every other step, a negative reward or 0."""
    ends_at_goal: bool = False
    """Whether the episode ends there; else the agent can stay."""

    def if_found(self, step: int) -> float:
        """Return of an episode in which the goal is first reached at that step, 1 for the first."""
        times = 1 if self.ends_at_goal else self.episode_length - step + 1
        return self.cost * (step - 1) + self.reward * times

    @property
    def if_not_found(self) -> float:
        """Return of an episode in which it is not reached."""
        return self.cost * self.episode_length

    def known_returns(self) -> Float:
        """Best return of an episode for an agent that knows the goal, (G,)."""
        steps = distances(self.neighbours)[self.start, self.goals]
        within = steps <= self.episode_length
        values = [self.if_found(step) if near else self.if_not_found for step, near in zip(steps, within, strict=True)]
        return np.array(values)


def distances(neighbours: Int) -> Int:
    """Fewest steps, at least one, that lead from place s to place t: entry [s, t] of (S, S); S + 1 if none do."""
    num_places = len(neighbours)
    found = np.full((num_places, num_places), num_places + 1)
    reached = np.zeros((num_places, num_places), dtype=np.bool_)
    reached[np.arange(num_places)[:, None], neighbours] = True
    step = 1
    while (new := reached & (found > num_places)).any():
        found[new] = step
        step += 1
        reached = np.logical_or.reduce(reached[neighbours], axis=1)
    return found


class _Node(NamedTuple):
    """A walk so far: where it stands, what it has not searched (one bit a place), what its last step found.

    The gain is over never finding the goal, summed over all goals.
    """

    episode: int
    step: int
    place: int
    unsearched: int
    gain: float
    finds: tuple[int, int, int] | None
    before: "_Node | None"


def episode_returns(search: Search, num_episodes: int, *, max_nodes: int = 50_000) -> Float | None:
    """Expected return of each episode of a trial for an agent that maximises the sum of all of them.

    Args:
        search: what is searched.
        num_episodes: episodes of the trial.
        max_nodes: how many partial walks to look at before giving up.

    Returns:
        Values, (num_episodes,), exact but for rounding; None if `max_nodes` do not suffice to prove a walk the best.
    """
    best = _best_walk(search, num_episodes, max_nodes)
    if best is None:
        return None
    known = search.known_returns()
    returns = np.full((num_episodes, len(search.goals)), search.if_not_found)
    place_of = {int(place): column for column, place in enumerate(search.goals)}
    node: _Node | None = best
    while node is not None:
        if node.finds is not None:
            place, episode, step = node.finds
            goal = place_of[place]
            returns[episode, goal] = search.if_found(step)
            returns[episode + 1 :, goal] = known[goal]
        node = node.before
    mean: Float = returns.mean(axis=1)
    return mean


class _Bound:
    """The most that a walk may still gain.

    Attributes:
        now: gain of finding the goal at each step, (T,).
        later: gain of an episode with the goal in a place that is known, by place.
    """

    def __init__(self, search: Search) -> None:
        self._length = length = search.episode_length
        steps = distances(search.neighbours)
        is_goal = np.isin(np.arange(len(steps)), search.goals)
        # rings[place][d - 1]: the goals d steps away, one bit each.
        furthest = min(length, int(steps[steps <= len(steps)].max()))
        self._rings = [
            [_bits(np.flatnonzero(is_goal & (row == step))) for step in range(1, furthest + 1)] for row in steps
        ]
        self.now = [search.if_found(step) - search.if_not_found for step in range(1, length + 1)]
        known = search.known_returns() - search.if_not_found
        self.later = dict(zip(search.goals.tolist(), known.tolist(), strict=True))
        # Goals that are worth the same when known, the best first.
        self._levels = [(value, _bits(search.goals[known == value])) for value in sorted(set(known.tolist()))[::-1]]

    def of_episode(self, place: int, step: int, unsearched: int) -> float:
        """In the rest of this episode: each goal is found as early as its distance, and one a step, allow."""
        rings, total, waiting = self._rings[place], 0.0, 0
        for elapsed in range(self._length - step):
            if elapsed < len(rings):
                waiting += (rings[elapsed] & unsearched).bit_count()
            elif not waiting:
                break
            if waiting:
                total += self.now[step + elapsed]
                waiting -= 1
        return total

    def of_later(self, step: int, unsearched: int, num_later: int) -> float:
        """In later episodes: each goal is worth what it is when known, from the episode on in which it is found.

        As many are found as there are steps, the best ones first; those found in this episode count from the next.
        """
        total, room = 0.0, 2 * self._length - step
        for value, places in self._levels:
            count = (unsearched & places).bit_count()
            while count and num_later:
                found = min(count, room)
                total += num_later * value * found
                count, room = count - found, room - found
                if not room:
                    num_later, room = num_later - 1, self._length
        return total


def _bits(places: Int) -> int:
    return sum(1 << int(place) for place in places)


def _best_walk(search: Search, num_episodes: int, max_nodes: int) -> _Node | None:
    """The last node of the best walk; None if that is not known after `max_nodes`."""
    bound = _Bound(search)
    root = _Node(0, 0, search.start, _bits(search.goals), 0.0, None, None)
    best, seen = root, dict[tuple[int, int, int, int], float]()
    stack = [(np.inf, root)]
    for _ in range(max_nodes):
        if not stack:
            return best
        limit, node = stack.pop()
        if limit <= best.gain + _MARGIN:
            continue
        if node.gain > best.gain:
            best = node
        stack += _children(search, bound, node, num_episodes, best.gain, seen)
    return None


def _children(
    search: Search,
    bound: _Bound,
    node: _Node,
    num_episodes: int,
    best: float,
    seen: dict[tuple[int, int, int, int], float],
) -> list[tuple[float, _Node]]:
    """The next partial walks that are worth a look, with their bounds, the most promising last."""
    episode, step, place = node.episode, node.step, node.place
    if step == search.episode_length:
        episode, step, place = episode + 1, 0, search.start
        if episode == num_episodes:
            return []
    after = num_episodes - 1 - episode
    ranked = []
    for target in dict.fromkeys(search.neighbours[place].tolist()):
        left, gain, finds = node.unsearched, node.gain, None
        if left >> target & 1:
            left ^= 1 << target
            gain += bound.now[step] + after * bound.later[target]
            finds = (target, episode, step + 1)
        limit = gain + bound.of_episode(target, step + 1, left) + bound.of_later(step + 1, left, after)
        key = (episode, step + 1, target, left)
        if limit <= best + _MARGIN or seen.get(key, -1.0) >= gain:
            continue
        seen[key] = gain
        # Corners first: what is left there costs a detour later.
        exits = sum(left >> near & 1 for near in search.neighbours[target].tolist())
        child = _Node(episode, step + 1, target, left, gain, finds, node)
        ranked.append(((limit, finds is not None, -exits), child))
    ranked.sort(key=lambda entry: entry[0])
    return [(rank[0], child) for rank, child in ranked]
