"""Reptile, joint training with fine-tuning, learning from scratch and RL² on three problems, several seeds.

    python -m benchmarks.study        # prints the tables and writes docs/results/study.json

All that train take the same number of environment steps on training tasks; all meet the same held-out tasks, and are
measured after 0, 1, 2, 5 and 10 episodes of each. What adapts by gradient is the same PPO from three initialisations.
Finished runs are kept in ``runs/study``: an interrupted command goes on where it was. ``--scale`` multiplies the steps.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium.vector import AutoresetMode

from benchmarks.stored import parser, store
from benchmarks.study_settings import BUDGETS, EVAL_EPISODES, LEARNERS, MEMORY, PROBLEMS, ROWS, Problem
from metagym import TaskDistribution, make_family
from metagym.algos import RL2, FromScratch, JointTraining, Random, Reptile
from metagym.curves import AdaptationCurve
from metagym.evaluation import evaluate
from metagym.files import replacing
from metagym.statistics import mean, paired_difference_ci, stratified_bootstrap_ci
from metagym.tasks import Task

WORK = Path(__file__).resolve().parents[1] / "runs" / "study"
COSTS = ("steps", "training_seconds", "training_wall_seconds", "evaluation_seconds")
COMPARED = (("Reptile", "joint training"), ("Reptile", "from scratch"), (MEMORY, "Reptile"), (MEMORY, "joint training"))


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training and its evaluation.

    Attributes:
        key: of the problem, in `PROBLEMS`.
        problem: its settings.
        learner: one of `LEARNERS`.
        seed: of everything random, but for the tasks.
    """

    key: str
    problem: Problem
    learner: str
    seed: int

    def path(self, work: Path) -> Path:
        """Where the result is kept; other settings, another file."""
        unused = ("inner", "reptile", "joint", "joint_rows") if self.learner == MEMORY else ("rl2",)
        used = {name: value for name, value in asdict(self.problem).items() if name not in unused}
        text = json.dumps([used, BUDGETS, EVAL_EPISODES, ROWS], sort_keys=True)
        return work / f"{self.key}-{self.learner.replace(' ', '-')}-{self.seed}-{_digest(text)}.json"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]


class WholeEpisodes:
    """A learner that adapts on whole episodes: b of them in as many rows, or in rollouts of `ROWS` each."""

    def __init__(self, learner: Any, problem: Problem, seed: int) -> None:
        self._learner, self._problem, self._seed = learner, problem, seed
        self.observation_space, self.action_space = learner.observation_space, learner.action_space

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """What the learner predicts before any adaptation."""
        actions, after = self._learner.predict(observation, state, episode_start, deterministic)
        return actions, after

    def adapt(self, task: Task, total_timesteps: int) -> Any:
        """The learner adapted to a task; noise hangs on run and task, so all learners of a seed meet the same."""
        rows = min(ROWS, total_timesteps // self._problem.episode_length)
        env: Any = gym.make_vec(
            self._problem.env_id,
            num_envs=rows,
            autoreset_mode=AutoresetMode.SAME_STEP,
            **self._problem.env_kwargs,
        )
        env.unwrapped.set_tasks([task] * rows)
        return self._learner.adapt(env, total_timesteps=total_timesteps, seed=self._seed_of(task))

    def _seed_of(self, task: Task) -> int:
        return int(np.random.SeedSequence([self._seed, task.id]).generate_state(1)[0]) >> 1


def make(job: Job) -> Any:
    """A learner, not trained yet."""
    p = job.problem
    same: dict[str, Any] = {
        "env_kwargs": dict(p.env_kwargs),
        "policy_kwargs": dict(p.policy),
        "seed": job.seed,
        "device": "cpu",
    }
    if job.learner == MEMORY:
        return RL2("MlpPolicy", p.env_id, **same, **p.rl2)
    if job.learner == "Reptile":
        return Reptile("MlpPolicy", p.env_id, learner_kwargs=p.inner, **same, **p.reptile)
    if job.learner == "from scratch":
        return FromScratch("MlpPolicy", p.env_id, learner_kwargs=p.inner, **same, n_envs=p.reptile["n_envs"])
    joint = {**p.inner, **p.joint}
    return JointTraining("MlpPolicy", p.env_id, learner_kwargs=joint, adapt_kwargs=p.inner, n_envs=p.joint_rows, **same)


def tasks_of(problem: Problem, split: str) -> list[Task]:
    """The tasks that everybody is measured on."""
    family = make_family(problem.env_id, **problem.env_kwargs)
    return list(TaskDistribution(family).part(split).sample(np.random.default_rng(0), problem.n_tasks))


_LIMITS: dict[tuple[str, str], AdaptationCurve] = {}


def limits_of(problem: Problem, split: str) -> AdaptationCurve:
    """Random behaviour and the optimum on these tasks; a process computes them once."""
    key = (json.dumps(asdict(problem), sort_keys=True), split)
    if key not in _LIMITS:
        learner = Random(env=problem.env_id, env_kwargs=dict(problem.env_kwargs))
        tasks = tasks_of(problem, split)
        _LIMITS[key] = evaluate(learner, problem.env_id, env_kwargs=problem.env_kwargs, tasks=tasks, budgets=BUDGETS)
    return _LIMITS[key]


def run(job: Job, work: Path) -> dict[str, Any]:
    """Train, adapt, measure and store; or what was stored."""
    path = job.path(work)
    if path.exists():
        stored: dict[str, Any] = json.loads(path.read_text())
        return stored
    th.set_num_threads(1)
    began, start = time.time(), time.process_time()
    agent = make(job)
    agent.learn(job.problem.timesteps)
    trained, trained_at = time.process_time(), time.time()
    limits = {split: limits_of(job.problem, split) for split in job.problem.splits}
    ready = time.process_time()
    tests = {split: tested(job, agent, split, limits[split]) for split in job.problem.splits}
    result = {
        "tests": tests,
        "steps": int(agent.num_timesteps),
        "training_seconds": trained - start,
        "training_wall_seconds": trained_at - began,
        "evaluation_seconds": time.process_time() - ready,
        "began": began,
        "ended": time.time(),
    }
    with replacing(path) as partial:
        partial.write_text(json.dumps(result))
    return result


def tested(job: Job, agent: Any, split: str, limits: AdaptationCurve) -> dict[str, Any]:
    """Scores (tasks, budgets) of a trained learner on a split, and the limits."""
    problem, tasks = job.problem, tasks_of(job.problem, split)
    measured = WholeEpisodes(agent, problem, job.seed)
    if job.learner == MEMORY:  # a score is of as many trials as those of the others are of episodes
        measured, tasks, limits = agent, [task for task in tasks for _ in range(EVAL_EPISODES)], _repeated(limits)
    # Tasks are given, and not drawn by the seed, because the noise is to differ from run to run.
    curve = evaluate(
        measured, problem.env_id, env_kwargs=problem.env_kwargs, tasks=tasks, budgets=BUDGETS, seed=job.seed,
        eval_episodes=EVAL_EPISODES, limits=limits,
    )  # fmt: skip
    assert curve.optimal is not None
    return {
        "scores": curve.scores[0].reshape(problem.n_tasks, -1, len(BUDGETS)).mean(axis=1).tolist(),
        "random": float(curve.random.mean()),
        "optimal": float(curve.optimal.mean()),
    }


def _repeated(limits: AdaptationCurve) -> AdaptationCurve:
    """The limits of tasks that are each played several times."""
    assert limits.optimal is not None
    return replace(
        limits,
        scores=limits.scores.repeat(EVAL_EPISODES, axis=1),
        task_ids=limits.task_ids.repeat(EVAL_EPISODES),
        random=limits.random.repeat(EVAL_EPISODES),
        optimal=limits.optimal.repeat(EVAL_EPISODES),
    )


def run_all(jobs: Sequence[Job], work: Path, workers: int) -> list[dict[str, Any]]:
    """The results of all jobs, from so many processes; one is this process."""
    work.mkdir(parents=True, exist_ok=True)
    start, results = time.monotonic(), {}

    def finished(place: int, result: dict[str, Any]) -> None:
        results[place] = result
        job = jobs[place]
        print(
            f"{time.monotonic() - start:5.0f} s  {len(results)}/{len(jobs)}  {job.key}, {job.learner}, "
            f"seed {job.seed}: {result['training_seconds']:.0f} + {result['evaluation_seconds']:.0f} s",
            flush=True,
        )

    if workers == 1:
        for place, job in enumerate(jobs):
            finished(place, run(job, work))
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            futures = {pool.submit(run, job, work): place for place, job in enumerate(jobs)}
            for future in as_completed(futures):
                finished(futures[future], future.result())
    return [results[place] for place in range(len(jobs))]


def summed_up(key: str, jobs: Sequence[Job], results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the page needs of one problem."""
    problem = next(job.problem for job in jobs if job.key == key)
    own = {
        learner: [done for job, done in zip(jobs, results, strict=True) if (job.key, job.learner) == (key, learner)]
        for learner in LEARNERS
    }
    tests = {}
    for split in problem.splits:
        scores = {learner: np.array([one["tests"][split]["scores"] for one in done]) for learner, done in own.items()}
        first = own[MEMORY][0]["tests"][split]
        tests[split] = {
            "random": first["random"],
            "optimal": first["optimal"],
            "learners": {
                name: _interval(mean(one), stratified_bootstrap_ci(one, mean)) for name, one in scores.items()
            },
            "by_seed": {name: one.mean(axis=1).round(4).tolist() for name, one in scores.items()},
            "differences": [
                {"one": one, "other": other}
                | _interval(
                    mean(scores[one]) - mean(scores[other]), paired_difference_ci(scores[one], scores[other], mean)
                )
                for one, other in COMPARED
            ],
        }  # fmt: skip
    return {
        "title": problem.title,
        "digits": problem.digits,
        "tasks": problem.n_tasks,
        "episode_length": problem.episode_length,
        "tests": tests,
        "costs": {
            learner: {name: float(np.mean([one[name] for one in done])) for name in COSTS}
            for learner, done in own.items()
        },
    }


def _interval(centre: Any, limits: Any) -> dict[str, list[float]]:
    return {"mean": centre.tolist(), "low": limits[0].tolist(), "high": limits[1].tolist()}


def measure(num_seeds: int, scale: float, workers: int, work: Path) -> dict[str, Any]:
    """Train and measure everything the page shows."""
    problems = {
        key: replace(problem, timesteps=max(1, round(problem.timesteps * scale))) for key, problem in PROBLEMS.items()
    }
    jobs = [
        Job(key=key, problem=problem, learner=learner, seed=seed)
        for seed in range(num_seeds)
        for key, problem in problems.items()
        for learner in LEARNERS
    ]
    results = run_all(jobs, work, workers)
    return {
        "problems": {key: summed_up(key, jobs, results) for key in problems},
        "budgets": list(BUDGETS),
        "seeds": num_seeds,
        "eval_episodes": EVAL_EPISODES,
        "processor_seconds": sum(one["training_seconds"] + one["evaluation_seconds"] for one in results),
        "wall_seconds": max(one["ended"] for one in results) - min(one["began"] for one in results),
        "jobs": workers,
        "versions": {name: version(name) for name in ("stable-baselines3", "torch")},
    }


def _cells(row: Mapping[str, Any], digits: int, *, signed: bool = False) -> str:
    """Means with their intervals, one cell a budget; differences are marked where the interval leaves 0 out."""
    sign = "+" if signed else ""
    cells = []
    for centre, low, high in zip(row["mean"], row["low"], row["high"], strict=True):
        mark = " *" if signed and (low > 0 or high < 0) else ""
        cells.append(f"{centre:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]{mark}")
    return " | ".join(cells)


def _tables(problem: Mapping[str, Any], split: str, result: Mapping[str, Any]) -> list[str]:
    test, digits, budgets = problem["tests"][split], problem["digits"], result["budgets"]
    head = " | ".join(f"after {budget}" for budget in budgets)
    rule = "|---" * (len(budgets) + 1) + "|"
    lines = [
        f"### {problem['title'][0].upper()}{problem['title'][1:]}, {split} tasks",
        "",
        f"| return | {head} |",
        rule,
    ]
    lines += [f"| {name} | {_cells(row, digits)} |" for name, row in test["learners"].items()]
    limits = " | ".join(f"{name} {test[name]:.{digits}f}" for name in ("random", "optimal"))
    blank = " |" * (len(budgets) - 2)
    lines += [f"| limits | {limits} |{blank}", "", f"| difference | {head} |", rule]
    lines += [f"| {row['one']} - {row['other']} | {_cells(row, digits, signed=True)} |" for row in test["differences"]]
    return [*lines, ""]


def _seeds(result: Mapping[str, Any]) -> list[str]:
    """First and last budget of every seed by itself."""
    first, last = result["budgets"][0], result["budgets"][-1]
    lines = ["### Seed by seed", "", f"| problem | learner | after {first} | after {last} |", "|---" * 4 + "|"]
    for problem in result["problems"].values():
        for split, test in problem["tests"].items():
            for learner, rows in test["by_seed"].items():
                cells = (", ".join(f"{row[place]:.{problem['digits']}f}" for row in rows) for place in (0, -1))
                lines.append(f"| {problem['title']}, {split} | {learner} | {' | '.join(cells)} |")
    return [*lines, ""]


def _costs(result: Mapping[str, Any]) -> list[str]:
    lines = [
        "### Steps and time",
        "",
        "| problem | learner | training steps | training, processor s | training, wall s | adaptation and tests, "
        "processor s |",
        "|---|---|---|---|---|---|",
    ]
    for problem in result["problems"].values():
        for learner, cost in problem["costs"].items():
            seconds = (cost[name] for name in ("training_seconds", "training_wall_seconds", "evaluation_seconds"))
            cells = " | ".join(f"{value:.1f}" for value in seconds)
            lines.append(f"| {problem['title']} | {learner} | {cost['steps']:,.0f} | {cells} |")
    return [*lines, ""]


def render(result: dict[str, Any]) -> str:
    """The tables of docs/study.md."""
    lines: list[str] = []
    for problem in result["problems"].values():
        for split in problem["tests"]:
            lines += _tables(problem, split, result)
    sizes = "; ".join(
        f"{problem['title']}: {problem['tasks']} tasks a split, episodes of at most {problem['episode_length']} steps"
        for problem in result["problems"].values()
    )
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    lines += _seeds(result) + _costs(result)
    lines.append(
        f"Mean return over {result['seeds']} seeds and all tasks, after so many episodes of the task [95 % bootstrap "
        "interval over seeds]. * marks differences whose interval leaves 0 out. "
        f"{sizes}. A score is the mean of {result['eval_episodes']} episodes, for RL² of as many trials. Costs are "
        "those of one training, its tests on all splits included. In all "
        f"{result['processor_seconds'] / 60:.0f} minutes of processor time and {result['wall_seconds'] / 60:.0f} "
        f"minutes of wall-clock, {result['jobs']} processes, on a machine of two cores that did other work too; "
        f"{versions}."
    )
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    arguments = parser(__doc__, "study")
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--scale", type=float, default=1.0, help="multiplies the training steps")
    arguments.add_argument("--jobs", type=int, default=2, help="processes; 1: this one")
    arguments.add_argument("--work", type=Path, default=WORK, help="for finished runs")
    options = arguments.parse_args()
    if options.seeds < 2 or not options.scale > 0 or options.jobs < 1:
        arguments.error("--seeds must be at least 2 (an interval needs them), --scale above 0, --jobs at least 1")
    store(measure(options.seeds, options.scale, options.jobs, options.work), options.out, render)


if __name__ == "__main__":
    main()
