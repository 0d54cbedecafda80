"""Memories of the arms of a bandit along whole trials: sequences of visits, of which a step looks at the last ones."""

from itertools import pairwise
from typing import NamedTuple

import torch as th
from torch import nn

from metagym.nets.recurrent import places_of

__all__ = ["DenseArms", "VisitedArms", "Visits", "visits_of"]


class Visits(NamedTuple):
    """The steps of packed trials at which an arm had just been taken: each arm of each trial has a sequence of them.

    Visits are in the order of packed sequences: the first visits of all arms that were ever taken, then the second, and
    so on. n is the number of packed steps, K of arms, m of visits.

    Attributes:
        steps: place of each visit in the packed steps, (m,).
        arms: the arm, (m,).
        times: the step of the trial, (m,).
        trials: the trial, (m,).
        batch_sizes: arms visited at least once, twice, ...; sums to m.
        previous: 1 + the place of the visit before of the same arm of the same trial, or 0, (m,).
        latest: for each packed step and arm 1 + the place of the last visit, this step's included, or 0, (n, K).
    """

    steps: th.Tensor
    arms: th.Tensor
    times: th.Tensor
    trials: th.Tensor
    batch_sizes: tuple[int, ...]
    previous: th.Tensor
    latest: th.Tensor


def visits_of(taken: th.Tensor, batch_sizes: tuple[int, ...]) -> Visits:
    """The visits in packed trials.

    Args:
        taken: the last action of each packed step as one-hot rows, zeros where there was none, (n, K).
        batch_sizes: trials that have a step t, for every t; sums to n.
    """
    device, (n_steps, n_arms) = taken.device, taken.shape
    time, trial = places_of(batch_sizes, device)
    highest, arm = taken.max(1)
    events = (highest > 0.5).nonzero().squeeze(1)
    sequence = trial[events] * n_arms + arm[events]
    order = sequence.argsort(stable=True)
    events, sequence = events[order], sequence[order]  # one sequence after the other
    lengths = sequence.bincount(minlength=batch_sizes[0] * n_arms)
    rank = th.arange(len(events), device=device) - (lengths.cumsum(0) - lengths)[sequence]
    row = th.empty_like(lengths)
    row[lengths.argsort(descending=True, stable=True)] = th.arange(len(lengths), device=device)
    alive = rank.bincount()
    place = (alive.cumsum(0) - alive)[rank] + row[sequence]
    steps, previous = th.empty_like(events), th.empty_like(events)
    steps[place] = events
    previous[place] = th.where(rank > 0, place.roll(1) + 1, 0)
    # Steps are in order of time, so the last visit is the one with the highest number.
    seen = taken.new_zeros(len(batch_sizes), batch_sizes[0], n_arms, dtype=th.int64)
    seen[time[steps], trial[steps], arm[steps]] = steps + 1
    for before, now in pairwise(seen):
        th.maximum(before, now, out=now)
    of_step = th.zeros(n_steps + 1, dtype=th.int64, device=device)
    of_step[events + 1] = place + 1
    flat = seen.view(n_steps, n_arms) if batch_sizes[-1] == batch_sizes[0] else seen[time, trial]
    sizes_of_visits = tuple(alive.tolist())
    return Visits(steps, arm[steps], time[steps], trial[steps], sizes_of_visits, previous, of_step[flat])


class DenseArms(NamedTuple):
    """The memory of every arm at every step.

    Attributes:
        shared: what all arms see of a step, (n, G).
        memories: (n, K, H).
    """

    shared: th.Tensor
    memories: th.Tensor

    def keys(self, read: nn.Module) -> th.Tensor:
        """What `read` makes of each arm's memory, (n, K, F)."""
        keys: th.Tensor = read(self.memories)
        return keys

    def pooled(self, read: nn.Module, told: th.Tensor | None) -> th.Tensor:
        """The mean over arms of what `read` makes of memories and of what is told of each arm (n, K, P), (n, F)."""
        inputs = self.memories if told is None else th.cat([self.memories, told], dim=2)
        features: th.Tensor = read(inputs)
        return features.mean(1)


class VisitedArms(NamedTuple):
    """The memories of arms along whole trials, which change at visits only.

    Attributes:
        shared: what all arms see of a step, (n, G).
        memories: zeros, and the memory after each visit, (1 + m, H).
        visits: those visits.
        batch_sizes: those of the trials.
    """

    shared: th.Tensor
    memories: th.Tensor
    visits: Visits
    batch_sizes: tuple[int, ...]

    def keys(self, read: nn.Module) -> th.Tensor:
        """As of `DenseArms`."""
        # An arm is visited once a step, and looked at K times: what can be computed before is.
        latest = self.visits.latest
        keys = nn.functional.embedding(latest.view(-1), read(self.memories))
        return keys.view(*latest.shape, -1)

    def pooled(self, read: nn.Module, told: th.Tensor | None) -> th.Tensor:
        """As of `DenseArms`; a running sum of changes, so that its cost does not depend on the number of arms."""
        visits, n_trials, n_arms = self.visits, self.batch_sizes[0], self.visits.latest.shape[1]
        if told is None:
            features = read(self.memories)
            changes, first = features[1:] - features[visits.previous], features[:1]
        else:
            of_visit = told[visits.steps, visits.arms]
            before, after = self.memories[visits.previous], self.memories[1:]
            changes = read(th.cat([after, of_visit], dim=1)) - read(th.cat([before, of_visit], dim=1))
            none = self.memories.new_zeros(n_trials, n_arms, self.memories.shape[1])
            first = read(th.cat([none, told[:n_trials]], dim=2)).mean(1)
        running = changes.new_zeros(len(self.batch_sizes), n_trials, changes.shape[1])
        running = running.index_put((visits.times, visits.trials), changes / n_arms).cumsum(0) + first
        if self.batch_sizes[-1] == n_trials:
            return th.as_tensor(running.flatten(0, 1))
        return th.cat([step[:size] for step, size in zip(running, self.batch_sizes, strict=True)])
