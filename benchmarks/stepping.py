"""Stepping speed of MetaFrozenLake beside Gymnasium's SyncVectorEnv and EnvPool, side by side in one run.

    python -m benchmarks.stepping            # prints the table and writes docs/results/stepping.json

All contenders step 4x4 maps with slippery ice and uniformly random actions; every step returns fresh arrays and infos
and includes autoreset. They are visited in turn, several times over; the table holds medians. EnvPool runs in its
Gymnasium interface, the best of one and two threads and of its synchronous and asynchronous modes.
"""

import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import metagym  # noqa: F401 (registers the ids)
from benchmarks.stored import parser, store

SIZES = (8, 64, 1024, 4096)
NUM_ACTIONS = 64


def actions_of(num_envs: int, dtype: Any = np.int64) -> list[Any]:
    """Random actions, drawn before the clock starts."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 4, num_envs).astype(dtype) for _ in range(NUM_ACTIONS)]


def native(num_envs: int, mode: AutoresetMode, *, pinned: bool) -> Callable[[int], None]:
    """Metagym's vector env, with one task a row for good, or a fresh lake at every trial."""
    env = gym.make_vec("MetaFrozenLake-v0", num_envs=num_envs, autoreset_mode=mode)
    if pinned:
        env.set_tasks(env.sample_tasks(num_envs))
    env.reset(seed=0)
    return stepper(env, actions_of(num_envs))


def sync(num_envs: int, *, env_id: str = "FrozenLake-v1") -> Callable[[int], None]:
    """Gymnasium's SyncVectorEnv of Gymnasium's own FrozenLake."""
    env = SyncVectorEnv([lambda: gym.make(env_id)] * num_envs)
    env.reset(seed=0)
    return stepper(env, actions_of(num_envs))


def stepper(env: Any, actions: list[Any]) -> Callable[[int], None]:
    """A function that takes so many vector steps."""

    def run(num_steps: int) -> None:
        for step in range(num_steps):
            env.step(actions[step % NUM_ACTIONS])

    return run


def scalar(env_id: str, *, pinned: bool = False) -> Callable[[int], None]:
    """One env through `gymnasium.make`, reset by hand."""
    env = gym.make(env_id)
    if pinned:
        env.unwrapped.set_task(env.unwrapped.sample_task())
    env.reset(seed=0)
    actions = actions_of(4096)[0].tolist()

    def run(num_steps: int) -> None:
        for step in range(num_steps):
            _, _, terminated, truncated, _ = env.step(actions[step & 4095])
            if terminated or truncated:
                env.reset()

    return run


def envpools(num_envs: int) -> dict[str, Callable[[int], None]]:
    """EnvPool's FrozenLake in each of its modes; none if it is not installed."""
    try:
        import envpool
    except ImportError:
        return {}
    runs: dict[str, Callable[[int], None]] = {}
    for threads in (1, 2):
        env = envpool.make_gymnasium("FrozenLake-v1", num_envs=num_envs, num_threads=threads)
        env.reset()
        runs[f"envpool sync {threads}"] = stepper(env, actions_of(num_envs, np.int32))
        pool = envpool.make_gymnasium("FrozenLake-v1", num_envs=2 * num_envs, batch_size=num_envs, num_threads=threads)
        pool.async_reset()
        runs[f"envpool async {threads}"] = asynchronous(pool, actions_of(num_envs, np.int32))
    return runs


def asynchronous(pool: Any, actions: list[Any]) -> Callable[[int], None]:
    """EnvPool's send and receive: twice as many envs as a batch holds."""

    def run(num_steps: int) -> None:
        for step in range(num_steps):
            info = pool.recv()[-1]
            pool.send(actions[step % NUM_ACTIONS], info["env_id"])

    return run


def contenders(num_envs: int) -> dict[str, Callable[[int], None]]:
    """All that are compared at one size."""
    return {
        "metagym, pinned tasks, NEXT_STEP": native(num_envs, AutoresetMode.NEXT_STEP, pinned=True),
        "metagym, fresh lakes, NEXT_STEP": native(num_envs, AutoresetMode.NEXT_STEP, pinned=False),
        "metagym, fresh lakes, SAME_STEP": native(num_envs, AutoresetMode.SAME_STEP, pinned=False),
        "Gymnasium SyncVectorEnv": sync(num_envs),
        **envpools(num_envs),
    }


def rates(runs: dict[str, Callable[[int], None]], num_envs: int, *, rounds: int, seconds: float) -> dict[str, float]:
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


def installed(package: str) -> str:
    """Version of a package, or a dash."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "-"


def measure(rounds: int, seconds: float) -> dict[str, Any]:
    """Everything the page shows."""
    vector = {}
    for num_envs in SIZES:
        vector[str(num_envs)] = best_envpool(rates(contenders(num_envs), num_envs, rounds=rounds, seconds=seconds))
        print(num_envs, {name: f"{rate / 1e3:,.0f}k" for name, rate in vector[str(num_envs)].items()}, flush=True)
    single = {
        "metagym MetaFrozenLake-v0, pinned task": scalar("MetaFrozenLake-v0", pinned=True),
        "metagym MetaFrozenLake-v0, fresh lakes": scalar("MetaFrozenLake-v0"),
        "Gymnasium FrozenLake-v1": scalar("FrozenLake-v1"),
    }
    packages = {name: installed(name) for name in ("metagym-rl", "gymnasium", "numpy", "envpool")}
    return {
        "vector": vector,
        "scalar": rates(single, 1, rounds=rounds, seconds=seconds),
        "rounds": rounds,
        "packages": packages,
        "python": platform.python_version(),
    }


def render(result: dict[str, Any]) -> str:
    """The tables of docs/performance.md."""
    sizes = list(result["vector"])
    names = list(result["vector"][sizes[0]])
    lines = ["| thousand environment steps per second | " + " | ".join(f"N = {int(n):,}" for n in sizes) + " |"]
    lines.append("|---" * (len(sizes) + 1) + "|")
    vector = result["vector"]
    lines += [f"| {name} | " + " | ".join(f"{vector[n][name] / 1e3:,.0f}" for n in sizes) + " |" for name in names]
    for peer in ("EnvPool, best mode", "Gymnasium SyncVectorEnv"):
        if peer in names:
            ratios = {name: [vector[n][name] / vector[n][peer] for n in sizes] for name in names[:3]}
            lines += [
                f"| *{name}* over *{peer}* | " + " | ".join(f"{ratio:.1f}x" for ratio in row) + " |"
                for name, row in ratios.items()
            ]
    lines += ["", "| one env through `gymnasium.make` | thousand steps per second |", "|---|---|"]
    lines += [f"| {name} | {rate / 1e3:,.0f} |" for name, rate in result["scalar"].items()]
    packages = ", ".join(f"{name} {number}" for name, number in result["packages"].items())
    lines += ["", f"Medians of {result['rounds']} rounds; Python {result['python']}, {packages}."]
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    arguments = parser(__doc__, "stepping")
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--seconds", type=float, default=0.4, help="of each contender in each round")
    options = arguments.parse_args()
    store(measure(options.rounds, options.seconds), options.out, render)


if __name__ == "__main__":
    main()
