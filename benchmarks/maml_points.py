"""MAML's 2-D navigation: return after 0, 1, 2 and 3 gradient steps on held-out goals, several seeds.

    python -m benchmarks.maml_points        # prints the table and writes docs/results/maml_points.json

The problem is `MetaPointGoal-v0`, variant "maml": goals in a square of 1 m, 100 steps of at most 0.1 m along each axis,
rewards of minus the distance. Networks, inner step sizes, trust region and number of iterations are those of the
papers; every step of a test plays 40 episodes, and a score is the mean of 40 other ones.
"""

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.stored import parser, store
from metagym import make_family
from metagym.algos import EMAML, FOMAML, MAML, MetaSGD, ProMP
from metagym.evaluation import evaluate
from metagym.statistics import mean, stratified_bootstrap_ci

ENV_ID = "MetaPointGoal-v0"
BUDGETS = (0, 1, 2, 3)
ROWS = 40
"""Episodes a step, and episodes a score, in tests."""
SETTINGS: dict[str, Any] = {
    "policy_kwargs": {"net_arch": [100, 100], "activation_fn": th.nn.ReLU},
    "inner_learning_rate": (0.1, 0.05),
    "meta_batch_size": 20,
    "n_envs": 20,
    "device": "cpu",
}
TRUST_REGION = {"target_kl": 0.01, "sub_sampling_factor": 5}
METHODS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "MAML": (MAML, TRUST_REGION),
    "MAML, low-variance curvature": (MAML, TRUST_REGION | {"inner_objective": "likelihood_ratio"}),
    "FOMAML": (FOMAML, TRUST_REGION),
    "E-MAML": (EMAML, TRUST_REGION),
    "Meta-SGD": (MetaSGD, TRUST_REGION | {"inner_objective": "likelihood_ratio"}),
    "ProMP": (ProMP, {}),
}
PUBLISHED = {
    "MAML (Finn et al. 2017, table 4)": ["-40.41", "-11.68", "-3.33", "-3.23"],
    "MAML (Li et al. 2017)": ["", "-9.12 +- 0.66", "", ""],
    "Meta-SGD (Li et al. 2017)": ["", "-8.64 +- 0.68", "", ""],
}


class Iterations(BaseCallback):
    """Ends training after so many iterations, whatever number of steps they took."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def _on_step(self) -> bool:
        return self.n_calls < self._number


class Patient:
    """A learner whose every step of an adaptation plays as many episodes as the papers' tests."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent
        self.observation_space, self.action_space = agent.observation_space, agent.action_space

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """What the learner predicts, before adaptation."""
        return self._agent.predict(*args, **kwargs)

    def adapt(self, task: Any, n_steps: int) -> BaseAlgorithm:
        """What the learner makes of a task."""
        adapted: BaseAlgorithm = self._agent.adapt(task, n_steps=n_steps, n_envs=ROWS)
        return adapted


def run(job: tuple[str, int, int, int]) -> tuple[list[list[float]], float, int]:
    """Mean returns on each task after each number of steps, (K, 4), seconds of processor time, and training steps."""
    method, seed, iterations, num_tasks = job
    th.set_num_threads(1)
    kind, own = METHODS[method]
    start = time.process_time()
    agent = kind("MlpPolicy", ENV_ID, seed=seed, **SETTINGS, **own)
    agent.learn(10**9, callback=Iterations(iterations), log_interval=None)
    seconds = time.process_time() - start
    curve = evaluate(Patient(agent), ENV_ID, n_tasks=num_tasks, budgets=BUDGETS, eval_episodes=ROWS, seed=1000 + seed)
    return curve.scores[0].tolist(), seconds, agent.num_timesteps


def measure(methods: list[str], seeds: list[int], iterations: int, num_tasks: int, workers: int) -> dict[str, Any]:
    """Train and test everything the page shows."""
    jobs = [(method, seed, iterations, num_tasks) for method in methods for seed in seeds]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        done = list(pool.map(run, jobs))
    rows = {}
    for place, method in enumerate(methods):
        own = done[place * len(seeds) : (place + 1) * len(seeds)]
        scores = np.array([scores for scores, _, _ in own])
        low, high = stratified_bootstrap_ci(scores, mean)
        rows[method] = {
            "mean": scores.mean(axis=(0, 1)).tolist(), "low": low.tolist(), "high": high.tolist(),
            "worst": scores.mean(axis=1).min(axis=0).tolist(), "steps": float(np.mean([steps for *_, steps in own])),
            "minutes": float(np.mean([seconds for _, seconds, _ in own])) / 60,
        }  # fmt: skip
    family = make_family(ENV_ID)
    goals = np.random.default_rng(0).uniform(-0.5, 0.5, (10_000, 2))
    optimal = family.optimal_return(family.params_type(goal=goals))
    return {
        "methods": rows, "seeds": seeds, "iterations": iterations, "tasks": num_tasks, "optimal": float(optimal.mean())
    }  # fmt: skip


def render(result: dict[str, Any]) -> str:
    """The table of docs/results.md."""
    heads = " | ".join(f"after {budget} steps" if budget != 1 else "after 1 step" for budget in BUDGETS)
    lines = [f"| learner | {heads} | worst seed, 1 step | environment steps | minutes |", "|---" * 8 + "|"]
    for name, own in result["methods"].items():
        cells = [f"{own['mean'][k]:.2f} [{own['low'][k]:.2f}, {own['high'][k]:.2f}]" for k in range(len(BUDGETS))]
        rest = f"{own['worst'][1]:.2f} | {own['steps']:,.0f} | {own['minutes']:.1f}"
        lines.append(f"| {name} | {' | '.join(cells)} | {rest} |")
    lines += [f"| published: {name} | {' | '.join(cells)} | | | |" for name, cells in PUBLISHED.items()]
    lines.append(f"| optimum (goal known) | {' | '.join([format(result['optimal'], '.2f')] * 4)} | | | |")
    lines += [
        "",
        f"Mean return on {result['tasks']} held-out goals over {len(result['seeds'])} seeds [95 % CI over seeds], "
        f"final weights after {result['iterations']} iterations of 20 tasks with 20 episodes before and 20 after one "
        f"step; in tests {ROWS} episodes a step, steps of 0.1 first and 0.05 then, sampled actions. Minutes of "
        "processor time.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    arguments = parser(__doc__, "maml_points")
    arguments.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--first-seed", type=int, default=1)
    arguments.add_argument("--iterations", type=int, default=100)
    arguments.add_argument("--tasks", type=int, default=100)
    arguments.add_argument("--workers", type=int, default=2)
    options = arguments.parse_args()
    seeds = list(range(options.first_seed, options.first_seed + options.seeds))
    store(measure(options.methods, seeds, options.iterations, options.tasks, options.workers), options.out, render)


if __name__ == "__main__":
    main()
