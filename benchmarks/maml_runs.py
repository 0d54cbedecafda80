"""Trainings of gradient meta-learners for tables of results: each in a process of its own, with a journal, resumable.

A `Training` says what is trained, for how many iterations, and how it is measured. What a finished one measured, its
final weights and its journal are kept in a folder, and an interrupted command goes on where it was, to the bit.
"""

import hashlib
import json
import re
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import FloatSchedule
from typing_extensions import override

from benchmarks import rl2_runs
from benchmarks.rl2_runs import WORK, add_options, by_agent, minutes
from metagym.algos.maml_iteration import play_and_adapt
from metagym.algos.maml_rollout import Collector
from metagym.algos.maml_rows import with_rows
from metagym.algos.reptile_run import derived_seed
from metagym.files import replacing
from metagym.learner_state import preserved_rng
from metagym.statistics import mean, stratified_bootstrap_ci
from metagym.tasks import Task

__all__ = [
    "WORK", "Journal", "Training", "add_options", "by_agent", "interval", "interval_cells", "measure", "minutes", "run",
    "stepwise", "trained", "trainings_of",
]  # fmt: skip

ALWAYS = 10**12
"""More steps than any training takes: iterations end it."""
TASKS_AT_ONCE = 20
"""In tests: more take more memory, and are no faster."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training and its measurement.

    Attributes:
        row: name of the problem.
        column: name of the learner.
        seed: of the training.
        iterations: outer steps.
        env_id: of the family.
        kind: the learner's class.
        keywords: of it.
        annealed: whether the learning rate falls from iteration to iteration, linearly to zero after the last one.
        test: measures the trained learner on so many held-out tasks; takes the seed too; a function of a module. Its
            result has "scores", (tasks, entries).
        tasks: number of them.
        work: folder of checkpoints, journals and results.
    """

    row: str
    column: str
    seed: int
    iterations: int
    env_id: str
    kind: type[Any]
    keywords: Mapping[str, Any] = field(default_factory=dict)
    annealed: bool = False
    test: Callable[[Any, int, int], dict[str, Any]]
    tasks: int
    work: Path = WORK

    def path(self, ending: str) -> Path:
        """Where a file of this training is kept; other settings, another file."""
        settings = [
            self.env_id, self.kind, sorted(self.keywords.items()), self.annealed, self.iterations, self.tasks,
        ]  # fmt: skip
        # Classes by their names alone: their modules are called __main__ here and __mp_main__ in a process of its own.
        told = re.sub(r"<class '[\w.]*?(\w+)'>", r"\1", repr(settings))
        digest = hashlib.sha256(told.encode()).hexdigest()[:8]
        name = re.sub(r"[^\w.-]+", "-", f"{self.row}-{self.column}")
        return self.work / f"{name}-{self.seed}-{digest}{ending}"


class Journal(BaseCallback):
    """Ends training after its iterations, and lets the learning rate fall, where the training says so.

    It writes a line of progress and a checkpoint now and then, and adds up the time of all sittings.
    """

    def __init__(self, training: Training, done: int, *, seconds_between: float = 60.0) -> None:
        super().__init__()
        self._log, self._checkpoint = training.path(".jsonl"), training.path(".zip")
        self._iterations, self._done, self._between = training.iterations, done, seconds_between
        self._rate = float(training.keywords["learning_rate"]) if training.annealed else None
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        self._before = json.loads(lines[-1]) if lines else {"seconds": 0.0, "processor_seconds": 0.0}

    @override
    def _on_training_start(self) -> None:
        self._start, self._cpu_start = time.perf_counter(), time.process_time()
        self._last = self._start

    @override
    def _on_rollout_start(self) -> None:
        if self._rate is not None:
            left = 1.0 - (self._done + self.n_calls) / self._iterations
            self.model.lr_schedule = FloatSchedule(self._rate * left)

    @override
    def _on_step(self) -> bool:
        if time.perf_counter() - self._last > self._between:
            self.write()
        return self._done + self.n_calls < self._iterations

    @override
    def _on_training_end(self) -> None:
        self.write()

    def write(self) -> None:
        """The checkpoint first: time that is lost with a later one is then not counted either."""
        self.model.save(self._checkpoint)
        now, values = time.perf_counter(), self.logger.name_to_value
        line = {
            "iterations": self._done + self.n_calls,
            "steps": self.model.num_timesteps,
            "seconds": self._before["seconds"] + now - self._start,
            "processor_seconds": self._before["processor_seconds"] + time.process_time() - self._cpu_start,
            **{key: values[f"meta/{key}_return"] for key in ("pre_adapt", "post_adapt")},
        }
        with self._log.open("a") as log:
            log.write(json.dumps(line) + "\n")
        self._last = now


def trained(training: Training) -> Any:
    """The learner at the end of its training, from its checkpoint where there is one."""
    checkpoint, journal = training.path(".zip"), training.path(".jsonl")
    if checkpoint.exists() and journal.exists():
        agent = training.kind.load(checkpoint, device="cpu")
        done = json.loads(journal.read_text().splitlines()[-1])["iterations"]
    else:
        journal.unlink(missing_ok=True)
        agent, done = training.kind("MlpPolicy", training.env_id, seed=training.seed, **training.keywords), 0
    if done < training.iterations:
        agent.learn(ALWAYS, callback=Journal(training, done), log_interval=None, reset_num_timesteps=False)
    return agent


def run(training: Training) -> dict[str, Any]:
    """Train, measure and store; or what was stored."""
    path = training.path(".json")
    if path.exists():
        stored: dict[str, Any] = json.loads(path.read_text())
        return stored
    th.set_num_threads(1)
    training.work.mkdir(parents=True, exist_ok=True)
    agent = trained(training)
    last = json.loads(training.path(".jsonl").read_text().splitlines()[-1])
    result = {
        "row": training.row, "column": training.column, "seed": training.seed, "iterations": training.iterations,
        "steps": agent.num_timesteps, "seconds": last["seconds"], "processor_seconds": last["processor_seconds"],
        "test": training.test(agent, training.seed, training.tasks), "checkpoint": training.path(".zip").name,
    }  # fmt: skip
    with replacing(path) as partial:
        partial.write_text(json.dumps(result, indent=2) + "\n")
    return result


def trainings_of(given: Namespace, make: Callable[..., Training], *choices: str) -> list[Training]:
    """What is asked for, as `rl2_runs.trainings_of` combines it."""
    combined: Any = rl2_runs.trainings_of
    made: list[Training] = combined(given, make, *choices)
    return made


def measure(trainings: Sequence[Training], given: Namespace) -> dict[str, Any]:
    """All trainings, each in a process of its own, as a result of the docs; in the order given.

    Args:
        trainings: what is asked for.
        given: values of the options: with `finished`, only trainings that have ended.
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
            means = ", ".join(f"{value:.2f}" for value in np.mean(one["test"]["scores"], axis=0))
            print(f"{one['row']}, {one['column']}, seed {one['seed']}: {means}", flush=True)
    return {"runs": [done[place] for place in range(len(trainings))], "tasks": trainings[0].tasks}


def stepwise(agent: Any, tasks: Sequence[Task], n_steps: int, n_envs: int, seed: int) -> list[list[float]]:
    """Mean returns on each task after 0, 1, ..., n_steps gradient steps, as papers measure them, (tasks, n_steps + 1).

    The episodes that a step learns from are those that score the policy before it; the last policy plays others. Tasks
    play side by side, which takes a small part of the time of an adaptation for every task and number of steps.

    Args:
        agent: a trained gradient meta-learner.
        tasks: to adapt to.
        n_steps: gradient steps.
        n_envs: episodes between two steps.
        seed: of the noise.
    """
    found = []
    with preserved_rng():
        env = with_rows(agent.env, n_envs)
        for first in range(0, len(tasks), TASKS_AT_ONCE):
            part = tasks[first : first + TASKS_AT_ONCE]
            collector = Collector(agent._parts.function, agent._parts.law, env, len(part), agent.n_steps)
            places = range(first, first + len(part))
            seeds = [[derived_seed(seed, place, step) for step in range(n_steps + 1)] for place in places]
            played = play_and_adapt(agent, collector, part, seeds, n_steps, plays_on=True)
            returns = [experience.rollout.returns.mean(axis=1) for experience in played.experiences]
            found += np.stack(returns, axis=1).round(4).tolist()
    return found


def interval(runs: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float], list[float]]:
    """Means over seeds and tasks of each entry of the scores, and the bounds of their 95 % intervals."""
    scores = np.array([one["test"]["scores"] for one in runs])
    low, high = stratified_bootstrap_ci(scores, mean)
    return mean(scores).tolist(), np.asarray(low).tolist(), np.asarray(high).tolist()


def interval_cells(runs: Sequence[Mapping[str, Any]], digits: int = 2) -> str:
    """Means with their intervals as cells of a row; with a single seed, the means alone."""
    rows = zip(*interval(runs), strict=True)
    if len(runs) == 1:
        return " | ".join(f"{centre:.{digits}f}" for centre, _, _ in rows)
    return " | ".join(f"{centre:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]" for centre, low, high in rows)
