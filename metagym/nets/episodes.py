"""Episodes within packed trials, told by `RL2Context`'s boundary flag."""

import math
from typing import Any

import torch as th
from gymnasium import spaces

from metagym.errors import ConfigError
from metagym.nets.recurrent import PackedTrials, places_of
from metagym.wrappers.context import CONTEXT

__all__ = ["check_later_entropy", "in_later_episodes"]


def check_later_entropy(value: object, space: spaces.Space[Any]) -> float:
    """The weight of entropies in later episodes.

    Raises:
        ConfigError: if it is no weight, or, where it matters, observations do not say where episodes begin.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value < math.inf:
        raise ConfigError(f"later_entropy must be a finite number of at least 0, got {value!r}.")
    part = space.get(CONTEXT) if isinstance(space, spaces.Dict) else space
    flagged = isinstance(part, spaces.Box) and len(part.shape) == 1 and (part.low[-1], part.high[-1]) == (0.0, 1.0)
    if value != 1.0 and not flagged:
        raise ConfigError(
            "later_entropy needs the observations of RL2Context, which say where episodes begin: a flat Box that ends "
            f"with a flag of 0 or 1, or a Dict with such an entry {CONTEXT!r}; not {space}."
        )
    return float(value)


@th.no_grad()
def in_later_episodes(trials: PackedTrials) -> th.Tensor:
    """Which packed steps lie in another episode than the first of their trial, (n,) of bool."""
    data = trials.data[CONTEXT] if isinstance(trials.data, dict) else trials.data
    time, trial = places_of(trials.batch_sizes, data.device)
    begins = th.zeros(len(trials.batch_sizes), trials.batch_sizes[0], dtype=th.int64, device=data.device)
    begins[time, trial] = (data[:, -1] > 0.5).long()
    return th.as_tensor(begins.cumsum(0)[time, trial] > 1)
