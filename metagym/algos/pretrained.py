"""Agents that ship with metagym, trained: near-optimal learners in one line, offline.

Each is a checkpoint of `RL2` in ``metagym/pretrained``, beside an index of what it is and how it scored.
``python -m benchmarks.pretrained`` trains, measures and writes them.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from metagym.errors import ConfigError

__all__ = ["Pretrained", "pretrained", "pretrained_path"]

_FOLDER = "pretrained"


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """One trained agent.

    Attributes:
        env_id: id of the family that it plays.
        env_kwargs: keywords of the family.
        episodes_per_trial: episodes of a trial.
        command: what trained it.
        seed: of the training.
        steps: environment steps of the training.
        score: mean return of a trial on held-out tasks, final weights, sampled actions.
        error: its standard error, over tasks.
        limit: mean return of the Bayes-optimal agent (from 100 pulls on, of finite-horizon Gittins indices).
        tasks: how many held-out tasks it was measured on.
    """

    env_id: str
    env_kwargs: dict[str, Any]
    episodes_per_trial: int
    command: str
    seed: int
    steps: int
    score: float
    error: float
    limit: float
    tasks: int


@lru_cache
def pretrained() -> MappingProxyType[str, Pretrained]:
    """The agents that there are, by name."""
    index = json.loads((_folder() / "index.json").read_text(encoding="utf-8"))
    return MappingProxyType({name: Pretrained(**entry) for name, entry in sorted(index.items())})


def pretrained_path(name: str) -> Path:
    """The checkpoint of one of them.

    Raises:
        ConfigError: if there is none of this name.
    """
    if name not in pretrained():
        raise ConfigError(f"there is no trained agent {name!r}; there are {', '.join(pretrained())}")
    return _folder() / f"{name}.zip"


def _folder() -> Path:
    return Path(str(files("metagym") / _FOLDER))
