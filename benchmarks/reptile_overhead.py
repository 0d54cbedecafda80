"""What Reptile costs beside the bare learner, and what a second process saves.

    python -m benchmarks.reptile_overhead        # prints the tables and writes docs/results/reptile_overhead.json

Overhead: an iteration of Reptile, and the same calls of ``learn`` by a bare learner of SB3 on the same tasks, in turns.
Workers: iterations with one process and with several, in turns; starting the workers is measured apart.
"""

import os
import time
from multiprocessing import active_children
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch as th
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from benchmarks.stored import parser, store
from metagym.algos import Reptile
from metagym.learner_state import LearnerState

POINT, LAKE = "MetaPointGoal-v0", "MetaFrozenLake-v0"
TASKS, STEPS = 4, 1024
LEARNERS: dict[str, tuple[type[BaseAlgorithm], str, dict[str, Any]]] = {
    "PPO": (PPO, POINT, {}),
    "A2C": (A2C, POINT, {}),
    "DQN": (DQN, LAKE, {}),
    "SAC": (SAC, POINT, {}),
}


class Clock(BaseCallback):
    """When each iteration ended, and what processor time this process and each of its workers had used by then."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []
        self.used: list[dict[int, float]] = []

    def _on_step(self) -> bool:
        self.times.append(time.perf_counter())
        workers = [child.pid for child in active_children() if child.pid is not None]
        self.used.append({0: time.process_time()} | {pid: _processor_seconds(pid) for pid in workers})
        return True

    def longest_path(self) -> float:
        """Processor seconds of an iteration on its longest path: this process, and the busiest worker."""
        first, last = self.used[0], self.used[-1]
        workers = [last[pid] - first[pid] for pid in last if pid and pid in first]
        return (last[0] - first[0] + max(workers, default=0.0)) / (len(self.used) - 1)


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def agent_of(name: str, **kwargs: Any) -> Reptile:
    """A Reptile of the benchmark."""
    learner_class, env_id, inner = LEARNERS[name]
    return Reptile(
        "MlpPolicy", env_id, learner_class=learner_class, learner_kwargs=inner, inner_timesteps=STEPS,
        meta_batch_size=TASKS, learning_rate=0.1, seed=0, device="cpu", **kwargs,
    )  # fmt: skip


def overhead(name: str, rounds: int) -> dict[str, float]:
    """Median seconds of an iteration, and of the calls of ``learn`` that it is made of; two at a time."""
    agent, bare = agent_of(name), agent_of(name).learner
    bare.set_logger(Logger(None, []))
    env = bare.get_env()
    assert env is not None
    seconds: dict[str, list[float]] = {"reptile": [], "bare": [], "reptile_cpu": [], "bare_cpu": []}
    for _ in range(rounds + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        agent.learn(2 * TASKS * STEPS, log_interval=None)
        seconds["reptile"].append(time.perf_counter() - wall)
        seconds["reptile_cpu"].append(time.process_time() - cpu)
        tasks = env.unwrapped.env.sample_tasks(2 * TASKS)
        wall, cpu = time.perf_counter(), time.process_time()
        for task in tasks:
            env.env_method("set_task", task)
            if hasattr(bare, "replay_buffer"):
                bare.replay_buffer.reset()
            bare.learn(STEPS, log_interval=None)  # type: ignore[arg-type]
        seconds["bare"].append(time.perf_counter() - wall)
        seconds["bare_cpu"].append(time.process_time() - cpu)
    return {key: median(values[1:]) / 2 for key, values in seconds.items()}


def workers(num_workers: int, rounds: int) -> dict[str, float]:
    """Median seconds of an iteration in one process and in several, and seconds until the first has ended."""
    found: dict[str, list[float]] = {"alone": [], "together": [], "first": [], "alone_cpu": [], "together_cpu": []}
    states = []
    for key, n_workers in (("alone", 1), ("together", num_workers)) * rounds:
        agent, clock = agent_of("PPO", n_workers=n_workers), Clock()
        start = time.perf_counter()
        agent.learn(5 * TASKS * STEPS, callback=clock, log_interval=None)
        found[key] += np.diff(clock.times).tolist()
        found[f"{key}_cpu"].append(clock.longest_path())
        if key == "together":
            found["first"].append(clock.times[0] - start)
        states.append(LearnerState.capture(agent.learner))
    same = all(th.equal(value, state.tensors[name]) for state in states for name, value in states[0].tensors.items())
    return {key: median(values) for key, values in found.items()} | {"workers": num_workers, "same": same}


def measure(names: list[str], rounds: int, num_workers: list[int]) -> dict[str, Any]:
    """Everything that the page shows."""
    return {
        "overhead": {name: overhead(name, rounds) for name in names},
        "workers": [workers(count, max(2, rounds // 4)) for count in num_workers],
        "tasks": TASKS, "steps": STEPS, "rounds": rounds,
    }  # fmt: skip


def render(result: dict[str, Any]) -> str:
    """The tables of the docs."""
    lines = [
        "| learner | iteration, ms | bare `learn` calls, ms | wall-clock | processor time |",
        "|---|---|---|---|---|",
    ]
    for name, seconds in result["overhead"].items():
        ratio = seconds["reptile"] / seconds["bare"] - 1.0
        cpu = seconds["reptile_cpu"] / seconds["bare_cpu"] - 1.0
        both = f"{1e3 * seconds['reptile']:.0f} | {1e3 * seconds['bare']:.0f}"
        lines.append(f"| {name} | {both} | {ratio:+.1%} | {cpu:+.1%} |")
    head = "| processes | iteration, ms | speed-up, wall-clock | by processor time | first iteration, s | same bits |"
    lines += ["", head, "|---" * 6 + "|"]
    for row in result["workers"]:
        both = f"{1e3 * row['together']:.0f} (one process: {1e3 * row['alone']:.0f})"
        speed_up = f"{row['alone'] / row['together']:.2f}x | {row['alone_cpu'] / row['together_cpu']:.2f}x"
        same = "yes" if row["same"] else "NO"
        lines.append(f"| {row['workers']} | {both} | {speed_up} | {row['first']:.1f} | {same} |")
    lines += [
        "",
        f"Medians of {result['rounds']} rounds in turns; {result['tasks']} tasks an iteration, {result['steps']:,} "
        "environment steps a task, 8 rows, one thread. The first iteration includes starting the workers. Processor "
        "time is that of the longest path, the main process and the busiest worker: wall-clock where cores are idle.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    arguments = parser(__doc__, "reptile_overhead")
    arguments.add_argument("--rounds", type=int, default=20)
    arguments.add_argument("--learners", nargs="+", choices=LEARNERS, default=list(LEARNERS))
    arguments.add_argument("--workers", type=int, nargs="+", default=[2])
    options = arguments.parse_args()
    th.set_num_threads(1)
    store(measure(options.learners, options.rounds, options.workers), options.out, render)


if __name__ == "__main__":
    main()
