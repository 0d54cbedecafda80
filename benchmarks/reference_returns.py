"""What random, optimal and Bayes-optimal agents earn in every family: the numbers that scores lie between.

    python -m benchmarks.reference_returns   # prints the table and writes docs/results/reference_returns.json

Returns are undiscounted. Random and optimal ones are those of one episode, computed by the family and averaged over
tasks drawn from the whole training region (no split). The optimum knows the task. The Bayes-optimal agent knows the
distribution only and maximises the return of its trial; its return is given for the first and the last episode.
"""

from typing import Any

import numpy as np

from benchmarks.stored import parser, store
from metagym import TaskDistribution
from metagym.registry import family_ids, make_family

EPISODES = {
    "MetaBandit-v0": 10,
    "MetaGridNavi-v0": 4,
    "MetaTwoStep-v0": 100,
    "MetaHarlow-v0": 6,
}


def mean_and_error(values: Any) -> list[float] | None:
    """Mean and its standard error over tasks; None where the family computes none."""
    if values is None:
        return None
    array = np.asarray(values, dtype=np.float64)
    return [float(array.mean()), float(array.std(ddof=1) / np.sqrt(len(array)))]


def measure_one(env_id: str, num_tasks: int) -> dict[str, Any]:
    """Reference returns of one id."""
    family = make_family(env_id)
    keys = np.random.default_rng(0).integers(0, 2**64, num_tasks, np.uint64)
    params, _ = TaskDistribution(family).draw(keys)
    episodes = EPISODES.get(env_id)
    bayes = None if episodes is None else family.bayes_return(episodes)
    return {
        "steps": family.episode_length,
        "random": mean_and_error(family.random_return(params)),
        "optimal": mean_and_error(family.optimal_return(params)),
        "episodes": episodes,
        "bayes": None if bayes is None else [float(bayes[0]), float(bayes[-1]), float(np.sum(bayes))],
    }


def measure(num_tasks: int) -> dict[str, Any]:
    """Reference returns of all ids."""
    found = {}
    for env_id in family_ids():
        found[env_id] = measure_one(env_id, num_tasks)
        print(env_id, found[env_id], flush=True)
    return {"families": found, "num_tasks": num_tasks}


def _cell(value: list[float] | None) -> str:
    if value is None:
        return "-"
    mean, error = value
    return f"{mean:.3f}" if error < 5e-4 else f"{mean:.3f} ± {error:.3f}"


def render(result: dict[str, Any]) -> str:
    """The table of docs/families/index.md."""
    lines = [
        "| id | steps | random | optimal, task known | Bayes-optimal: first, last episode; trial |",
        "|---|---|---|---|---|",
    ]
    for env_id, row in result["families"].items():
        bayes = "-"
        if row["bayes"] is not None:
            first, last, total = row["bayes"]
            bayes = f"{first:.3f}, {last:.3f}; {total:.3f} over {row['episodes']} episodes"
        lines.append(f"| {env_id} | {row['steps']} | {_cell(row['random'])} | {_cell(row['optimal'])} | {bayes} |")
    lines += ["", f"Means over {result['num_tasks']:,} tasks ± standard error where it shows; - : not computable."]
    return "\n".join(lines)


def main() -> None:
    """Compute, print and write."""
    arguments = parser(__doc__, "reference_returns")
    arguments.add_argument("--tasks", type=int, default=1000)
    options = arguments.parse_args()
    store(measure(options.tasks), options.out, render)


if __name__ == "__main__":
    main()
