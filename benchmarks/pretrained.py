"""Trains the agents that ship with metagym, measures them and writes them into the package.

    python -m benchmarks.pretrained            # seed 0 of each cell; runs that `benchmarks.rl2_bandits` kept are taken

An agent is the final weights of one training, whatever it scored. The package holds what predicts and learns on.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.rl2_bandits import WORK, training
from benchmarks.rl2_runs import Training
from benchmarks.rl2_settings import CELLS
from benchmarks.stored import parser, store
from benchmarks.trainings import run
from metagym.files import replacing
from metagym.saving import read_archive, write_archive

PACKAGE = Path(__file__).resolve().parents[1] / "metagym" / "pretrained"
COLUMN = "exchangeable, expected regret"
SEED = 0


def entry_of(one: Training, result: dict[str, Any]) -> dict[str, Any]:
    """What the index says of an agent."""
    return {
        "env_id": one.env_id, "env_kwargs": one.keywords["env_kwargs"],
        "episodes_per_trial": one.keywords["episodes_per_trial"],
        "command": f"python -m benchmarks.pretrained --cells {one.row}", "seed": one.seed, "steps": result["steps"],
        "score": result["test"]["score"], "error": result["test"]["score_error"], "limit": CELLS[one.row].limit,
        "tasks": one.tasks,
    }  # fmt: skip


def write(trainings: Sequence[Training], results: Sequence[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Copy the checkpoints, without the trials that were being played; returns the index with them."""
    index = folder / "index.json"
    entries = json.loads(index.read_text(encoding="utf-8")) if index.exists() else {}
    for one, result in zip(trainings, results, strict=True):
        with replacing(folder / f"{one.row}.zip") as partial:
            meta, arrays = read_archive(one.work / result["checkpoint"])
            kept = {name: array for name, array in arrays.items() if not name.startswith(("env/", "rollout/"))}
            write_archive(partial, meta=meta, arrays=kept)
        entries[one.row] = entry_of(one, result)
    with replacing(index) as partial:
        partial.write_text(json.dumps(dict(sorted(entries.items())), indent=2) + "\n", encoding="utf-8")
    return dict(sorted(entries.items()))


def render(index: dict[str, Any]) -> str:
    """The table of docs/learners.md."""
    lines = ["| name | steps | return of a trial | limit | % of the limit |", "|---" * 5 + "|"]
    for name in (name for name in CELLS if name in index):
        one = index[name]
        digits = 3 if one["episodes_per_trial"] == 10 else 2
        lines.append(
            f"| `{name}` | {one['steps'] / 1e6:.1f}M | {one['score']:.{digits}f} ± {1.96 * one['error']:.{digits}f} "
            f"| {one['limit']:.{digits}f} | {one['score'] / one['limit']:.2%} |"
        )
    tasks = max(one["tasks"] for one in index.values())
    lines += [
        "",
        f"One training each, seed {SEED}, whatever it scored; final weights, sampled actions, {tasks:,} held-out "
        "tasks, ± 95 % CI over tasks. The limit is the Bayes optimum, from 100 pulls on that of Gittins indices; means "
        "of that many tasks lie around it.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Train, measure, write and print."""
    arguments = parser(__doc__, "pretrained")
    arguments.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS)[:6])
    arguments.add_argument("--tasks", type=int, default=10_000)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--work", type=Path, default=WORK)
    arguments.add_argument("--package", type=Path, default=PACKAGE)
    given = arguments.parse_args()
    trainings = [training(cell, COLUMN, SEED, tasks=given.tasks, work=given.work) for cell in given.cells]
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        results = list(pool.map(run, trainings))
    given.package.mkdir(parents=True, exist_ok=True)
    store(write(trainings, results, given.package), given.out, render)


if __name__ == "__main__":
    main()
