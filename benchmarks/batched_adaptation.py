"""What adapting many tasks at once saves, and how far its result is from that of one task after the other.

    python -m benchmarks.batched_adaptation      # prints the table and writes docs/results/batched_adaptation.json

The runs of one iteration of Reptile, from the same parameters with the same seeds, one after the other and all at
once, in turns. Differences are those of the runs that were timed.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch as th

from benchmarks.stored import parser, store
from metagym.algos import Reptile
from metagym.algos.batched_run import BatchedRuns
from metagym.algos.reptile_env import draw_tasks
from metagym.algos.reptile_run import Finish, Job, Runs, Start, derived_seed
from metagym.learner_state import LearnerState

STEPS, ROWS = 1024, 8
ENVS = {"discrete": "MetaFrozenLake-v0", "continuous": "MetaPointGoal-v0"}


def timed(play: Callable[[], list[Finish]]) -> tuple[list[Finish], float, float]:
    """What a player returns, seconds, and seconds of processor time."""
    wall, cpu = time.perf_counter(), time.process_time()
    finishes = play()
    return finishes, time.perf_counter() - wall, time.process_time() - cpu


def apart(alone: list[Finish], together: list[Finish], theta: LearnerState) -> dict[str, Any]:
    """Largest difference of a parameter, largest way of one during a run, and tasks whose episodes are the same."""
    names = theta.tensors.keys()
    pairs = [(one.phi.tensors[name], other.phi.tensors[name]) for one, other in zip(alone, together, strict=True)
             for name in names]  # fmt: skip
    ways = [one.phi.tensors[name] - theta.tensors[name] for one in alone for name in names]
    same = [one.num_episodes == other.num_episodes and _close(one.last, other.last)
            for one, other in zip(alone, together, strict=True)]  # fmt: skip
    return {
        "difference": max(float((one - other).abs().max()) for one, other in pairs),
        "way": max(float(way.abs().max()) for way in ways),
        "same_episodes": sum(same),
    }


def _close(one: list[float], other: list[float]) -> bool:
    return len(one) == len(other) and all(abs(a - b) <= 1e-4 * abs(a) for a, b in zip(one, other, strict=True))


def compare(learner: str, kind: str, num_tasks: int, rounds: int) -> dict[str, Any]:
    """Seconds of an iteration's runs, one after the other and at once, and how far apart they end."""
    agent = Reptile(
        "MlpPolicy", ENVS[kind], learner_class=learner, inner_timesteps=STEPS, meta_batch_size=num_tasks, n_envs=ROWS,
        seed=0, device="cpu",
    )  # fmt: skip
    assert agent.env is not None
    start = Start(LearnerState.capture(agent.learner), [], "fresh", STEPS)
    jobs = [Job(index, task, derived_seed(0, index)) for index, task in enumerate(draw_tasks(agent.env, num_tasks))]
    runs, batched = Runs(agent.learner, agent.env, ()), BatchedRuns(agent.learner, agent.env, ())
    list(runs.play(start, jobs[:1]))
    list(batched.play(start, jobs))
    seconds: dict[str, list[float]] = {"alone": [], "together": [], "alone_cpu": [], "together_cpu": []}
    alone: list[Finish] = []
    together: list[Finish] = []
    for _ in range(rounds):
        alone, *spent = timed(lambda: list(runs.play(start, jobs)))
        seconds["alone"].append(spent[0])
        seconds["alone_cpu"].append(spent[1])
        together, *spent = timed(lambda: list(batched.play(start, jobs)))
        seconds["together"].append(spent[0])
        seconds["together_cpu"].append(spent[1])
    return {
        "learner": learner, "actions": kind, "tasks": num_tasks,
        **{key: median(values) for key, values in seconds.items()}, **apart(alone, together, start.theta),
    }  # fmt: skip


def measure(learners: list[str], tasks: list[int], rounds: int) -> dict[str, Any]:
    """Everything that the page shows."""
    rows = [
        compare(learner, kind, num_tasks, rounds if num_tasks <= 16 else 1)
        for learner in learners for kind in ENVS for num_tasks in tasks
    ]  # fmt: skip
    return {"rows": rows, "steps": STEPS, "envs": ROWS, "rounds": rounds}


def render(result: dict[str, Any]) -> str:
    """The table of the docs."""
    lines = [
        "| learner | actions | tasks | one by one, s | at once, s | wall-clock | processor time | largest difference | "
        "same episodes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        ratio, cpu = row["alone"] / row["together"], row["alone_cpu"] / row["together_cpu"]
        lines.append(
            f"| {row['learner']} | {row['actions']} | {row['tasks']} | {row['alone']:.2f} | {row['together']:.2f} | "
            f"{ratio:.1f}x | {cpu:.1f}x | {row['difference']:.0e} of {row['way']:.1g} | "
            f"{row['same_episodes']} of {row['tasks']} |"
        )
    lines += [
        "",
        f"Medians of {result['rounds']} rounds in turns, with more than 16 tasks one round; {result['steps']:,} "
        f"environment steps a task in {result['envs']} rows, SB3's MlpPolicy, one thread. Differences are those of "
        "parameters at the end of the runs that were timed, beside the longest way that a parameter went in them. "
        "Episodes are the same where as many ended and the last returns agree to four digits.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    arguments = parser(__doc__, "batched_adaptation")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--learners", nargs="+", choices=["PPO", "A2C"], default=["PPO", "A2C"])
    arguments.add_argument("--tasks", type=int, nargs="+", default=[4, 16, 64])
    options = arguments.parse_args()
    th.set_num_threads(1)
    store(measure(options.learners, options.tasks, options.rounds), options.out, render)


if __name__ == "__main__":
    main()
