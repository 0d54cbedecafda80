"""Memory and time of the gradient of one minibatch of long trials: all at once, and in chunks.

    python -m benchmarks.rl2_memory                         # prints the tables and writes docs/results/rl2_memory.json

Each case runs in a process of its own, on one thread, and reports by how much its largest resident memory grew, and
processor time, over the evaluation of all trials and the gradient of all weights. What a trial takes in training is the
difference between the largest memories of two processes, whose iterations have few and many trials.
"""

import time
from statistics import median
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from benchmarks.apart import apart, peak_memory
from benchmarks.rl2_speed import PULLS as TRAINED_PULLS
from benchmarks.rl2_speed import UNITS, rl2, timed
from benchmarks.stored import parser, store
from metagym.nets import ExchangeableTrialPolicy, PackedTrials, TrialActorCriticPolicy

POLICIES = ("exchangeable", "GRU of 256 units")
ARMS, PULLS, TRIALS = 50, 500, 64
CHUNKS = (None, 16_000, 4_000, 1_000)
SHAPES = ((125, 64), (250, 64), (500, 64), (1000, 64), (500, 16), (500, 32), (500, 128))
FEW, MANY = 128, 1024  # trials of an iteration
REPETITIONS = 3
MODULE = "benchmarks.rl2_memory"


def policy_of(kind: str, arms: int, pulls: int, chunk_steps: int | None) -> TrialActorCriticPolicy:
    """A policy for bandits as `RL2` shows them."""
    space, actions = spaces.Box(-1.0, 2.0, (1 + arms + 2,), np.float32), spaces.Discrete(arms)
    if kind == "exchangeable":
        return ExchangeableTrialPolicy(space, actions, lambda _: 1e-3, trial_steps=pulls, chunk_steps=chunk_steps)
    return TrialActorCriticPolicy(space, actions, lambda _: 1e-3, rnn_hidden_size=256, chunk_steps=chunk_steps)


def batch_of(arms: int, pulls: int, trials: int) -> tuple[PackedTrials, th.Tensor]:
    """Trials of random pulls, and the next pulls."""
    steps = pulls * trials
    seen = th.rand(steps, 1 + arms + 2)
    seen[:, 1:-2] = th.nn.functional.one_hot(th.randint(0, arms, (steps,)), arms)
    return PackedTrials(seen, (trials,) * pulls), th.randint(0, arms, (steps,)).float()


def measured(kind: str, arms: int, pulls: int, trials: int, chunk_steps: int | None) -> dict[str, float]:
    """Bytes and seconds of one gradient, in this process."""
    th.set_num_threads(1)
    th.manual_seed(0)
    policy = policy_of(kind, arms, pulls, chunk_steps)

    def differentiate(batch: tuple[PackedTrials, th.Tensor]) -> None:
        values, log_probs, entropy = policy.evaluate_actions(*batch)
        assert entropy is not None
        (values.sum() + log_probs.sum() + entropy.sum()).backward()  # type: ignore[no-untyped-call]

    differentiate(batch_of(arms, 2, 4))  # what is compiled or loaded at the first call
    batch = batch_of(arms, pulls, trials)
    before, start = peak_memory(), time.process_time()
    differentiate(batch)
    seconds = time.process_time() - start
    return {"bytes": float(peak_memory() - before), "seconds": seconds}


def gradient(*case: Any, repetitions: int) -> dict[str, Any]:
    """`measured` in processes of their own, medians."""
    found = [apart(MODULE, "measured", *case) for _ in range(repetitions)]
    names = ("policy", "arms", "pulls", "trials", "chunk_steps")
    return dict(zip(names, case, strict=True)) | {name: median(one[name] for one in found) for name in found[0]}


def peak_of_training(units: int, trials: int) -> int:
    """Bytes that this process holds at most in an iteration of RL², compiled, as `benchmarks.rl2_speed` times it."""
    th.set_num_threads(1)
    timed(rl2(trials, units, 1), True, trials * TRAINED_PULLS)
    return peak_memory()


def bytes_per_trial(units: int, few: int, many: int, repetitions: int) -> float:
    """By how much the largest memory of training grows with each trial of an iteration."""
    peaks = [
        median(apart(MODULE, "peak_of_training", units, trials) for _ in range(repetitions)) for trials in (few, many)
    ]
    return (peaks[1] - peaks[0]) / (many - few)


def render(result: dict[str, Any]) -> str:
    """The tables of docs/results.md."""
    lines = ["| policy | steps of a chunk | memory, MB | seconds |", "|---|---|---|---|"]
    for one in result["chunks"]:
        chunk = "all at once" if one["chunk_steps"] is None else f"{one['chunk_steps']:,}"
        lines.append(f"| {one['policy']} | {chunk} | {one['bytes'] / 1e6:.0f} | {one['seconds']:.2f} |")
    first = result["chunks"][0]
    lines += [
        "",
        f"The gradient of {first['trials']} trials of {first['pulls']} pulls of {first['arms']} arms. Cost by the "
        "number of trials and their length, all at once:",
        "",
        "| policy | pulls | trials | microseconds a step | bytes a step |",
        "|---|---|---|---|---|",
    ]
    for one in result["shapes"]:
        steps = one["pulls"] * one["trials"]
        lines.append(
            f"| {one['policy']} | {one['pulls']} | {one['trials']} | {1e6 * one['seconds'] / steps:.1f} "
            f"| {one['bytes'] / steps:,.0f} |"
        )
    of_trials = " and ".join(f"{size / 1e3:.0f} kB with {units} units" for units, size in result["trial"].items())
    lines += [
        "",
        f"In training, a trial of {TRAINED_PULLS} pulls takes {of_trials} (compiled GRU, four minibatches), rollout "
        "and gradients together.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    made = parser(__doc__, "rl2_memory")
    made.add_argument("--quick", action="store_true", help="few short trials, once: to see that it runs")
    given = made.parse_args()
    arms, repetitions = ARMS, 1 if given.quick else REPETITIONS
    pulls, trials, chunks = (10, 8, (None, 20)) if given.quick else (PULLS, TRIALS, CHUNKS)
    shapes = ((10, 8),) if given.quick else SHAPES
    few, many = (16, 32) if given.quick else (FEW, MANY)
    result = {
        "chunks": [
            gradient(kind, arms, pulls, trials, chunk, repetitions=repetitions) for kind in POLICIES for chunk in chunks
        ],
        "shapes": [
            gradient(kind, arms, *shape, None, repetitions=repetitions) for kind in POLICIES for shape in shapes
        ],
        "trial": {str(units): bytes_per_trial(units, few, many, repetitions) for units in UNITS},
        "repetitions": repetitions,
    }
    store(result, given.out, render)


if __name__ == "__main__":
    main()
