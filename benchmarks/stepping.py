"""Stepping speed of metagym's envs beside Gymnasium's, EnvPool's and gymnax's, side by side in one run.

    python -m benchmarks.stepping            # prints the tables and writes docs/results/stepping.json

Every step returns fresh arrays and infos and includes autoreset; actions are uniformly random. All contenders of a
problem are visited in turn, several times over; the tables hold medians. `benchmarks.contenders` says how each peer is
run. One env through `gymnasium.make` is stepped by a loop that resets it by hand.
"""

import platform
import statistics
import time
import tracemalloc
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import numpy as np

from benchmarks.contenders import PROBLEMS, Run, contenders, scalar
from benchmarks.stored import parser, store

SIZES = (8, 64, 1024, 4096)
PEERS = (
    "EnvPool, best mode",
    "gymnax, one jitted step",
    "Gymnasium, its own vector env",
    "Gymnasium SyncVectorEnv",
)
PACKAGES = ("metagym-rl", "gymnasium", "numpy", "envpool", "gymnax", "jax", "numba")
TABULAR = ("FrozenLake", "CliffWalking", "Taxi", "GridNavi", "DarkRoom", "KeyToDoor", "TMaze", "TwoStep")
PHYSICS = {
    "MetaCartPole-v0": "CartPole-v1",
    "MetaPendulum-v0": "Pendulum-v1",
    "MetaMountainCar-v0": "MountainCar-v0",
    "MetaMountainCarContinuous-v0": "MountainCarContinuous-v0",
    "MetaAcrobot-v0": "Acrobot-v1",
}


def rates(runs: dict[str, Run], num_envs: int, *, rounds: int, seconds: float) -> dict[str, float]:
    """Environment steps per second: medians over rounds in which all take their turn."""
    lengths = {}
    for name, run in runs.items():
        run(3)
        start = time.perf_counter()
        run(10)
        lengths[name] = max(10, int(seconds / ((time.perf_counter() - start) / 10)))
    measured: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run(lengths[name])
            measured[name].append(lengths[name] * num_envs / (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in measured.items()}


def best_envpool(table: dict[str, float]) -> dict[str, float]:
    """The table with EnvPool's modes replaced by the best of them."""
    modes = [value for name, value in table.items() if name.startswith("envpool")]
    kept = {name: value for name, value in table.items() if not name.startswith("envpool")}
    return {**kept, "EnvPool, best mode": max(modes)} if modes else kept


def bytes_per_row(env_id: str, num_envs: int, **kwargs: Any) -> float:
    """Memory that NumPy and Python hold for each row of a vector env after a few steps, bytes."""
    gym.make_vec(env_id, num_envs=2, **kwargs).reset(seed=0)  # what is made once is not a row's
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    env = gym.make_vec(env_id, num_envs=num_envs, **kwargs)
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.zeros(env.action_space.shape, env.action_space.dtype))
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return (after - before) / num_envs


def singles(*, with_compiled: bool) -> dict[str, dict[str, Run]]:
    """One env each: tabular families beside Gymnasium's FrozenLake, physics beside Gymnasium's same."""
    groups = {"tabular": {"Gymnasium FrozenLake-v1": scalar("FrozenLake-v1")}}
    for name in TABULAR:
        groups["tabular"][f"Meta{name}-v0, fresh tasks"] = scalar(f"Meta{name}-v0")
    for meta_id, gym_id in PHYSICS.items():
        runs = {f"Gymnasium {gym_id}": scalar(gym_id), f"{meta_id}": scalar(meta_id)}
        if with_compiled:
            runs[f"{meta_id}, compiled"] = scalar(meta_id, compiled=True)
        groups[gym_id] = runs
    return groups


def installed(package: str) -> str:
    """Version of a package, or a dash."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "-"


def measure(rounds: int, seconds: float, problems: list[str]) -> dict[str, Any]:
    """Everything the page shows."""
    with_compiled = find_spec("numba") is not None
    vector: dict[str, dict[str, dict[str, float]]] = {}
    for name in problems:
        vector[name] = {}
        for num_envs in SIZES:
            runs = contenders(PROBLEMS[name], num_envs, with_compiled=with_compiled)
            table = best_envpool(rates(runs, num_envs, rounds=rounds, seconds=seconds))
            vector[name][str(num_envs)] = table
            print(name, num_envs, {who: f"{rate / 1e3:,.0f}k" for who, rate in table.items()}, flush=True)
    groups = singles(with_compiled=with_compiled)
    return {
        "vector": vector,
        "scalar": {name: rates(runs, 1, rounds=rounds, seconds=seconds) for name, runs in groups.items()},
        "bytes_per_row": {
            PROBLEMS[name].meta_id: bytes_per_row(PROBLEMS[name].meta_id, 4096, **PROBLEMS[name].meta_kwargs)
            for name in problems
        },
        "rounds": rounds,
        "packages": {name: installed(name) for name in PACKAGES},
        "python": platform.python_version(),
    }


def _vector_table(problem: str, tables: dict[str, dict[str, float]]) -> list[str]:
    sizes = list(tables)
    names = list(tables[sizes[0]])
    lines = [f"| {problem}, thousand steps per second | " + " | ".join(f"N = {int(n):,}" for n in sizes) + " |"]
    lines.append("|---" * (len(sizes) + 1) + "|")
    lines += [f"| {name} | " + " | ".join(f"{tables[n][name] / 1e3:,.0f}" for n in sizes) + " |" for name in names]
    own = [name for name in names if name.startswith("metagym")]
    for peer in (peer for peer in PEERS if peer in names):
        for name in own:
            ratios = " | ".join(f"{tables[n][name] / tables[n][peer]:.1f}x" for n in sizes)
            lines.append(f"| *{name.removeprefix('metagym, ')}* over *{peer}* | {ratios} |")
    return [*lines, ""]


def _scalar_table(groups: dict[str, dict[str, float]]) -> list[str]:
    lines = ["| one env through `gymnasium.make` | thousand steps per second | over Gymnasium's |", "|---|---|---|"]
    for group in groups.values():
        base = next(iter(group.values()))
        lines += [f"| {name} | {rate / 1e3:,.0f} | {rate / base:.2f}x |" for name, rate in group.items()]
    return [*lines, ""]


def render(result: dict[str, Any]) -> str:
    """The tables of docs/performance.md."""
    lines = [line for name, tables in result["vector"].items() for line in _vector_table(name, tables)]
    lines += _scalar_table(result["scalar"])
    lines += ["| vector env of 4,096 rows | bytes per row |", "|---|---|"]
    lines += [f"| {name} | {value:,.0f} |" for name, value in result["bytes_per_row"].items()]
    packages = ", ".join(f"{name} {number}" for name, number in result["packages"].items())
    lines += ["", f"Medians of {result['rounds']} rounds; Python {result['python']}, {packages}."]
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    arguments = parser(__doc__, "stepping")
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--seconds", type=float, default=0.3, help="of each contender in each round")
    arguments.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    options = arguments.parse_args()
    store(measure(options.rounds, options.seconds, options.problems), options.out, render)


if __name__ == "__main__":
    main()
