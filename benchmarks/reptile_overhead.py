"""What Reptile costs beside the bare learner, and what a second process saves.

    python -m benchmarks.reptile_overhead        # prints the tables and writes docs/results/reptile_overhead.json

Overhead: an iteration of Reptile, and the calls of ``learn`` by a bare learner of SB3 that it is made of, in turns.
Workers: iterations with one process and with several, in turns; starting the workers is measured apart.
"""

import os
import time
from collections.abc import Iterable, Iterator
from multiprocessing import active_children
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch as th
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from tqdm import tqdm
from typing_extensions import override

from benchmarks.stored import parser, store
from metagym.algos import Reptile
from metagym.algos.reptile_env import give_task
from metagym.algos.reptile_iteration import iterate
from metagym.algos.reptile_run import Finish, Job, Runs, Start, seed_run
from metagym.learner_state import LearnerState, reset_running_state

POINT, LAKE = "MetaPointGoal-v0", "MetaFrozenLake-v0"
TASKS, STEPS = 4, 1024
# Rounds of each learner for one that is asked for: quick ones need many, or what else the machine does decides.
ROUNDS = {"PPO": 5, "A2C": 10, "DQN": 10, "SAC": 1}
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


class BareRuns(Runs):
    """The runs of an iteration, of which only what the bare learner does is timed: its own ``learn``, no callback."""

    def __init__(self, agent: Reptile, env: VecEnv) -> None:
        super().__init__(agent.learner, env, ())
        self.wall = self.cpu = 0.0

    @override
    def play(self, start: Start, jobs: Iterable[Job]) -> Iterator[Finish]:
        for job in jobs:
            start.theta.restore(self._model, optimizer=start.optimizer)
            give_task(self._env, job.task)
            seed_run(self._model, self._env, job.seed)
            reset_running_state(self._model)
            wall, cpu = time.perf_counter(), time.process_time()
            self._model.learn(start.timesteps, log_interval=None)  # type: ignore[arg-type]
            self.wall += time.perf_counter() - wall
            self.cpu += time.process_time() - cpu
            phi = LearnerState.capture(self._model, moments=False)
            yield Finish(phi, start.statistics, self._model.num_timesteps, [], [], 0)


def overhead(name: str, rounds: int) -> dict[str, Any]:
    """Median seconds of an iteration, and of the calls of ``learn`` that it is made of; two at a time.

    Both play the same runs: the same tasks from the same parameters with the same noise.
    """
    agent, twin = agent_of(name), agent_of(name)
    twin._setup_learn(0)
    env = twin.get_env()
    assert env is not None
    bar = tqdm(disable=True)
    seconds: dict[str, list[float]] = {"reptile": [], "bare": [], "reptile_cpu": [], "bare_cpu": []}
    for _ in range(rounds + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        agent.learn(2 * TASKS * STEPS, log_interval=None)
        seconds["reptile"].append(time.perf_counter() - wall)
        seconds["reptile_cpu"].append(time.process_time() - cpu)
        bare = BareRuns(twin, env)
        for _ in range(2):
            iterate(twin, env, bare, bar)
        seconds["bare"].append(bare.wall)
        seconds["bare_cpu"].append(bare.cpu)
    result: dict[str, Any] = {key: median(values[1:]) / 2 for key, values in seconds.items()} | {"rounds": rounds}
    for key in ("", "_cpu"):
        pairs = zip(seconds[f"reptile{key}"][1:], seconds[f"bare{key}"][1:], strict=True)
        result[f"overhead{key}"] = median(ours / theirs for ours, theirs in pairs) - 1.0
    return result | {"same": _equal(agent, twin)}


def _equal(one: Reptile, other: Reptile) -> bool:
    first, second = LearnerState.capture(one.learner).tensors, LearnerState.capture(other.learner).tensors
    return all(th.equal(value, second[name]) for name, value in first.items())


def workers(num_workers: int, rounds: int) -> dict[str, float]:
    """Median seconds of an iteration in one process and in several, and seconds until the first has ended."""
    found: dict[str, list[float]] = {"alone": [], "together": [], "first": [], "alone_cpu": [], "together_cpu": []}
    agents = []
    for key, n_workers in (("alone", 1), ("together", num_workers)) * rounds:
        agent, clock = agent_of("PPO", n_workers=n_workers), Clock()
        start = time.perf_counter()
        agent.learn(5 * TASKS * STEPS, callback=clock, log_interval=None)
        found[key] += np.diff(clock.times).tolist()
        found[f"{key}_cpu"].append(clock.longest_path())
        if key == "together":
            found["first"].append(clock.times[0] - start)
        agents.append(agent)
    same = all(_equal(agent, agents[0]) for agent in agents)
    return {key: median(values) for key, values in found.items()} | {"workers": num_workers, "same": same}


def measure(names: list[str], rounds: int, num_workers: list[int]) -> dict[str, Any]:
    """Everything that the page shows."""
    return {
        "overhead": {name: overhead(name, rounds * ROUNDS[name]) for name in names},
        "workers": [workers(count, rounds) for count in num_workers],
        "tasks": TASKS, "steps": STEPS, "rounds": rounds,
    }  # fmt: skip


def render(result: dict[str, Any]) -> str:
    """The tables of the docs."""
    lines = [
        "| learner | rounds | iteration, ms | bare `learn` calls, ms | wall-clock | processor time | same bits |",
        "|---" * 7 + "|",
    ]
    for name, seconds in result["overhead"].items():
        both = f"{1e3 * seconds['reptile']:.0f} | {1e3 * seconds['bare']:.0f}"
        share = f"{seconds['overhead']:+.1%} | {seconds['overhead_cpu']:+.1%}"
        lines.append(f"| {name} | {seconds['rounds']} | {both} | {share} | {'yes' if seconds['same'] else 'NO'} |")
    head = "| processes | iteration, ms | speed-up, wall-clock | by processor time | first iteration, s | same bits |"
    lines += ["", head, "|---" * 6 + "|"]
    for row in result["workers"]:
        both = f"{1e3 * row['together']:.0f} (one process: {1e3 * row['alone']:.0f})"
        speed_up = f"{row['alone'] / row['together']:.2f}x | {row['alone_cpu'] / row['together_cpu']:.2f}x"
        same = "yes" if row["same"] else "NO"
        lines.append(f"| {row['workers']} | {both} | {speed_up} | {row['first']:.1f} | {same} |")
    lines += [
        "",
        f"Medians of rounds in turns, for overheads of their ratios; {result['tasks']} tasks an "
        f"iteration, {result['steps']:,} environment steps a task, 8 rows, one thread. The first iteration includes "
        "starting the workers. Processor time is that of the longest path, the main process and the busiest worker: "
        "wall-clock where cores are idle.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    arguments = parser(__doc__, "reptile_overhead")
    arguments.add_argument("--rounds", type=int, default=4)
    arguments.add_argument("--learners", nargs="+", choices=LEARNERS, default=list(LEARNERS))
    arguments.add_argument("--workers", type=int, nargs="+", default=[2])
    options = arguments.parse_args()
    th.set_num_threads(1)
    store(measure(options.learners, options.rounds, options.workers), options.out, render)


if __name__ == "__main__":
    main()
