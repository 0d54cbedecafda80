"""MAML's 2-D navigation: return after 0, 1, 2 and 3 gradient steps on held-out goals, several seeds.

    python -m benchmarks.maml_points        # prints the table and writes docs/results/maml_points.json

The problem is `MetaPointGoal-v0`, variant "maml": goals in a square of 1 m, 100 steps of at most 0.1 m along each axis,
rewards of minus the distance. Networks, tasks, episodes and iterations are those of the papers; every step of a test
plays 40 episodes. Finished trainings are kept in ``--work``: an interrupted command goes on where it was.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from benchmarks.maml_runs import Training, interval_cells, measure, stepwise
from benchmarks.stored import parser, store
from benchmarks.trainings import add_options, by_agent, minutes, trainings_of
from metagym import TaskDistribution, make_family
from metagym.algos import EMAML, FOMAML, MAML, MetaSGD, ProMP

ENV_ID = "MetaPointGoal-v0"
BUDGETS = (0, 1, 2, 3)
ROWS = 40
"""Episodes a step, and a score, in tests."""
NETWORK: dict[str, Any] = {"net_arch": [100, 100], "activation_fn": th.nn.ReLU}
SETTINGS: dict[str, Any] = {
    "policy_kwargs": NETWORK,
    "inner_learning_rate": (0.1, 0.05),
    "meta_batch_size": 20,
    "n_envs": 20,
    "device": "cpu",
}
TRUST_REGION = {"target_kl": 0.01, "sub_sampling_factor": 10}
CLIPPED: dict[str, Any] = {
    "policy_kwargs": {**NETWORK, "log_std_init": -3.0},
    "gae_lambda": 0.9,
    "learning_rate": 2e-3,
    "inner_objective": "likelihood_ratio",
    "outer": "ppo",
    "clip_range": 0.3,
    "n_epochs": 5,
}
"""Tuned on other seeds than those shown; the learning rate falls to zero."""
METHODS: dict[str, tuple[type[Any], dict[str, Any], int]] = {
    "MAML": (MAML, TRUST_REGION, 100),
    "ProMP, tuned": (ProMP, CLIPPED, 40),
    "ProMP, tuned, two inner steps": (ProMP, CLIPPED | {"n_inner_steps": 2}, 25),
    "Meta-SGD, tuned": (MetaSGD, CLIPPED, 40),
    "MAML, low-variance curvature": (MAML, TRUST_REGION | {"inner_objective": "likelihood_ratio"}, 100),
    "FOMAML": (FOMAML, TRUST_REGION, 100),
    "E-MAML": (EMAML, TRUST_REGION, 100),
}
"""Classes, what they are told besides `SETTINGS`, and iterations."""
PUBLISHED = {
    "MAML (Finn et al. 2017, table 4)": ["-40.41", "-11.68", "-3.33", "-3.23"],
    "MAML (Li et al. 2017)": ["", "-9.12 +- 0.66", "", ""],
    "Meta-SGD (Li et al. 2017)": ["", "-8.64 +- 0.68", "", ""],
}


def test(agent: Any, seed: int, num_tasks: int) -> dict[str, Any]:
    """Mean returns on each task after each number of steps, (tasks, 4); tasks are the same for every training."""
    tasks = TaskDistribution(make_family(ENV_ID)).part("test").sample(np.random.default_rng(0), num_tasks)
    return {"scores": stepwise(agent, tasks, BUDGETS[-1], ROWS, seed)}


def training(method: str, seed: int, *, tasks: int, work: Path, iterations: int | None = None) -> Training:
    """One training of a method, of its own number of iterations unless that is given."""
    kind, own, length = METHODS[method]
    return Training(
        row="points", column=method, seed=seed, iterations=iterations or length, env_id=ENV_ID, kind=kind,
        keywords={**SETTINGS, **own}, annealed="learning_rate" in own, test=test, tasks=tasks, work=work,
    )  # fmt: skip


def optimum() -> float:
    """Mean return of knowing the goal."""
    family = make_family(ENV_ID)
    goals = np.random.default_rng(0).uniform(-0.5, 0.5, (10_000, 2))
    return float(family.optimal_return(family.params_type(goal=goals)).mean())


def render(result: dict[str, Any]) -> str:
    """The table of docs/maml-results.md."""
    heads = " | ".join(f"after {budget} steps" if budget != 1 else "after 1 step" for budget in BUDGETS)
    lines = [
        f"| learner | {heads} | worst seed, 1 step | seeds | iterations | environment steps | minutes |",
        "|---" * 10 + "|",
    ]
    for (_, name), own in by_agent(result["runs"]).items():
        worst = min(np.mean(one["test"]["scores"], axis=0)[1] for one in own)
        steps = f"{np.mean([one['steps'] for one in own]) / 1e6:.1f}M"
        rest = f"{worst:.2f} | {len(own)} | {own[0]['iterations']} | {steps} | {minutes(own)} |"
        lines.append(f"| {name} | {interval_cells(own)} | {rest}")
    lines += [f"| published: {name} | {' | '.join(cells)} | | | | | |" for name, cells in PUBLISHED.items()]
    lines.append(f"| optimum (goal known) | {' | '.join([format(result['optimal'], '.2f')] * 4)} | | | | | |")
    return "\n".join([*lines, "", caption(result)])


def caption(result: dict[str, Any]) -> str:
    """What stands below the table."""
    return (
        f"Mean return on {result['tasks']} held-out goals [95 % CI over seeds], final weights. An "
        f"iteration plays 20 episodes of 20 tasks before and after each inner step; tests play {ROWS} a step, with "
        "sampled actions. Minutes of processor time of a training."
    )


def main() -> None:
    """Measure, print and write."""
    arguments = parser(__doc__, "maml_points")
    arguments.add_argument("--methods", nargs="+", default=list(METHODS)[:3], choices=list(METHODS))
    arguments.add_argument("--iterations", type=int, help="of every method, in place of its own")
    add_options(arguments, "maml_points")
    arguments.set_defaults(tasks=200)
    given = arguments.parse_args()
    trainings = trainings_of(given, partial(training, iterations=given.iterations), "methods")
    store(measure(trainings, given) | {"optimal": optimum()}, given.out, render)


if __name__ == "__main__":
    main()
