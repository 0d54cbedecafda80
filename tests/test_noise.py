"""Counter-based streams: known values, independence of rows, and statistical quality at fixed seeds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from metagym.noise import GAMMA, advance, mix, seed_keys, subkeys, uniforms
from tests.parity import assert_same

MASK = 2**64 - 1


def _mix(word):
    """splitmix64's finaliser with Python's integers."""
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & MASK
    return word ^ (word >> 31)


words = st.integers(0, MASK)


def test_the_first_outputs_of_splitmix64_are_the_published_ones():
    # Seed 1234567, as in Vigna's reference and Rosetta Code.
    counters = np.uint64(1234567) + np.arange(1, 6, dtype=np.uint64) * GAMMA
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert mix(counters).tolist() == expected


@given(st.lists(words, min_size=1, max_size=20))
def test_mix_equals_the_finaliser_in_pythons_integers_and_leaves_its_argument(values):
    array = np.array(values, np.uint64)
    assert mix(array).tolist() == [_mix(value) for value in values]
    assert array.tolist() == values


@given(words, st.integers(0, 50))
def test_uniforms_are_53_bits_of_the_mixed_counter(counter, num_draws):
    actual = uniforms(np.array([counter], np.uint64), num_draws)
    expected = [(_mix((counter + k * int(GAMMA)) & MASK) >> 11) / 2**53 for k in range(1, num_draws + 1)]
    assert actual.tolist() == [expected]
    assert actual.dtype == np.float64
    assert actual.shape == (1, num_draws)


@settings(max_examples=50)
@given(words, st.integers(0, 2**40), st.integers(1, 9))
def test_advancing_skips_exactly_as_many_draws(counter, num_skipped, num_draws):
    start = np.array([counter], np.uint64)
    skipped = start + advance(num_skipped)
    expected = [
        (_mix((counter + (num_skipped + k) * int(GAMMA)) & MASK) >> 11) / 2**53 for k in range(1, num_draws + 1)
    ]
    assert uniforms(skipped, num_draws).tolist() == [expected]


@given(st.integers(1, 8), st.integers(0, 8), st.randoms(use_true_random=False))
def test_rows_do_not_depend_on_each_other_nor_on_block_sizes(num_rows, num_draws, random):
    counters = np.array([random.getrandbits(64) for _ in range(num_rows)], np.uint64)
    before = counters.copy()
    block = uniforms(counters, num_draws)
    assert_same(counters, before)
    for row in range(num_rows):
        assert_same(uniforms(counters[row : row + 1], num_draws), block[row : row + 1])
        for draw in range(num_draws):
            assert uniforms(counters[row : row + 1] + advance(draw), 1)[0, 0] == block[row, draw]


def test_uniforms_are_never_one():
    assert uniforms(np.array([0], np.uint64), 1)[0, 0] < 1.0
    assert (np.uint64(MASK) >> np.uint64(11)) * 2.0**-53 < 1.0
    draws = uniforms(np.arange(1000, dtype=np.uint64), 100)
    assert draws.min() >= 0.0
    assert draws.max() < 1.0


@given(st.lists(st.one_of(st.integers(0, 5), st.integers(0, 2**200)), min_size=1, max_size=5), st.integers(1, 4))
def test_keys_depend_on_their_seed_alone(seeds, num_streams):
    keys = seed_keys(seeds, num_streams)
    assert keys.shape == (len(seeds), num_streams)
    assert keys.dtype == np.uint64
    for row, seed in enumerate(seeds):
        assert_same(seed_keys([seed], num_streams)[0], keys[row])


def test_keys_of_a_hundred_thousand_subkeys_and_of_many_seeds_all_differ():
    keys = seed_keys(range(2000), 3).ravel()
    below = subkeys(keys[:100, None], np.arange(1000)[None]).ravel()
    assert len(np.unique(np.concatenate([keys, below]))) == len(keys) + len(below)


@given(words, st.integers(0, 2**62))
def test_subkeys_are_the_same_one_by_one_and_at_once(key, index):
    keys = np.array([key, key ^ 1], np.uint64)
    indices = np.array([index, index + 1])
    at_once = subkeys(keys, indices)
    assert [
        subkeys(np.uint64(key), np.int64(index))[0],
        subkeys(np.uint64(key ^ 1), np.int64(index + 1))[0],
    ] == at_once.tolist()
    assert at_once[0] == _mix((key + _mix((index + 1) * int(GAMMA) & MASK)) & MASK)


def test_no_rows_have_no_keys():
    assert seed_keys([], 3).shape == (0, 3)


def test_nothing_warns_of_overflow():
    with np.errstate(all="raise"):
        mix(np.array([MASK], np.uint64))
        uniforms(np.array([MASK], np.uint64), 5)
        subkeys(np.array([MASK], np.uint64), np.int64(2**62))
        advance(2**63)


# --- quality ---------------------------------------------------------------------------------------------------------

NUM_ROWS, NUM_DRAWS = 200, 500
STREAMS = {
    "seeds in a row": lambda: seed_keys(range(NUM_ROWS), 3)[:, 0],
    "keys in a row": lambda: np.arange(NUM_ROWS, dtype=np.uint64),
    "subkeys": lambda: subkeys(np.uint64(7), np.arange(NUM_ROWS)),
}
every_stream = pytest.mark.parametrize("name", STREAMS)


def _draws(name):
    return uniforms(STREAMS[name](), NUM_DRAWS)


@every_stream
def test_draws_are_uniform_within_rows_and_across_rows(name):
    draws = _draws(name)
    assert stats.kstest(draws.ravel(), "uniform").pvalue > 1e-3
    within = stats.kstest(draws, "uniform", axis=1).pvalue
    across = stats.kstest(draws, "uniform", axis=0).pvalue
    for pvalues in (within, across):
        assert stats.kstest(pvalues, "uniform").pvalue > 1e-3


@every_stream
def test_draws_of_a_row_and_of_neighbouring_rows_are_uncorrelated(name):
    draws = _draws(name) - 0.5
    bound = 4.5 / 12 / np.sqrt(draws.size)
    for lag in (1, 2, 3, 7):
        assert abs((draws[:, lag:] * draws[:, :-lag]).mean()) < bound
        assert abs((draws[lag:] * draws[:-lag]).mean()) < bound
        assert abs((draws[lag:, lag:] * draws[:-lag, :-lag]).mean()) < bound


@every_stream
def test_pairs_of_draws_fill_the_square(name):
    draws = _draws(name)
    for left, right in ((draws[:, ::2], draws[:, 1::2]), (draws[::2], draws[1::2])):
        counts = np.histogram2d(left.ravel(), right.ravel(), bins=16, range=((0, 1), (0, 1)))[0]
        assert stats.chisquare(counts.ravel()).pvalue > 1e-3


@every_stream
def test_every_bit_is_fair(name):
    bits = (_draws(name) * 2.0**53).astype(np.uint64)[..., None] >> np.arange(53, dtype=np.uint64) & np.uint64(1)
    heads = bits.reshape(-1, 53).sum(axis=0, dtype=np.int64)
    assert (np.abs(heads - NUM_ROWS * NUM_DRAWS / 2) < 4.5 * np.sqrt(NUM_ROWS * NUM_DRAWS) / 2).all()


def test_the_three_streams_of_a_seed_are_uncorrelated():
    draws = [uniforms(seed_keys(range(NUM_ROWS), 3)[:, stream], NUM_DRAWS).ravel() for stream in range(3)]
    correlations = np.corrcoef(draws)[np.triu_indices(3, 1)]
    assert (np.abs(correlations) < 4.5 / np.sqrt(NUM_ROWS * NUM_DRAWS)).all()


def test_flipping_a_bit_of_a_counter_flips_half_of_the_bits():
    base = mix(np.arange(1000, dtype=np.uint64) * GAMMA)
    for bit in range(64):
        flipped = mix(np.arange(1000, dtype=np.uint64) * GAMMA ^ (np.uint64(1) << np.uint64(bit)))
        share = np.unpackbits((base ^ flipped).view(np.uint8)).mean()
        assert 0.48 < share < 0.52
