"""Trainings of RL² for tables of results: each in a process of its own, with a journal, resumable to the bit.

A `Training` says what is trained and how it is measured. `measure` runs many of them; what a finished one measured, its
final weights and its journal are kept in a folder, and an interrupted command goes on where it was.
"""

import hashlib
import json
import re
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.callbacks import BaseCallback
from typing_extensions import override

from metagym.algos import RL2
from metagym.files import replacing
from metagym.wrappers import RL2Context, Trial

__all__ = [
    "WORK", "Training", "add_options", "by_agent", "measure", "minutes", "run", "summary", "trained", "trainings_of",
    "trials",
]  # fmt: skip

WORK = Path(__file__).resolve().parents[1] / "runs"


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training and its measurement.

    Attributes:
        row: name of the problem, as in "two-step".
        column: name of the agent, as in "plain".
        seed: of the training.
        steps: environment steps.
        env_id: of the family.
        policy: as `RL2` takes it.
        keywords: of `RL2`, ``env_kwargs`` and the length of trials among them.
        entropy: coefficient of the entropy bonus at the start, from which it falls to zero linearly; None: as in
            `keywords` throughout.
        test: measures the trained agent on so many held-out tasks; a function of a module.
        tasks: number of them.
        work: folder of checkpoints, journals and results.
        custom_objects: what a checkpoint cannot hold, as `RL2.load` takes it.
    """

    row: str
    column: str
    seed: int
    steps: int
    env_id: str
    policy: Any = "MlpPolicy"
    keywords: Mapping[str, Any] = field(default_factory=dict)
    entropy: float | None = None
    test: Callable[[RL2, int], dict[str, Any]]
    tasks: int
    work: Path = WORK
    custom_objects: Mapping[str, Any] = field(default_factory=dict)

    def path(self, ending: str) -> Path:
        """Where a file of this training is kept; other settings, another file."""
        policy = self.policy if isinstance(self.policy, str) else self.policy.__name__
        settings = [self.env_id, policy, sorted(self.keywords.items()), self.entropy, self.steps, self.tasks]
        # Classes by their names alone: their modules are called __main__ here and __mp_main__ in a process of its own.
        told = re.sub(r"<class '[\w.]*?(\w+)'>", r"\1", repr(settings))
        digest = hashlib.sha256(told.encode()).hexdigest()[:8]
        name = f"{self.row}-{self.column}".replace(", ", "-").replace(" ", "-")
        return self.work / f"{name}-{self.seed}-{digest}{ending}"


class Journal(BaseCallback):
    """Writes a line of progress and a checkpoint now and then, and adds up the time of all sittings.

    It also lets the entropy bonus fall to zero, linearly, where the training says so.
    """

    def __init__(self, training: Training, *, seconds_between: float = 20.0) -> None:
        super().__init__()
        self._log, self._checkpoint = training.path(".jsonl"), training.path(".zip")
        self._entropy, self._steps = training.entropy, training.steps
        self._between = seconds_between
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        self._before = json.loads(lines[-1]) if lines else {"seconds": 0.0, "processor_seconds": 0.0}

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
    def _on_rollout_end(self) -> None:
        if self._entropy is not None:
            left = max(0.0, 1.0 - self.num_timesteps / self._steps)
            self.model.ent_coef = self._entropy * left  # type: ignore[attr-defined]

    @override
    def _on_training_end(self) -> None:
        self.write()

    def write(self) -> None:
        """The checkpoint first: time that is lost with a later one is then not counted either."""
        assert isinstance(self.model, RL2)
        self.model.save(self._checkpoint)
        now = time.perf_counter()
        returns = [float(episode["r"]) for episode in self.model.ep_info_buffer or ()]
        line = {
            "steps": self.model.num_timesteps,
            "seconds": self._before["seconds"] + now - self._start,
            "processor_seconds": self._before["processor_seconds"] + time.process_time() - self._cpu_start,
            "mean_return": float(np.mean(returns)) if returns else None,
        }
        with self._log.open("a") as log:
            log.write(json.dumps(line) + "\n")
        self._last = now


def trained(training: Training) -> RL2:
    """The agent at the end of its training, from its checkpoint where there is one."""
    checkpoint = training.path(".zip")
    if checkpoint.exists():
        agent: RL2 = RL2.load(checkpoint, device="cpu", custom_objects=dict(training.custom_objects))
    else:
        training.path(".jsonl").unlink(missing_ok=True)
        agent = RL2(training.policy, training.env_id, seed=training.seed, device="cpu", **training.keywords)
    left = training.steps - agent.num_timesteps
    if left > 0:
        agent.learn(left, callback=Journal(training), log_interval=None, reset_num_timesteps=False)
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
        "row": training.row, "column": training.column, "seed": training.seed, "steps": agent.num_timesteps,
        "seconds": last["seconds"], "processor_seconds": last["processor_seconds"],
        "test": training.test(agent, training.tasks), "checkpoint": training.path(".zip").name,
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


def trainings_of(given: Namespace, make: Callable[..., Training], *choices: str) -> list[Training]:
    """What is asked for: every combination of some options, with every seed.

    Args:
        given: values of the options.
        make: takes one value of each option, a seed, and keywords `tasks` and `work`.
        choices: names of the options.
    """
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    combined = product(*(getattr(given, name) for name in choices), seeds)
    return [make(*one, tasks=given.tasks, work=given.work) for one in combined]


def trials(
    env_id: str,
    rows: int,
    episodes: int,
    *,
    split: str | None = "test",
    autoreset_mode: AutoresetMode = AutoresetMode.DISABLED,
    **env_kwargs: Any,
) -> Any:
    """Trials side by side, as RL² agents see them: the vector env that a measurement plays."""
    vector: Any = gym.make_vec(
        env_id,
        num_envs=rows,
        vectorization_mode="vector_entry_point",
        autoreset_mode=autoreset_mode,
        split=split,
        **env_kwargs,
    )
    return RL2Context(Trial(vector, episodes_per_trial=episodes))


def measure(trainings: Sequence[Training], given: Namespace, score: str = "score") -> dict[str, Any]:
    """All trainings, each in a process of its own, as a result of the docs; in the order given.

    Args:
        trainings: what is asked for.
        given: values of the options: with `finished`, only trainings that have ended.
        score: key of what is printed of each.
    """
    if given.finished:
        trainings = [training for training in trainings if training.path(".json").exists()]
    if not trainings:
        raise SystemExit(f"none of these trainings is finished in {given.work}")
    order = {training.path(""): place for place, training in enumerate(trainings)}
    done: list[dict[str, Any]] = [{}] * len(trainings)
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(run, training): training for training in trainings}
        for finished in as_completed(waiting):
            one = finished.result()
            done[order[waiting[finished].path("")]] = one
            print(f"{one['row']}, {one['column']}, seed {one['seed']}: {one['test'][score]:.4f}", flush=True)
    return {"runs": done, "tasks": trainings[0].tasks}


def by_agent(runs: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Trainings by row and column, in the order of their first ones."""
    grouped: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for one in runs:
        grouped.setdefault((one["row"], one["column"]), []).append(one)
    return grouped


def minutes(runs: Sequence[Mapping[str, Any]]) -> str:
    """Processor time of one training, on average."""
    return f"{np.mean([one['processor_seconds'] for one in runs]) / 60.0:.1f}"


def summary(runs: Sequence[Mapping[str, Any]], score: str = "score") -> tuple[float, float]:
    """Mean over seeds, and half of its 95 % interval.

    The seeds share their test tasks, so the error of the tasks (``score + "_error"``, 0 where it is not given) does not
    shrink with the number of seeds.
    """
    scores = np.array([one["test"][score] for one in runs])
    of_tasks = np.mean([one["test"].get(f"{score}_error", 0.0) for one in runs])
    of_seeds = scores.std(ddof=1) / len(scores) ** 0.5 if len(scores) > 1 else 0.0
    return float(scores.mean()), float(1.96 * np.hypot(of_tasks, of_seeds))
