"""RL² on the bandits of its first table, against the exact limits: plain, and with each help.

    python -m benchmarks.rl2_bandits                        # prints the table and writes docs/results/rl2_bandits.json
    python -m benchmarks.rl2_bandits --cells bandit-k10-n100 --columns "exchangeable, expected regret" --seeds 1

All seeds count, and the final weights are what is measured, on held-out tasks with sampled actions. Checkpoints, logs
and results of finished runs are kept in ``runs/rl2_bandits`` (``--work``): an interrupted command goes on where it was,
to the bit. ``--scale`` multiplies the steps.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.callbacks import BaseCallback
from typing_extensions import override

from benchmarks.rl2_settings import CELLS, COLUMNS, Cell, keywords
from benchmarks.stored import parser, store
from metagym.algos import RL2
from metagym.files import replacing
from metagym.wrappers import RL2Context, Trial

ENV_ID = "MetaBandit-v0"
WORK = Path(__file__).resolve().parents[1] / "runs" / "rl2_bandits"
ROWS = 1000


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training and its evaluation.

    Attributes:
        cell: key of `CELLS`.
        column: key of `COLUMNS`.
        seed: of the training.
        scale: of its steps.
        tasks: held-out tasks of the evaluation, in rows of `ROWS`.
        work: folder of checkpoints, logs and results.
    """

    cell: str
    column: str
    seed: int
    scale: float
    tasks: int
    work: Path

    @property
    def steps(self) -> int:
        """Environment steps of training."""
        cell = CELLS[self.cell]
        return int(self.scale * (cell.steps if "exchangeable" in COLUMNS[self.column] else cell.plain_steps))

    def path(self, ending: str) -> Path:
        """Where a file of this run is kept; other settings, another file."""
        cell = CELLS[self.cell]
        text = repr([asdict(cell), keywords(cell, self.column), self.steps, self.tasks])
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return (
            self.work / f"{self.cell}-{self.column.replace(', ', '-').replace(' ', '-')}-{self.seed}-{digest}{ending}"
        )


class Journal(BaseCallback):
    """Writes a line of progress and a checkpoint now and then, and adds up the time of all sittings.

    It also lets the entropy bonus fall to zero, linearly, as the learning rate falls by its schedule.
    """

    def __init__(self, job: Job, *, seconds_between: float = 20.0) -> None:
        super().__init__()
        self._log, self._checkpoint = job.path(".jsonl"), job.path(".zip")
        self._entropy, self._steps = CELLS[job.cell].entropy, job.steps
        self._between = seconds_between
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        self._before = json.loads(lines[-1]) if lines else {"seconds": 0.0, "processor_seconds": 0.0}

    @override
    def _on_training_start(self) -> None:
        self._start, self._cpu_start = time.perf_counter(), time.process_time()
        self._last = self._start

    @override
    def _on_step(self) -> bool:
        if time.perf_counter() - self._last > self._between:
            self.write()
        return True

    @override
    def _on_rollout_end(self) -> None:
        self.model.ent_coef = self._entropy * max(0.0, 1.0 - self.num_timesteps / self._steps)  # type: ignore[attr-defined]

    @override
    def _on_training_end(self) -> None:
        self.write()

    def write(self) -> None:
        """The checkpoint first: time that is lost with a later one is then not counted either."""
        assert isinstance(self.model, RL2)
        self.model.save(self._checkpoint)
        now = time.perf_counter()
        returns = [float(episode["r"]) for episode in self.model.ep_info_buffer or ()]
        line = {
            "steps": self.model.num_timesteps,
            "seconds": self._before["seconds"] + now - self._start,
            "processor_seconds": self._before["processor_seconds"] + time.process_time() - self._cpu_start,
            "mean_return": float(np.mean(returns)) if returns else None,
        }
        with self._log.open("a") as log:
            log.write(json.dumps(line) + "\n")
        self._last = now


def trained(job: Job) -> RL2:
    """The agent at the end of its training, from its checkpoint where there is one."""
    checkpoint = job.path(".zip")
    cell = CELLS[job.cell]
    if checkpoint.exists():
        agent: RL2 = RL2.load(checkpoint, device="cpu")
    else:
        job.path(".jsonl").unlink(missing_ok=True)
        policy, settings = keywords(cell, job.column)
        agent = RL2(
            policy,
            ENV_ID,
            env_kwargs={"num_arms": cell.arms},
            episodes_per_trial=cell.pulls,
            seed=job.seed,
            device="cpu",
            **settings,
        )
    left = job.steps - agent.num_timesteps
    if left > 0:
        agent.learn(left, callback=Journal(job), log_interval=None, reset_num_timesteps=False)
    return agent


def tested(agent: RL2, cell: Cell, num_tasks: int) -> dict[str, float]:
    """Returns of one trial on each held-out task, sampled actions.

    "paid" is what was paid. "score" has less noise and the same mean: each pull counts as the mean of its arm less that
    of the best arm, and the mean of the best arm's mean over tasks, K / (K + 1), is added.
    """
    vector = gym.make_vec(
        ENV_ID,
        num_envs=ROWS,
        vectorization_mode="vector_entry_point",
        autoreset_mode=AutoresetMode.DISABLED,
        split="test",
        num_arms=cell.arms,
    )
    env: Any = RL2Context(Trial(vector, episodes_per_trial=cell.pulls))
    rows, paid, regrets = np.arange(ROWS), [], []
    th.manual_seed(0)
    observations, _ = env.reset(seed=0)
    for _ in range(max(1, num_tasks // ROWS)):
        means = env.unwrapped.task_columns(rows)["means"]
        total, pulled, state = np.zeros(ROWS), np.zeros(ROWS), None
        for _ in range(cell.pulls):
            actions, state = agent.policy.predict(observations, state)
            pulled += means[rows, actions]
            observations, rewards, _, _, _ = env.step(actions)
            total += rewards
        paid.append(total)
        regrets.append(cell.pulls * means.max(axis=1) - pulled)
        observations, _ = env.reset()
    every, regret = np.concatenate(paid), np.concatenate(regrets)
    best = cell.pulls * cell.arms / (cell.arms + 1)
    return {
        "paid": float(every.mean()),
        "paid_error": float(every.std() / len(every) ** 0.5),
        "score": float(best - regret.mean()),
        "score_error": float(regret.std() / len(regret) ** 0.5),
    }


def run(job: Job) -> dict[str, Any]:
    """Train, measure and store; or what was stored."""
    path = job.path(".json")
    if path.exists():
        stored: dict[str, Any] = json.loads(path.read_text())
        return stored
    th.set_num_threads(1)
    job.work.mkdir(parents=True, exist_ok=True)
    agent = trained(job)
    last = json.loads(job.path(".jsonl").read_text().splitlines()[-1])
    result = {
        "cell": job.cell, "column": job.column, "seed": job.seed, "steps": agent.num_timesteps,
        "seconds": last["seconds"], "processor_seconds": last["processor_seconds"],
        "test": tested(agent, CELLS[job.cell], job.tasks), "checkpoint": job.path(".zip").name,
    }  # fmt: skip
    with replacing(path) as partial:
        partial.write_text(json.dumps(result, indent=2) + "\n")
    return result


def measure(jobs: Sequence[Job], workers: int) -> dict[str, Any]:
    """All runs, each in a process of its own, as a result of the docs."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        done = []
        for finished in as_completed([pool.submit(run, job) for job in jobs]):
            one = finished.result()
            done.append(one)
            print(f"{one['cell']} {one['column']} {one['seed']}: {one['test']['score']:.3f}", flush=True)
    order = {(job.cell, job.column, job.seed): place for place, job in enumerate(jobs)}
    done.sort(key=lambda one: order[one["cell"], one["column"], one["seed"]])
    return {"runs": done, "tasks": jobs[0].tasks, "scale": jobs[0].scale}


def render(result: dict[str, Any]) -> str:
    """The table of docs/results.md."""
    heads = (
        "arms, pulls",
        "RL² published",
        "limit",
        "agent",
        "return",
        "% of the limit",
        "worst seed",
        "steps",
        "minutes",
    )
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    pairs = dict.fromkeys((one["cell"], one["column"]) for one in result["runs"])
    for key, column in pairs:
        cell = CELLS[key]
        own = [one for one in result["runs"] if (one["cell"], one["column"]) == (key, column)]
        scores = np.array([one["test"]["score"] for one in own])
        # The seeds share their test tasks, so the error of the tasks does not shrink with the number of seeds.
        error = np.hypot(np.mean([one["test"]["score_error"] for one in own]), scores.std() / len(own) ** 0.5)
        digits = 3 if cell.pulls == 10 else 2
        lines.append(
            f"| {cell.arms}, {cell.pulls} | {cell.published} | {cell.limit:.{digits}f} | {column} "
            f"| {scores.mean():.{digits}f} ± {1.96 * error:.{digits}f} | {100 * scores.mean() / cell.limit:.2f} "
            f"| {scores.min():.{digits}f} | {own[0]['steps'] / 1e6:.1f}M "
            f"| {np.mean([one['seconds'] for one in own]) / 60:.1f} |"
        )
    seeds = len({one["seed"] for one in result["runs"]})
    lines += [
        "",
        f"Mean return ± 95 % CI of {seeds} seeds on {result['tasks']:,} held-out tasks, final weights, sampled "
        "actions; minutes of training, on one thread. Published numbers are the best of five seeds on 1000 tasks.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    arguments = parser(__doc__, "rl2_bandits")
    arguments.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS)[:6])
    arguments.add_argument("--columns", nargs="+", choices=COLUMNS, default=list(COLUMNS))
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--tasks", type=int, default=10_000)
    arguments.add_argument("--scale", type=float, default=1.0)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--work", type=Path, default=WORK)
    given = arguments.parse_args()
    jobs = [
        Job(cell=cell, column=column, seed=seed, scale=given.scale, tasks=given.tasks, work=given.work)
        for cell in given.cells
        for column in given.columns
        for seed in range(given.seeds)
    ]
    store(measure(jobs, given.workers), given.out, render)


if __name__ == "__main__":
    main()
