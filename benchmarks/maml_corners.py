"""ProMP's four corners with a sparse reward: which meta-gradients learn to search before they adapt.

    python -m benchmarks.maml_corners        # prints the table and writes docs/results/maml_corners.json

The problem is `MetaPointCorner-v0`: the goal is one of four corners, and progress is paid only in the goal's own
quarter of the plane, so that a step of the policy gradient finds the way only where the first policy has been. All
learners take the same clipped outer steps and differ in their meta-gradient alone. As in the paper, training and test
meet all four corners.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.maml_runs import Training, interval_cells, measure, stepwise
from benchmarks.stored import parser, store
from benchmarks.trainings import add_options, by_agent, minutes, trainings_of
from metagym import TaskDistribution, make_family
from metagym.algos import EMAML, MAML, ProMP

ENV_ID = "MetaPointCorner-v0"
BUDGETS = (0, 1, 2, 3)
STRAIGHT = 2.62
"""Return of walking straight to the goal and staying there, averaged over starts."""
EPISODES = 20
"""Episodes a step, and a score, in tests."""
SETTINGS: dict[str, Any] = {
    "policy_kwargs": {"net_arch": [64, 64]},
    "inner_learning_rate": (0.3, 0.1),
    "meta_batch_size": 20,
    "n_envs": 20,
    "split": None,
    "device": "cpu",
}
CLIPPED: dict[str, Any] = {
    "gae_lambda": 0.9,
    "learning_rate": 3e-3,
    "outer": "ppo",
    "clip_range": 0.3,
    "n_epochs": 5,
}
"""Of every learner; the learning rate falls to zero."""
METHODS: dict[str, type[Any]] = {"MAML": MAML, "E-MAML": EMAML, "ProMP": ProMP}
PUBLISHED = {"MAML": "fails", "E-MAML": "close", "ProMP": "solves"}
"""As read off the figures, which show the low-variance curvature by itself in ProMP's place."""


def test(agent: Any, seed: int, num_tasks: int) -> dict[str, Any]:
    """Mean returns after each number of steps, (tasks, 4): the corners in turn, each time with noise of its own."""
    family = make_family(ENV_ID)
    goals = family.enumerate_structures()[0]["goal"]
    whole = TaskDistribution(family)
    tasks = [whole.coerce({"goal": goals[place % len(goals)]}) for place in range(num_tasks)]
    return {"scores": stepwise(agent, tasks, BUDGETS[-1], EPISODES, seed)}


def training(method: str, seed: int, *, iterations: int, tasks: int, work: Path) -> Training:
    """One training of a method."""
    return Training(
        row="corners", column=method, seed=seed, iterations=iterations, env_id=ENV_ID,
        kind=METHODS[method], keywords={**SETTINGS, **CLIPPED}, annealed=True, test=test, tasks=tasks, work=work,
    )  # fmt: skip


def render(result: dict[str, Any]) -> str:
    """The table of docs/maml-results.md."""
    heads = " | ".join(f"after {budget} steps" if budget != 1 else "after 1 step" for budget in BUDGETS)
    lines = [
        f"| learner | published | {heads} | % of walking straight, 1 step | worst seed | seeds | minutes |",
        "|---" * 10 + "|",
    ]
    for (_, name), own in by_agent(result["runs"]).items():
        means = [np.mean(one["test"]["scores"], axis=0)[1] for one in own]
        share = f"{100 * np.mean(means) / STRAIGHT:.0f}"
        rest = f"{share} | {min(means):.2f} | {len(own)} | {minutes(own)}"
        lines.append(f"| {name} | {PUBLISHED[name]} | {interval_cells(own)} | {rest} |")
    return "\n".join(
        [
            *lines,
            "",
            f"Mean return of sampled actions on all four corners [95 % CI over seeds], final weights after "
            f"{result['iterations']} iterations of 20 tasks with 20 episodes before and 20 after one step. Walking "
            f"straight to the goal pays {STRAIGHT:.2f}; the optimum of 15.30 collects the same progress again and "
            "again. Published are curves only. Minutes of processor time of a training.",
        ]
    )


def main() -> None:
    """Measure, print and write."""
    arguments = parser(__doc__, "maml_corners")
    arguments.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    arguments.add_argument("--iterations", type=int, default=60)
    add_options(arguments, "maml_corners")
    arguments.set_defaults(tasks=40)
    given = arguments.parse_args()
    trainings = trainings_of(given, partial(training, iterations=given.iterations), "methods")
    store(measure(trainings, given) | {"iterations": given.iterations}, given.out, render)


if __name__ == "__main__":
    main()
