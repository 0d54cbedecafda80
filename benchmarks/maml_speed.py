"""Wall-clock of one iteration of MAML on 2-D navigation, beside a loop over tasks with Gymnasium's envs.

    python -m benchmarks.maml_speed                  # prints the table and writes docs/results/maml_speed.json
    python -m benchmarks.maml_speed --threads 1 2    # on a machine that has nothing else to do

Both take the same steps: 20 tasks with 20 episodes of 100 steps before and after one inner step, a linear baseline, and
TRPO with ten iterations of conjugate gradients. Both get the same number of PyTorch's threads. Rounds alternate, and
medians are shown.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.maml_loop import TaskLoop
from benchmarks.stored import parser, store
from metagym.algos import MAML

ENV_ID = "MetaPointGoal-v0"
THINNINGS = (1, 5)


class Once(BaseCallback):
    """Ends `learn` after one iteration."""

    def _on_step(self) -> bool:
        return False


def batched(num_tasks: int, num_rows: int, num_steps: int, width: int, thinning: int) -> Callable[[], object]:
    """One iteration of metagym's."""
    agent = MAML(
        "MlpPolicy",
        ENV_ID,
        env_kwargs={"episode_length": num_steps},
        meta_batch_size=num_tasks,
        n_envs=num_rows,
        sub_sampling_factor=thinning,
        policy_kwargs={"net_arch": [width, width], "activation_fn": th.nn.ReLU},
        device="cpu",
        seed=0,
    )
    return lambda: agent.learn(10**9, callback=Once(), log_interval=None)


def loop(num_tasks: int, num_rows: int, num_steps: int, width: int, thinning: int) -> Callable[[], object]:
    """One iteration of the loop's."""
    made = TaskLoop(ENV_ID, num_tasks=num_tasks, num_rows=num_rows, num_steps=num_steps, width=width, thinning=thinning)
    return made.iterate


def measure(
    rounds: int, num_tasks: int, num_rows: int, num_steps: int, width: int, *, threads: Sequence[int] = (1,)
) -> dict[str, Any]:
    """Seconds of one iteration, wall-clock and of processor time, of each contender in each round."""
    sizes = (num_tasks, num_rows, num_steps, width)
    contenders = {(name, thinning): make(*sizes, thinning) for thinning in THINNINGS
                  for name, make in (("at once", batched), ("loop", loop))}  # fmt: skip
    times: dict[tuple[int, str, int], list[tuple[float, float]]] = {}
    for turn in range(rounds + 1):
        for number in threads:
            for (name, thinning), iterate in contenders.items():
                spent = _spent(iterate, number)
                if turn:  # the first warms up
                    times.setdefault((number, name, thinning), []).append(spent)
    rows = []
    for number in threads:
        for thinning in THINNINGS:
            middle = {name: np.median(times[number, name, thinning], axis=0).tolist() for name in ("at once", "loop")}
            rows.append({"threads": number, "thinning": thinning, **middle})
    return {
        "rows": rows,
        "rounds": rounds,
        "tasks": num_tasks,
        "episodes": num_rows,
        "steps": num_steps,
        "width": width,
    }


def _spent(iterate: Callable[[], object], threads: int) -> tuple[float, float]:
    th.set_num_threads(threads)
    start = time.perf_counter(), time.process_time()
    iterate()
    spent = time.perf_counter() - start[0], time.process_time() - start[1]
    th.set_num_threads(1)
    return spent


def render(result: dict[str, Any]) -> str:
    """The table of docs/results.md."""
    lines = [
        "| threads | Hessian of | loop over tasks, s | at once, s | wall-clock | processor time |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        once, one_by_one = row["at once"], row["loop"]
        name = "all episodes" if row["thinning"] == 1 else f"one of {row['thinning']} episodes"
        ratios = f"{one_by_one[0] / once[0]:.1f}x | {one_by_one[1] / once[1]:.1f}x"
        lines.append(f"| {row['threads']} | {name} | {one_by_one[0]:.2f} | {once[0]:.2f} | {ratios} |")
    lines += [
        "",
        f"One iteration of MAML with TRPO: {result['tasks']} tasks, {result['episodes']} episodes of {result['steps']} "
        f"steps before and after one inner step, two layers of {result['width']}; medians of "
        f"{result['rounds']} rounds in turns.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    arguments = parser(__doc__, "maml_speed")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--tasks", type=int, default=20)
    arguments.add_argument("--episodes", type=int, default=20)
    arguments.add_argument("--steps", type=int, default=100)
    arguments.add_argument("--width", type=int, default=100)
    arguments.add_argument("--threads", type=int, nargs="+", default=[1])
    options = arguments.parse_args()
    sizes = options.tasks, options.episodes, options.steps, options.width
    result = measure(options.rounds, *sizes, threads=options.threads)
    store(result, options.out, render)


if __name__ == "__main__":
    main()
