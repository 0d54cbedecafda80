"""Counter-based random streams, one per row.

A stream is one 64-bit counter. Draw m of a stream is ``mix(counter + m * GAMMA)``: splitmix64 (Steele, Lea and
Flood 2014, "Fast splittable pseudorandom number generators"). A row's draws therefore depend on that row alone,
whatever its neighbours do, which no generator shared by the rows can give.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from metagym.types import Float, Int, Keys

__all__ = ["GAMMA", "advance", "mix", "seed_keys", "strides", "subkeys", "uniforms"]

GAMMA = np.uint64(0x9E3779B97F4A7C15)
# As 0-d arrays, which ufuncs take in half the time of NumPy's scalars.
_GAMMA, _FIRST, _SECOND = (np.array(word, np.uint64) for word in (GAMMA, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_UNIT = np.array(2.0**-53)
_S27, _S30, _S31, _S11 = (np.array(shift, np.uint64) for shift in (27, 30, 31, 11))


def mix(words: Keys) -> Keys:
    """Scramble 64-bit words, each by itself (splitmix64's finaliser), into a new array of the same shape."""
    mixed = words >> _S30
    mixed ^= words
    mixed *= _FIRST
    mixed ^= mixed >> _S27
    mixed *= _SECOND
    mixed ^= mixed >> _S31
    return mixed


def seed_keys(seeds: Sequence[int], num_streams: int) -> Keys:
    """Independent stream counters for every seed.

    Args:
        seeds: n non-negative integers of any size.
        num_streams: streams per seed.

    Returns:
        Counters, (n, num_streams). Row i depends on ``seeds[i]`` alone.
    """
    states = [np.random.SeedSequence(int(seed)).generate_state(num_streams, np.uint64) for seed in seeds]
    return np.array(states, dtype=np.uint64).reshape(len(seeds), num_streams)


def subkeys(keys: Keys | np.uint64, index: Int | np.int64) -> Keys:
    """Counters of the streams that hang below `keys`, one for each `index`; shapes broadcast."""
    # At least 1-D, since NumPy warns where scalars overflow and not where arrays do.
    words = (np.atleast_1d(index).astype(np.uint64) + np.uint64(1)) * GAMMA
    return mix(keys + mix(words))


def _to_unit(words: Keys) -> Float:
    words >>= _S11
    unit = words.view(np.int64).astype(np.float64)  # signed words convert faster, and 53 bits are exact
    unit *= _UNIT
    return unit


def uniforms(counters: Keys, num_draws: int) -> Float:
    """The next draws of each stream, in [0, 1); the counters stay where they are.

    Args:
        counters: one per row, (N,).
        num_draws: draws per row.

    Returns:
        Doubles with 53 random bits, (N, num_draws).
    """
    if num_draws == 1:
        return _to_unit(mix(counters + _GAMMA)).reshape(-1, 1)
    return _to_unit(mix(counters[:, None] + _offsets(num_draws, 1, num_draws)[0]))


def strides(counters: Keys, num_draws: int, num_strides: int, stride: int) -> Float:
    """The first draws of the next strides of each stream, in [0, 1); the counters stay where they are.

    Args:
        counters: one per row, (N,).
        num_draws: draws wanted of each stride, at most `stride`.
        num_strides: strides, L.
        stride: draws from the start of a stride to the start of the next.

    Returns:
        The same doubles as `uniforms` gives at these places, stride by stride, (L, N, num_draws).
    """
    return _to_unit(mix(counters[:, None] + _offsets(num_draws, num_strides, stride)))


@lru_cache(maxsize=64)
def _offsets(num_draws: int, num_strides: int, stride: int) -> Keys:
    starts = np.arange(num_strides, dtype=np.uint64)[:, None] * np.uint64(stride)
    offsets = np.multiply(starts + np.arange(1, num_draws + 1, dtype=np.uint64), GAMMA, dtype=np.uint64)
    offsets.setflags(write=False)
    return offsets.reshape(num_strides, 1, num_draws)


def advance(num_draws: int) -> np.uint64:
    """What to add to a counter so that its next draw is the one after `num_draws`."""
    return np.uint64((num_draws * int(GAMMA)) & 0xFFFFFFFFFFFFFFFF)
