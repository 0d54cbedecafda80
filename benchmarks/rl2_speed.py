"""Training speed of RL² against sb3-contrib's RecurrentPPO on the same bandits, and where the time goes.

    python -m benchmarks.rl2_speed            # about half an hour on a quiet machine; --quick: a minute, for tests

Bandits of 10 arms, trials of 100 pulls, 10 epochs of 4 minibatches of whole trials. One iteration (a rollout and its
update) of each learner in turn, so that whatever else the machine does falls on all; one thread.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from statistics import median
from typing import Any

import torch as th
from sb3_contrib import RecurrentPPO

from benchmarks.stored import parser, store
from metagym.algos import RL2
from metagym.nets import FusedRecurrentActorCriticPolicy
from metagym.nets.compiled_sequence import compiled_recurrence
from metagym.nets.gru import _GRUSequence

ARMS, PULLS, EPOCHS, MINIBATCHES = 10, 100, 10, 4
TRIALS, UNITS = (8, 64, 256, 512), (64, 256)
REPETITIONS = 3
PARTS = ("rollout", "minibatches", "recurrence", "heads and loss", "optimiser", "other")
CONTENDERS = (
    "RecurrentPPO, default",
    "RecurrentPPO, shared LSTM",
    "RecurrentPPO, metagym's policy",
    "RL2, PyTorch alone",
    "RL2, compiled",
)


def rl2(trials: int, units: int, epochs: int = EPOCHS, pulls: int = PULLS) -> RL2:
    """RL2 in the setting of the table."""
    agent: RL2 = RL2(
        "MlpPolicy", "MetaBandit-v0", env_kwargs={"num_arms": ARMS}, steps_per_trial=pulls, n_envs=trials,
        n_steps=pulls, batch_size=trials * pulls // MINIBATCHES, n_epochs=epochs, seed=0, device="cpu",
        policy_kwargs={"rnn_hidden_size": units},
    )  # fmt: skip
    return agent


def recurrent_ppo(policy: Any, trials: int, units: int, epochs: int, **kwargs: Any) -> RecurrentPPO:
    """RecurrentPPO in the same env and setting."""
    return RecurrentPPO(
        policy, rl2(trials, units).get_env(), n_steps=PULLS, batch_size=trials * PULLS // MINIBATCHES, n_epochs=epochs,
        seed=0, device="cpu", policy_kwargs={"lstm_hidden_size": units, **kwargs},
    )  # fmt: skip


def contenders(trials: int, units: int, epochs: int) -> dict[str, tuple[Any, bool]]:
    """Learners by name, and whether recurrences may run compiled."""
    shared = {"enable_critic_lstm": False, "shared_lstm": True}
    made = (
        (recurrent_ppo("MlpLstmPolicy", trials, units, epochs), False),
        (recurrent_ppo("MlpLstmPolicy", trials, units, epochs, **shared), False),
        (recurrent_ppo(FusedRecurrentActorCriticPolicy, trials, units, epochs), True),
        (rl2(trials, units, epochs), False),
        (rl2(trials, units, epochs), True),
    )
    return dict(zip(CONTENDERS, made, strict=True))


def timed(agent: Any, compiled: bool, steps: int, iterations: int = 1) -> tuple[float, float]:
    """Processor and wall-clock seconds of an iteration."""
    with compiled_recurrence(compiled):
        start, start_wall = time.process_time(), time.perf_counter()
        agent.learn(steps * iterations)
        return (time.process_time() - start) / iterations, (time.perf_counter() - start_wall) / iterations


def compare(trials: int, units: int, epochs: int, repetitions: int) -> dict[str, Any]:
    """Medians for one setting."""
    agents = contenders(trials, units, epochs)
    steps = trials * PULLS
    for name, (agent, compiled) in agents.items():
        if name.startswith("RL2") or trials * units <= 64 * 64:
            timed(agent, compiled, steps)  # the first one is slower
    iterations = max(1, 1024 // trials) if epochs == EPOCHS else 1
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in agents}
    for _ in range(repetitions):
        for name, (agent, compiled) in agents.items():
            several = min(iterations, 8) if name.startswith("RL2") else 1
            taken[name].append(timed(agent, compiled, steps, several))
    default = taken[CONTENDERS[0]]
    return {
        "trials": trials,
        "units": units,
        "flops": flops_per_step(units, epochs),
        "rate": {name: steps / median(one for one, _ in times) for name, times in taken.items()},
        "wall": {name: steps / median(one for _, one in times) for name, times in taken.items()},
        "ratio": {
            name: median(theirs[0] / ours[0] for theirs, ours in zip(default, times, strict=True))
            for name, times in taken.items()
        },
    }


def flops_per_step(units: int, epochs: int) -> int:
    """Multiplications and additions of matrix products that an environment step of RL2 costs, each counted."""
    inputs = 1 + ARMS + 1 + 1  # what is observed: a constant, the last action, the last reward, where episodes begin
    forward = 2 * (3 * units * (units + inputs) + units * (ARMS + 1))
    return forward * (1 + 3 * epochs)  # once in the rollout; forward and twice backward in each epoch


def gemm_rate() -> float:
    """Single-precision operations per second of a large product, the best of some."""
    one, other = th.randn(2, 1024, 1024)
    best = float("inf")
    for _ in range(20):
        start = time.process_time()
        th.mm(one, other)
        best = min(best, time.process_time() - start)
    return float(2 * 1024**3 / best)


@contextmanager
def stopwatches(agent: RL2, taken: dict[str, float]) -> Iterator[None]:
    """Within the block, add the processor time of the parts of an iteration to `taken`."""
    places: list[tuple[Any, str, str]] = [
        (agent, "collect_rollouts", "rollout"),
        (agent.rollout_buffer, "_minibatch", "minibatches"),
        (agent.policy.rnn, "forward", "forward"),
        (agent.policy, "evaluate_actions", "evaluate"),
        (_GRUSequence, "backward", "backward"),
        (th.Tensor, "backward", "all backward"),
        (agent.policy.optimizer, "step", "optimiser"),
        (th.nn.utils, "clip_grad_norm_", "clipping"),
    ]
    before = [vars(owner).get(name) for owner, name, _ in places]
    for owner, name, part in places:
        watched = _watched(getattr(owner, name), part, taken)
        setattr(owner, name, staticmethod(watched) if owner is _GRUSequence else watched)
    try:
        yield
    finally:
        for (owner, name, _), old in zip(places, before, strict=True):
            delattr(owner, name) if old is None else setattr(owner, name, old)


def _watched(function: Callable[..., Any], part: str, taken: dict[str, float]) -> Callable[..., Any]:
    def watched(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            taken[part] = taken.get(part, 0.0) + time.process_time() - start

    return watched


def breakdown(trials: int, units: int, compiled: bool, epochs: int, iterations: int) -> dict[str, Any]:
    """Microseconds of an environment step, by part."""
    agent, steps = rl2(trials, units, epochs), trials * PULLS
    timed(agent, compiled, steps)
    taken: dict[str, float] = {}
    with stopwatches(agent, taken):
        total = timed(agent, compiled, steps, iterations)[0] * iterations
    recurrence = taken["forward"] + taken["backward"]
    parts = {
        "rollout": taken["rollout"],
        "minibatches": taken["minibatches"],
        "recurrence": recurrence,
        "heads and loss": taken["evaluate"] + taken["all backward"] - recurrence,
        "optimiser": taken["optimiser"] + taken["clipping"],
    }
    parts["other"] = total - sum(parts.values())
    per_step = {name: 1e6 * seconds / (steps * iterations) for name, seconds in parts.items()}
    return {"trials": trials, "units": units, "compiled": compiled, "us": per_step}


def scaling(epochs: int, repetitions: int, largest: int) -> list[dict[str, Any]]:
    """Rates of compiled RL2 with 64 units as trials become more, and as they become longer."""
    settings = [(trials, PULLS) for trials in (64, 128, 256, 512)] + [(64, pulls) for pulls in (50, 200, 400)]
    found = []
    for trials, pulls in settings:
        if trials * pulls <= largest:
            agent = rl2(trials, 64, epochs, pulls)
            timed(agent, True, trials * pulls)
            times = [timed(agent, True, trials * pulls)[0] for _ in range(repetitions)]
            found.append({"trials": trials, "pulls": pulls, "rate": trials * pulls / median(times)})
    return found


def render(result: dict[str, Any]) -> str:
    """The tables of the docs."""
    parts = (_rates, _floors, _parts, _scaling)
    return "\n\n".join("\n".join(part(result)) for part in parts) + f"\n\n{_notes(result)}"


def _header(cells: list[str]) -> list[str]:
    return [_line(*cells[:1], cells[1:]), "|---" * len(cells) + "|"]


def _line(name: str, cells: list[str]) -> str:
    return f"| {' | '.join([name, *cells])} |"


def _rates(result: dict[str, Any]) -> list[str]:
    settings = result["settings"]
    cells = [f"{row['units']} units, {row['trials']} trials" for row in settings]
    lines = _header(["thousand steps per second", *cells])
    for name in CONTENDERS:
        lines.append(_line(name, [f"{row['rate'][name] / 1e3:.1f}" for row in settings]))
    for name in CONTENDERS[1:]:
        lines.append(_line(f"*{name}* over *default*", [f"{row['ratio'][name]:.1f}x" for row in settings]))
    return lines


def _floors(result: dict[str, Any]) -> list[str]:
    lines = _header(["units, trials", "FLOPs per step", "ceiling, thousand steps per second", "PyTorch", "compiled"])
    for row in result["settings"]:
        ceiling = result["gemm"] / row["flops"]
        shares = [f"{row['rate'][name] / ceiling:.0%}" for name in CONTENDERS[3:]]
        first = f"{row['units']}, {row['trials']}"
        lines.append(_line(first, [f"{row['flops'] / 1e6:.2f} million", f"{ceiling / 1e3:.1f}", *shares]))
    return lines


def _parts(result: dict[str, Any]) -> list[str]:
    lines = _header(["microseconds of an environment step", *PARTS, "all"])
    for row in result["breakdown"]:
        times = [row["us"][part] for part in PARTS]
        kind = "compiled" if row["compiled"] else "PyTorch alone"
        first = f"{row['units']} units, {row['trials']} trials, {kind}"
        lines.append(_line(first, [f"{value:.1f}" for value in [*times, sum(times)]]))
    return lines


def _scaling(result: dict[str, Any]) -> list[str]:
    lines = _header(["trials x pulls, 64 units, compiled", "thousand steps per second", "microseconds a step"])
    for row in result["scaling"]:
        lines.append(f"| {row['trials']} x {row['pulls']} | {row['rate'] / 1e3:.1f} | {1e6 / row['rate']:.1f} |")
    return lines


def _notes(result: dict[str, Any]) -> str:
    return (
        f"Steps per second of processor time, rollout and update together; medians of {result['repetitions']} "
        f"repetitions; {result['epochs']} epochs, one thread. The ceiling is the rate of a large product of matrices, "
        f"{result['gemm'] / 1e9:.0f} billion operations per second, over the operations of a step. sb3-contrib "
        f"{result['sb3_contrib']}, torch {result['torch']}, numba {result['numba']}."
    )


def main() -> None:
    """Measure, store and print."""
    made = parser(__doc__, "rl2_speed")
    made.add_argument("--quick", action="store_true", help="one small setting, one epoch, once: to see that it runs")
    made.add_argument("--repetitions", type=int, default=REPETITIONS)
    args = made.parse_args()
    th.set_num_threads(1)
    epochs, repetitions = (1, 1) if args.quick else (EPOCHS, args.repetitions)
    settings = [(8, 64)] if args.quick else [(trials, units) for units in UNITS for trials in TRIALS]
    timed(rl2(8, 8, 1), True, 8 * PULLS)  # what is compiled comes from the cache, or into it
    measure = partial(compare, epochs=epochs, repetitions=repetitions)
    parts = [(8, 64)] if args.quick else [(8, 64), (64, 64), (512, 64), (64, 256), (512, 256)]
    result = {
        "gemm": gemm_rate(),
        "settings": [measure(*setting) for setting in settings],
        "breakdown": [breakdown(*part, kind, epochs, repetitions) for part in parts for kind in (False, True)],
        "scaling": scaling(epochs, repetitions, 6400 if args.quick else 10**9),
        "epochs": epochs,
        "repetitions": repetitions,
        **{name.replace("-", "_"): version(name) for name in ("sb3-contrib", "torch", "numba")},
    }
    store(result, args.out, render)


if __name__ == "__main__":
    main()
