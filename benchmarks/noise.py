"""Two ways to draw random numbers row by row: a counter hashed per row, and a NumPy Generator per row read in blocks.

    python -m benchmarks.noise

Prints microseconds of processor time for one draw in each of 1,024 rows.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from metagym.engine.streams import NoiseTape

NUM_ROWS = 1024


def microseconds(call: Callable[[], Any], *, calls: int = 1280, repetitions: int = 5) -> float:
    """Fastest mean of several repetitions."""
    best = float("inf")
    for _ in range(repetitions):
        start = time.process_time()
        for _ in range(calls):
            call()
        best = min(best, (time.process_time() - start) / calls)
    return 1e6 * best


def hashed(*, in_phase: bool) -> Callable[[], Any]:
    """The tape of the engine; out of phase, every ninth row is called twice each time, as resets in SAME_STEP are."""
    tape = NoiseTape(NUM_ROWS, 1, 0)
    tape.seed(np.arange(NUM_ROWS), np.random.default_rng(0).integers(0, 2**64, NUM_ROWS, dtype=np.uint64))
    some = np.arange(0, NUM_ROWS, 9)

    def call() -> None:
        tape.deal()
        if not in_phase:
            tape.deal_to(some)

    return call


def generators(block: int) -> Callable[[], Any]:
    """A Generator a row, drawn ahead in blocks."""
    rngs = [np.random.default_rng(row) for row in range(NUM_ROWS)]
    drawn, used, rows = np.empty((NUM_ROWS, block)), np.full(NUM_ROWS, block), np.arange(NUM_ROWS)

    def call() -> Any:
        nonlocal used
        for row in np.flatnonzero(used == block).tolist():
            drawn[row], used[row] = rngs[row].random(block), 0
        noise = drawn[rows, used]
        used += 1
        return noise

    return call


def main() -> None:
    """Measure and print."""
    print(f"hash of a counter, rows in phase: {microseconds(hashed(in_phase=True)):.1f} us")
    print(f"hash of a counter, a ninth of the rows called twice: {microseconds(hashed(in_phase=False)):.1f} us")
    for block in (16, 64, 256):
        print(f"one Generator a row, blocks of {block}: {microseconds(generators(block)):.1f} us")


if __name__ == "__main__":
    main()
