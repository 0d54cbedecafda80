"""Trainings for tables of results: each in a process of its own, with a journal, resumable to the bit.

A `Training` says what is trained and how it is measured. `measure` runs many of them; what a finished one measured, its
final weights and its journal are kept in a folder, and an interrupted command goes on where it was.
"""

import hashlib
import json
import re
import time
from abc import ABC, abstractmethod
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from typing_extensions import override

from metagym.files import replacing

__all__ = [
    "WORK", "Journal", "Training", "add_options", "by_agent", "measure_all", "minutes", "run", "trainings_of",
]  # fmt: skip

WORK = Path(__file__).resolve().parents[1] / "runs"
Run = Mapping[str, Any]
"""What `run` stored of one training."""


@dataclass(frozen=True, kw_only=True)
class Training(ABC):
    """One training and its measurement.

    Attributes:
        row: name of the problem, as in "two-step".
        column: name of the agent, as in "plain".
        seed: of the training.
        env_id: of the family.
        keywords: of the learner.
        tasks: number of those of the test.
        work: folder of checkpoints, journals and results.
    """

    row: str
    column: str
    seed: int
    env_id: str
    keywords: Mapping[str, Any] = field(default_factory=dict)
    tasks: int
    work: Path = WORK

    @property
    @abstractmethod
    def settings(self) -> list[Any]:
        """What makes it another training, besides row, column and seed."""

    @property
    def length(self) -> dict[str, Any]:
        """How long it is, where that is not told by its environment steps."""
        return {}

    @abstractmethod
    def trained(self) -> Any:
        """The agent at the end of its training, from its checkpoint where there is one."""

    @abstractmethod
    def tested(self, agent: Any) -> dict[str, Any]:
        """What is measured of it."""

    def path(self, ending: str) -> Path:
        """Where a file of this training is kept; other settings, another file."""
        # Classes by their names alone: their modules are called __main__ here and __mp_main__ in a process of its own.
        told = re.sub(r"<class '[\w.]*?(\w+)'>", r"\1", repr(self.settings))
        digest = hashlib.sha256(told.encode()).hexdigest()[:8]
        name = re.sub(r"[^\w.-]+", "-", f"{self.row}-{self.column}")
        return self.work / f"{name}-{self.seed}-{digest}{ending}"

    def journal(self) -> list[dict[str, Any]]:
        """The lines of its journal, oldest first."""
        log = self.path(".jsonl")
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


class Journal(BaseCallback):
    """Writes a line of progress and a checkpoint now and then, and adds up the time of all sittings.

    Args:
        training: whose files are written.
        seconds_between: two lines, of wall-clock.
    """

    def __init__(self, training: Training, *, seconds_between: float) -> None:
        super().__init__()
        self._log, self._checkpoint = training.path(".jsonl"), training.path(".zip")
        self._between = seconds_between
        self._before: Mapping[str, float] = (training.journal() or [{"seconds": 0.0, "processor_seconds": 0.0}])[-1]

    @override
    def _on_training_start(self) -> None:
        self._start, self._cpu_start = time.perf_counter(), time.process_time()
        self._last = self._start

    @override
    def _on_step(self) -> bool:
        if time.perf_counter() - self._last > self._between:
            self.write()
        return True

    @override
    def _on_training_end(self) -> None:
        self.write()

    def progress(self) -> dict[str, Any]:
        """What a line tells besides steps and time."""
        return {}

    def write(self) -> None:
        """The checkpoint first: time that is lost with a later one is then not counted either."""
        self.model.save(self._checkpoint)
        now = time.perf_counter()
        line = {
            "steps": self.model.num_timesteps,
            "seconds": self._before["seconds"] + now - self._start,
            "processor_seconds": self._before["processor_seconds"] + time.process_time() - self._cpu_start,
            **self.progress(),
        }
        with self._log.open("a") as log:
            log.write(json.dumps(line) + "\n")
        self._last = now


def run(training: Training) -> dict[str, Any]:
    """Train, measure and store; or what was stored."""
    path = training.path(".json")
    if path.exists():
        stored: dict[str, Any] = json.loads(path.read_text())
        return stored
    th.set_num_threads(1)
    training.work.mkdir(parents=True, exist_ok=True)
    agent = training.trained()
    last = training.journal()[-1]
    result = {
        "row": training.row, "column": training.column, "seed": training.seed, **training.length,
        "steps": agent.num_timesteps, "seconds": last["seconds"], "processor_seconds": last["processor_seconds"],
        "test": training.tested(agent), "checkpoint": training.path(".zip").name,
    }  # fmt: skip
    with replacing(path) as partial:
        partial.write_text(json.dumps(result, indent=2) + "\n")
    return result


def add_options(arguments: ArgumentParser, name: str) -> None:
    """The options that all tables have."""
    arguments.add_argument("--seeds", type=int, default=5, help="trainings of each agent")
    arguments.add_argument("--first-seed", type=int, default=1)
    arguments.add_argument("--tasks", type=int, default=10_000, help="of the test")
    arguments.add_argument("--workers", type=int, default=2, help="trainings at a time")
    arguments.add_argument("--work", type=Path, default=WORK / name, help="checkpoints, journals and results")
    arguments.add_argument("--finished", action="store_true", help="train nothing: show what --work holds")


AnyTraining = TypeVar("AnyTraining", bound=Training)


def trainings_of(given: Namespace, make: Callable[..., AnyTraining], *choices: str) -> list[AnyTraining]:
    """What is asked for: every combination of some options, with every seed.

    Args:
        given: values of the options.
        make: takes one value of each option, a seed, and keywords `tasks` and `work`.
        choices: names of the options.
    """
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    combined = product(*(getattr(given, name) for name in choices), seeds)
    return [make(*one, tasks=given.tasks, work=given.work) for one in combined]


def measure_all(trainings: Sequence[Training], given: Namespace, shown: Callable[[Run], str]) -> dict[str, Any]:
    """All trainings, each in a process of its own, as a result of the docs; in the order given.

    Args:
        trainings: what is asked for.
        given: values of the options: with `finished`, only trainings that have ended.
        shown: what is printed of the test of each.
    """
    if given.finished:
        trainings = [training for training in trainings if training.path(".json").exists()]
    if not trainings:
        raise SystemExit(f"none of these trainings is finished in {given.work}")
    done: dict[int, dict[str, Any]] = {}
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(run, training): place for place, training in enumerate(trainings)}
        for finished in as_completed(waiting):
            one = done[waiting[finished]] = finished.result()
            print(f"{one['row']}, {one['column']}, seed {one['seed']}: {shown(one['test'])}", flush=True)
    return {"runs": [done[place] for place in range(len(trainings))], "tasks": trainings[0].tasks}


def by_agent(runs: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
    """Trainings by row and column, in the order of their first ones."""
    grouped: dict[tuple[str, str], list[Run]] = {}
    for one in runs:
        grouped.setdefault((one["row"], one["column"]), []).append(one)
    return grouped


def minutes(runs: Sequence[Run]) -> str:
    """Processor time of one training, on average."""
    return f"{np.mean([one['processor_seconds'] for one in runs]) / 60.0:.1f}"
