"""What the tests of networks share: trials side by side, as `PackedTrials`."""

import torch as th

from metagym.nets import PackedTrials


def pack(trials, tasks=None):
    """Trials (T, D) in order of decreasing length, time-major; `tasks` is what is told of each, (trials, P)."""
    steps = [th.stack([trial[t] for trial in trials if t < len(trial)]) for t in range(len(trials[0]))]
    told = None if tasks is None else th.cat([tasks[: len(step)] for step in steps])
    return PackedTrials(th.cat(steps), tuple(len(step) for step in steps), told)
