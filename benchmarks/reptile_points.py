"""Reptile on 2-D navigation beside joint training and learning from scratch, several seeds.

    python -m benchmarks.reptile_points        # prints the table and writes docs/results/reptile_points.json

Every method ends in the same thing: SB3's PPO adapted to one held-out goal with a budget of steps, from an
initialisation that is Reptile's (at two outer step sizes), that of a PPO trained across all training goals (joint
training), or PPO's own (from scratch). Training steps are the same for all that train.
"""

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

from benchmarks.stored import parser, store
from metagym import TaskDistribution, make_family
from metagym.algos import Reptile
from metagym.evaluation import evaluate
from metagym.statistics import mean, stratified_bootstrap_ci
from metagym.wrappers import VectorEnvAdapter

ENV_ID = "MetaPointGoal-v0"
N_ENVS = 16
BUDGETS = (0, 3200, 9600)
OUTER = {"inner_timesteps": 3200, "meta_batch_size": 8, "n_envs": N_ENVS}
INNER = {"n_steps": 100, "batch_size": 400, "n_epochs": 4, "learning_rate": 1e-3}
METHODS = ("Reptile, outer step 0.1", "Reptile, outer step 1.0", "joint training", "from scratch")


def learner(method: str, seed: int, timesteps: int) -> Reptile:
    """An initialisation, trained, that `adapt` fine-tunes."""
    if method.startswith("Reptile"):
        rate = float(method.rpartition(" ")[2])
        agent = Reptile("MlpPolicy", ENV_ID, learner_kwargs=INNER, learning_rate=rate, seed=seed, **OUTER)
        return agent.learn(timesteps)
    if method == "from scratch":
        return Reptile("MlpPolicy", ENV_ID, learner_kwargs=INNER, seed=seed, **OUTER)
    venv = gym.make_vec(ENV_ID, num_envs=N_ENVS, autoreset_mode=AutoresetMode.SAME_STEP)
    joint = PPO("MlpPolicy", VecMonitor(VectorEnvAdapter(venv)), seed=seed, device="cpu", **INNER)
    return Reptile.from_learner(joint.learn(timesteps), inner_timesteps=OUTER["inner_timesteps"])


def run(job: tuple[str, int, int, int]) -> tuple[list[list[float]], float]:
    """Mean returns on each task after each budget, (K, budgets), and seconds of processor time in training."""
    method, seed, timesteps, num_tasks = job
    th.set_num_threads(1)
    start = time.process_time()
    agent = learner(method, seed, timesteps)
    seconds = time.process_time() - start
    distribution = TaskDistribution(make_family(ENV_ID)).split("test")
    rows = []
    for place, task in enumerate(distribution.sample(np.random.default_rng(0), num_tasks)):
        row = []
        for budget in BUDGETS:
            adapted = agent.adapt(task, total_timesteps=budget, seed=1000 * seed + place) if budget else agent
            curve = evaluate([_Fixed(adapted)], ENV_ID, tasks=[task], episodes=10, seed=place)
            row.append(float(curve.scores.mean()))
        rows.append(row)
    return rows, seconds


class _Fixed:
    """A policy without `adapt`, so that it is measured as it is."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.observation_space, self.action_space = model.observation_space, model.action_space

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """What the model predicts."""
        actions, after = self._model.predict(observation, state, episode_start, deterministic)
        return actions, after


def measure(num_seeds: int, num_tasks: int, timesteps: int, workers: int) -> dict[str, Any]:
    """Train, adapt and evaluate everything the page shows."""
    jobs = [(method, seed, timesteps, num_tasks) for method in METHODS for seed in range(num_seeds)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        done = list(pool.map(run, jobs))
    family = make_family(ENV_ID)
    tasks = TaskDistribution(family).split("test").sample(np.random.default_rng(0), num_tasks)
    methods = {}
    for place, method in enumerate(METHODS):
        own = done[place * num_seeds : (place + 1) * num_seeds]
        scores = np.array([rows for rows, _ in own])
        low, high = stratified_bootstrap_ci(scores, mean)
        methods[method] = {
            "mean": scores.mean(axis=(0, 1)).tolist(), "low": low.tolist(), "high": high.tolist(),
            "seconds": float(np.mean([seconds for _, seconds in own])),
        }  # fmt: skip
    optimal = family.optimal_return(family.params_of(tasks))
    assert optimal is not None
    return {
        "methods": methods, "budgets": list(BUDGETS), "seeds": num_seeds, "tasks": num_tasks, "timesteps": timesteps,
        "optimal": float(optimal.mean()),
    }  # fmt: skip


def render(result: dict[str, Any]) -> str:
    """The table of docs/results.md."""
    budgets = result["budgets"]
    lines = ["| initialisation | " + " | ".join(f"after {budget:,} steps" for budget in budgets) + " |"]
    lines.append("|---" * (len(budgets) + 1) + "|")
    for name, m in result["methods"].items():
        cells = [f"{m['mean'][k]:.2f} [{m['low'][k]:.2f}, {m['high'][k]:.2f}]" for k in range(len(budgets))]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines.append(f"| optimum (goal known) | {result['optimal']:.2f} |" + " |" * (len(budgets) - 1))
    seconds = ", ".join(f"{name} {m['seconds']:.0f} s" for name, m in result["methods"].items())
    lines += [
        "",
        f"Mean return of 10 episodes on {result['tasks']} held-out goals, over {result['seeds']} seeds [95 % CI over "
        f"seeds]; {result['timesteps']:,} training steps where there is training, final weights, sampled actions. "
        f"Processor time of one training: {seconds}.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    arguments = parser(__doc__, "reptile_points")
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--tasks", type=int, default=20)
    arguments.add_argument("--timesteps", type=int, default=300_000)
    arguments.add_argument("--workers", type=int, default=2)
    options = arguments.parse_args()
    store(measure(options.seeds, options.tasks, options.timesteps, options.workers), options.out, render)


if __name__ == "__main__":
    main()
