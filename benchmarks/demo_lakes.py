"""What the demo's agent reaches: RL² and PPO without memory on held-out lakes, several seeds.

    python -m benchmarks.demo_lakes            # prints the table and writes docs/results/demo_lakes.json

Exactly the demo's tasks, settings and training steps (`metagym.demo`), trained once for each seed; the final agents of
all seeds are measured on the same held-out lakes.
"""

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from tempfile import TemporaryDirectory
from typing import Any

import torch as th
from stable_baselines3 import PPO

from benchmarks.stored import parser, store
from metagym import demo
from metagym.algos import RL2
from metagym.evaluation import AdaptationCurve, evaluate


def train(job: tuple[str, int, int, str]) -> float:
    """Train one agent and save it; returns seconds of processor time."""
    method, seed, timesteps, path = job
    th.set_num_threads(1)
    start = time.process_time()
    trainer = demo.train_rl2 if method == "RL²" else demo.train_memoryless
    trainer(timesteps, seed=seed, device="cpu").save(path)
    return time.process_time() - start


def show(curve: AdaptationCurve, seconds: list[float]) -> dict[str, Any]:
    """What the page needs of one method."""
    low, high = curve.interval("mean")
    assert curve.optimal is not None
    return {
        "mean": curve.mean.tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
        "last_by_seed": curve.scores[:, :, -1].mean(axis=1).tolist(),
        "random": float(curve.random.mean()),
        "optimal": float(curve.optimal.mean()),
        "seconds": sum(seconds) / len(seconds),
    }


def measure(num_seeds: int, num_tasks: int, timesteps: int, workers: int) -> dict[str, Any]:
    """Train and evaluate everything the page shows."""
    methods = {"RL²": RL2, "PPO, no memory": PPO}
    result: dict[str, Any] = {}
    with TemporaryDirectory() as folder, ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [
            (method, seed, timesteps, f"{folder}/{kind.__name__}-{seed}.zip")
            for method, kind in methods.items()
            for seed in range(num_seeds)
        ]
        seconds = list(pool.map(train, jobs))
        for place, (method, kind) in enumerate(methods.items()):
            own = slice(place * num_seeds, (place + 1) * num_seeds)
            learners = [kind.load(path, device="cpu") for *_, path in jobs[own]]
            curve = evaluate(
                learners,
                demo.ENV_ID,
                env_kwargs=demo.ENV_KWARGS,
                n_tasks=num_tasks,
                episodes=demo.EPISODES,
                name=method,
            )
            result[method] = show(curve, seconds[own])
    return {"methods": result, "seeds": num_seeds, "tasks": num_tasks, "timesteps": timesteps}


def render(result: dict[str, Any]) -> str:
    """The table of the README and docs/results.md."""
    methods = result["methods"]
    limits = next(iter(methods.values()))
    lines = ["| episode | " + " | ".join(methods) + " | random | optimum |", "|---" * (len(methods) + 3) + "|"]
    lines += [
        f"| {episode + 1} | "
        + " | ".join(
            f"{m['mean'][episode]:.3f} [{m['low'][episode]:.3f}, {m['high'][episode]:.3f}]" for m in methods.values()
        )
        + f" | {limits['random']:.3f} | {limits['optimal']:.3f} |"
        for episode in range(len(limits["mean"]))
    ]
    shares = " | ".join(f"{100 * m['mean'][-1] / m['optimal']:.1f} %" for m in methods.values())
    lines.append(f"| last, of the optimum | {shares} | {100 * limits['random'] / limits['optimal']:.1f} % | 100 % |")
    seconds = ", ".join(f"{name} {m['seconds']:.0f} s" for name, m in methods.items())
    seeds = ", ".join(f"{value:.3f}" for value in limits["last_by_seed"])
    lines += [
        "",
        f"Success rate on {result['tasks']} held-out lakes, mean over {result['seeds']} seeds [95 % CI over seeds]; "
        f"{result['timesteps']:,} environment steps each, final agents, sampled actions; processor time of one "
        f"training: {seconds}. Last episode of RL² by seed: {seeds}. The optimum knows the lake.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    arguments = parser(__doc__, "demo_lakes")
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--tasks", type=int, default=500)
    arguments.add_argument("--timesteps", type=int, default=demo.TIMESTEPS)
    arguments.add_argument("--workers", type=int, default=2)
    options = arguments.parse_args()
    store(measure(options.seeds, options.tasks, options.timesteps, options.workers), options.out, render)


if __name__ == "__main__":
    main()
