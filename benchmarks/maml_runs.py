"""Trainings of gradient meta-learners for tables of results, and returns after each number of gradient steps."""

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from stable_baselines3.common.utils import FloatSchedule
from typing_extensions import override

from benchmarks import trainings
from benchmarks.trainings import Journal, measure_all
from metagym.algos.maml_iteration import play_and_adapt
from metagym.algos.maml_rollout import Collector
from metagym.algos.maml_rows import with_rows
from metagym.algos.reptile_run import derived_seed
from metagym.learner_state import preserved_rng
from metagym.statistics import mean, stratified_bootstrap_ci
from metagym.tasks import Task

__all__ = ["IterationJournal", "Training", "interval", "interval_cells", "measure", "shown", "stepwise"]

ALWAYS = 10**12
"""More steps than any training takes: iterations end it."""
TASKS_AT_ONCE = 20
"""In tests: more take more memory, and are no faster."""


@dataclass(frozen=True, kw_only=True)
class Training(trainings.Training):
    """One training of a gradient meta-learner and its measurement.

    Attributes:
        iterations: outer steps.
        kind: the learner's class.
        annealed: whether the learning rate falls from iteration to iteration, linearly to zero after the last one.
        test: measures the trained learner on so many held-out tasks; takes the seed too; a function of a module. Its
            result has "scores", (tasks, entries).
    """

    iterations: int
    kind: type[Any]
    annealed: bool = False
    test: Callable[[Any, int, int], dict[str, Any]]

    @property
    @override
    def settings(self) -> list[Any]:
        return [self.env_id, self.kind, sorted(self.keywords.items()), self.annealed, self.iterations, self.tasks]

    @property
    @override
    def length(self) -> dict[str, Any]:
        return {"iterations": self.iterations}

    @override
    def trained(self) -> Any:
        checkpoint, lines = self.path(".zip"), self.journal()
        if checkpoint.exists() and lines:
            agent, done = self.kind.load(checkpoint, device="cpu"), lines[-1]["iterations"]
        else:
            self.path(".jsonl").unlink(missing_ok=True)
            agent, done = self.kind("MlpPolicy", self.env_id, seed=self.seed, **self.keywords), 0
        if done < self.iterations:
            journal = IterationJournal(self, done)
            agent.learn(ALWAYS, callback=journal, log_interval=None, reset_num_timesteps=False)
        return agent

    @override
    def tested(self, agent: Any) -> dict[str, Any]:
        return self.test(agent, self.seed, self.tasks)


class IterationJournal(Journal):
    """Also ends training after its iterations, and lets the learning rate fall, where the training says so.

    Args:
        training: whose files are written.
        done: iterations of earlier sittings.
        seconds_between: two lines, of wall-clock.
    """

    def __init__(self, training: Training, done: int, *, seconds_between: float = 60.0) -> None:
        super().__init__(training, seconds_between=seconds_between)
        self._iterations, self._done = training.iterations, done
        self._rate = float(training.keywords["learning_rate"]) if training.annealed else None

    @override
    def _on_rollout_start(self) -> None:
        if self._rate is not None:
            left = 1.0 - (self._done + self.n_calls) / self._iterations
            self.model.lr_schedule = FloatSchedule(self._rate * left)

    @override
    def _on_step(self) -> bool:
        return super()._on_step() and self._done + self.n_calls < self._iterations

    @override
    def progress(self) -> dict[str, Any]:
        values = self.logger.name_to_value
        returns = {key: values[f"meta/{key}_return"] for key in ("pre_adapt", "post_adapt")}
        return {"iterations": self._done + self.n_calls} | returns


def measure(trainings: Sequence[Training], given: Namespace) -> dict[str, Any]:
    """All trainings, as `benchmarks.trainings.measure_all`."""
    return measure_all(trainings, given, shown)


def shown(test: Mapping[str, Any]) -> str:
    """Means over tasks of each entry of the scores, as a line of progress."""
    return ", ".join(f"{value:.2f}" for value in np.mean(test["scores"], axis=0))


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
