"""The pilot of `benchmarks.study`: three settings of every learner, on training tasks and a seed of its own.

    python -m benchmarks.study_pilot        # prints the table and writes docs/results/study_pilot.json

The three learners that adapt with the same PPO are tried with three step sizes of it; RL² with three settings of its
own. What is compared is the mean return over all budgets.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.stored import parser, store
from benchmarks.study import WORK, Job, run_all
from benchmarks.study_settings import INNER_RATES, LEARNERS, MEMORY, MEMORY_TRIALS, PROBLEMS, Problem

SEED = 1000
TIMESTEPS = {"lakes": 60_000, "cart-poles": 24_000, "points": 40_000}
N_TASKS = 3
MEMORY_TASKS = 30  # whose trials are cheap


def named(settings: dict[str, Any]) -> str:
    """Settings as a table shows them."""
    return ", ".join(f"{key} {value:g}" for key, value in settings.items())


def trials(problem: Problem, learner: str) -> dict[str, Problem]:
    """The problem with each of the settings tried."""
    if learner == MEMORY:
        problem = replace(problem, n_tasks=MEMORY_TASKS)
        return {named(dict(one)): replace(problem, rl2={**problem.rl2, **one}) for one in MEMORY_TRIALS}
    tried = ({"learning_rate": rate} for rate in INNER_RATES)
    return {named(one): replace(problem, inner={**problem.inner, **one}) for one in tried}


def measure(work: Path, workers: int, scale: float) -> dict[str, Any]:
    """Train and measure all of them."""
    names, jobs = [], []
    for key, problem in PROBLEMS.items():
        short = replace(problem, timesteps=max(1, round(TIMESTEPS[key] * scale)), n_tasks=N_TASKS, splits=("train",))
        for learner in LEARNERS:
            for name, tried in trials(short, learner).items():
                names.append((key, learner, name))
                jobs.append(Job(key=key, problem=tried, learner=learner, seed=SEED))
    rows = [
        {
            "key": key,
            "title": PROBLEMS[key].title,
            "learner": learner,
            "settings": name,
            "timesteps": TIMESTEPS[key] * scale,
            "means": np.mean(done["tests"]["train"]["scores"], axis=0).tolist(),
        }
        for (key, learner, name), done in zip(names, run_all(jobs, work, workers), strict=True)
    ]
    return {"rows": rows, "seed": SEED, "tasks": N_TASKS, "memory_tasks": MEMORY_TASKS}


def render(result: dict[str, Any]) -> str:
    """The table of docs/study.md."""
    lines = [
        "| problem | learner | settings | training steps | after 0, 1, 2, 5, 10 episodes | mean |",
        "|---" * 6 + "|",
    ]
    for row in result["rows"]:
        digits = PROBLEMS[row["key"]].digits
        means = ", ".join(f"{value:.{digits}f}" for value in row["means"])
        steps = "0" if row["learner"] == "from scratch" else f"{row['timesteps']:,.0f}"
        average = f"{np.mean(row['means']):.{digits}f}"
        lines.append(f"| {row['title']} | {row['learner']} | {row['settings']} | {steps} | {means} | {average} |")
    lines += [
        "",
        f"One seed ({result['seed']}), {result['tasks']} training tasks, {result['memory_tasks']} for RL².",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    arguments = parser(__doc__, "study_pilot")
    arguments.add_argument("--jobs", type=int, default=2, help="processes")
    arguments.add_argument("--scale", type=float, default=1.0, help="multiplies the training steps")
    arguments.add_argument("--work", type=Path, default=WORK.with_name("study_pilot"), help="for finished runs")
    options = arguments.parse_args()
    store(measure(options.work, options.jobs, options.scale), options.out, render)


if __name__ == "__main__":
    main()
