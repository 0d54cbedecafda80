"""ProMP beside Reptile, joint training and learning from scratch, on lakes, cart-poles and pendulums.

    python -m benchmarks.maml_study        # prints the tables and writes docs/results/maml_study.json

All that train take the same number of environment steps on training tasks; all meet the same held-out tasks, and are
measured after 0, 1, 3 and 10 episodes of each. Problems, networks, and the three learners that adapt with PPO are those
of `benchmarks.study`, with more steps of cart-poles; pendulums are added. ProMP takes one step of the policy gradient
on all episodes of a budget. Finished trainings are kept in ``--work``: an interrupted command goes on where it was.
"""

import hashlib
import json
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from benchmarks import study
from benchmarks.maml_runs import interval_cells, shown
from benchmarks.stored import parser, store
from benchmarks.study_settings import PROBLEMS, Problem
from benchmarks.trainings import WORK
from metagym.algos import ProMP
from metagym.evaluation import evaluate
from metagym.files import replacing
from metagym.tasks import Task

BUDGETS = (0, 1, 3, 10)
"""Episodes of a task that were learnt from."""
EPISODES = 10
"""Episodes whose mean return is a score."""
GRADIENT = "ProMP"
LEARNERS = (GRADIENT, "Reptile", "joint training", "from scratch")
PENDULUMS = Problem(
    title="pendulums (200 steps, hidden constants)",
    env_id="MetaPendulum-v0",
    env_kwargs={"episode_length": 200},
    episode_length=200,
    timesteps=400_000,
    n_tasks=10,
    digits=0,
    inner={"n_steps": 200, "batch_size": 250, "n_epochs": 5, "learning_rate": 1e-3, "gamma": 0.95},
    reptile={"n_envs": 10, "inner_timesteps": 2000, "meta_batch_size": 2, "learning_rate": 0.3},
    joint={"n_steps": 32, "batch_size": 512, "n_epochs": 5, "learning_rate": 1e-3},
    rl2={},
)
SAME: dict[str, Any] = {"gae_lambda": 0.9, "learning_rate": 3e-3}
LAKES = replace(PROBLEMS["lakes"], n_tasks=40)
CART_POLES = replace(PROBLEMS["cart-poles"], n_tasks=10, splits=("test",), timesteps=200_000)
SMALL = {"meta_batch_size": 10, "n_envs": 4}
CASES: dict[str, tuple[Problem, dict[str, Any]]] = {
    "lakes": (LAKES, SAME | {"meta_batch_size": 20, "n_envs": 10, "gamma": 0.97, "inner_learning_rate": 5.0}),
    "cart-poles": (CART_POLES, SAME | SMALL | {"gamma": 0.98, "inner_learning_rate": 0.1}),
    "pendulums": (PENDULUMS, SAME | SMALL | {"gamma": 0.95, "inner_learning_rate": 0.1}),
}
"""Problems, and what ProMP is told besides."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training and its measurement.

    Attributes:
        key: of the problem, in `CASES`.
        problem: its settings.
        settings: keywords of ProMP.
        learner: one of `LEARNERS`.
        seed: of everything random, but for the tasks.
    """

    key: str
    problem: Problem
    settings: Mapping[str, Any]
    learner: str
    seed: int

    def path(self, work: Path) -> Path:
        """Where the result is kept; other settings, another file."""
        own = self.settings if self.learner == GRADIENT else {}
        told = json.dumps([asdict(self.problem), dict(own), BUDGETS, EPISODES], sort_keys=True)
        digest = hashlib.sha256(told.encode()).hexdigest()[:8]
        return work / f"{self.key}-{self.learner.replace(' ', '-')}-{self.seed}-{digest}.json"


class OneStep:
    """A gradient meta-learner that takes one step on all episodes of a budget, each in a row of its own."""

    def __init__(self, agent: Any, problem: Problem, seed: int) -> None:
        self._agent, self._length, self._seed = agent, problem.episode_length, seed
        self.observation_space, self.action_space = agent.observation_space, agent.action_space

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """What the learner predicts before adaptation."""
        return self._agent.predict(*args, **kwargs)

    def adapt(self, task: Task, total_timesteps: int) -> Any:
        """The learner adapted to a task; noise hangs on run and task."""
        seed = int(np.random.SeedSequence([self._seed, task.id]).generate_state(1)[0]) >> 1
        return self._agent.adapt(task, 1, n_envs=total_timesteps // self._length, seed=seed)


def make(job: Job) -> Any:
    """A learner, not trained yet."""
    problem = job.problem
    if job.learner != GRADIENT:
        return study.make(study.Job(key=job.key, problem=problem, learner=job.learner, seed=job.seed))
    return ProMP(
        "MlpPolicy", problem.env_id, env_kwargs=dict(problem.env_kwargs), policy_kwargs=dict(problem.policy),
        seed=job.seed, device="cpu", **job.settings,
    )  # fmt: skip


def run(job: Job, work: Path) -> dict[str, Any]:
    """Train, adapt, measure and store; or what was stored."""
    path = job.path(work)
    if path.exists():
        stored: dict[str, Any] = json.loads(path.read_text())
        return stored
    th.set_num_threads(1)
    problem, start = job.problem, time.process_time()
    agent = make(job)
    agent.learn(problem.timesteps)
    trained = time.process_time()
    measured = (OneStep if job.learner == GRADIENT else study.WholeEpisodes)(agent, problem, job.seed)
    # Tasks are given, and not drawn by the seed, because the noise is to differ from run to run.
    curve = evaluate(
        measured, problem.env_id, env_kwargs=problem.env_kwargs, tasks=study.tasks_of(problem, "test"), budgets=BUDGETS,
        seed=job.seed, eval_episodes=EPISODES,
    )  # fmt: skip
    result = {
        "row": job.key, "column": job.learner, "seed": job.seed, "steps": int(agent.num_timesteps),
        "processor_seconds": trained - start, "test": {"scores": curve.scores[0].round(4).tolist()},
        "random": float(curve.random.mean()), "optimal": None if curve.optimal is None else float(curve.optimal.mean()),
    }  # fmt: skip
    work.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(json.dumps(result, indent=2) + "\n")
    return result


def measure(jobs: Sequence[Job], given: Namespace) -> dict[str, Any]:
    """All jobs, each in a process of its own; with `finished`, only those that have ended."""
    if given.finished:
        jobs = [job for job in jobs if job.path(given.work).exists()]
    if not jobs:
        raise SystemExit(f"none of these trainings is finished in {given.work}")
    done: dict[int, dict[str, Any]] = {}
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(run, job, given.work): place for place, job in enumerate(jobs)}
        for future in as_completed(waiting):
            one = done[waiting[future]] = future.result()
            print(f"{one['row']}, {one['column']}, seed {one['seed']}: {shown(one['test'])}", flush=True)
    return {"runs": [done[place] for place in range(len(jobs))]}


def render(result: Mapping[str, Any]) -> str:
    """The table of docs/maml-results.md."""
    heads = " | ".join(f"after {budget}" for budget in BUDGETS)
    lines = [f"| problem | learner | {heads} | seeds | steps | seconds |", "|---" * 9 + "|"]
    for key, (problem, _) in CASES.items():
        rows = [one for one in result["runs"] if one["row"] == key]
        for learner in LEARNERS:
            own = [one for one in rows if one["column"] == learner]
            if own:
                steps, seconds = own[0]["steps"], np.mean([one["processor_seconds"] for one in own])
                lines.append(
                    f"| {problem.title} | {learner} | {interval_cells(own, problem.digits)} | {len(own)} "
                    f"| {steps:,} | {seconds:.0f} |"
                )
        if rows:
            lines.append(f"| {problem.title} | {_limits(rows[0], problem.digits)} |" + " |" * 7)
    return "\n".join(
        [
            *lines,
            "",
            "Mean return of sampled actions on held-out tasks [95 % CI over seeds] after so many episodes of the task, "
            "final weights. Steps and seconds of processor time are those of one meta-training.",
        ]
    )


def _limits(one: Mapping[str, Any], digits: int) -> str:
    random = f"random {one['random']:.{digits}f}"
    return random if one["optimal"] is None else f"{random}, optimum {one['optimal']:.{digits}f}"


def main() -> None:
    """Measure, print and write."""
    arguments = parser(__doc__, "maml_study")
    arguments.add_argument("--problems", nargs="+", default=list(CASES), choices=list(CASES))
    arguments.add_argument("--learners", nargs="+", default=list(LEARNERS), choices=list(LEARNERS))
    arguments.add_argument("--seeds", type=int, default=5, help="trainings of each learner")
    arguments.add_argument("--first-seed", type=int, default=1)
    arguments.add_argument("--workers", type=int, default=2, help="trainings at a time")
    arguments.add_argument("--work", type=Path, default=WORK / "maml_study", help="results of single trainings")
    arguments.add_argument("--finished", action="store_true", help="train nothing: show what --work holds")
    given = arguments.parse_args()
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    jobs = [
        Job(key=key, problem=CASES[key][0], settings=CASES[key][1], learner=learner, seed=seed)
        for key in given.problems for learner in given.learners for seed in seeds
    ]  # fmt: skip
    store(measure(jobs, given), given.out, render)


if __name__ == "__main__":
    main()
