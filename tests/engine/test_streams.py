"""The ring of tasks and the tape of noise: what comes when, however far ahead it is drawn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metagym import TaskDistribution
from metagym.engine import streams
from metagym.engine.streams import NoiseTape, TaskRing
from metagym.envs import FrozenLake, PointGoal
from metagym.noise import subkeys, uniforms
from tests.parity import assert_same
from tests.strategies import Drift

DISTRIBUTION = TaskDistribution(Drift())
KEYS = np.arange(4, dtype=np.uint64) * np.uint64(999)


def _ring(num_rows=4):
    ring = TaskRing(DISTRIBUTION, num_rows)
    ring.seed(np.arange(num_rows), KEYS[:num_rows])
    return ring


def _pop(ring, rows):
    slots = ring.pop(rows)
    return ring.tasks.take(slots), ring.ids[slots]


def _expected(row, number):
    return DISTRIBUTION.draw(subkeys(KEYS[row : row + 1], np.array([number])))


@settings(max_examples=40)
@given(
    st.lists(st.lists(st.booleans(), min_size=4, max_size=4).map(np.flatnonzero), max_size=60),
    st.sampled_from([1, 2, 3, 8]),
)
def test_task_number_t_of_a_row_hangs_on_its_key_and_t_alone(pops, depth):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "_MAX_DEPTH", depth)
        ring = _ring()
    counts = np.zeros(4, np.int64)
    for rows in pops:
        if not rows.size:
            continue
        params, ids = _pop(ring, rows)
        for place, row in enumerate(rows):
            expected, expected_id = _expected(row, counts[row])
            assert_same(params.take(np.array([place])).columns(), expected.columns())
            assert ids[place] == expected_id[0]
        counts[rows] += 1


def test_seeding_some_rows_restarts_those_and_no_others():
    ring = _ring()
    for _ in range(3):
        _pop(ring, np.arange(4))
    ring.seed(np.array([1, 3]), KEYS[[1, 3]])
    _, ids = _pop(ring, np.arange(4))
    assert ids.tolist() == [_expected(row, number)[1][0] for row, number in enumerate([3, 0, 3, 0])]


def test_what_was_popped_is_not_changed_by_later_pops():
    ring = _ring()
    params, ids = _pop(ring, np.arange(4))
    kept = ({name: column.copy() for name, column in params.columns().items()}, ids.copy())
    for _ in range(100):
        _pop(ring, np.arange(4))
    assert_same((params.columns(), ids), kept)


def test_the_state_of_a_ring_makes_another_go_on():
    ring, other = _ring(), TaskRing(DISTRIBUTION, 4)
    for rows in ([0, 1, 2, 3], [1], [1, 2]):
        _pop(ring, np.array(rows))
    state = ring.get_state()
    other.set_state(state)
    expected = [_pop(ring, np.arange(4)) for _ in range(50)]
    actual = [_pop(other, np.arange(4)) for _ in range(50)]
    assert_same([ids for _, ids in actual], [ids for _, ids in expected])
    assert state["next"].tolist() == [1, 3, 2, 1]


@pytest.mark.parametrize(
    ("num_rows", "depth"), [(1, 32), (7, 32), (512, 32), (1024, 16), (1000, 16), (16384, 1), (50_000, 1)]
)
def test_the_depth_falls_as_rows_grow(num_rows, depth):
    ring = TaskRing(TaskDistribution(PointGoal()), num_rows)
    assert ring.depth == depth


def test_the_depth_is_bounded_by_bytes_too(monkeypatch):
    monkeypatch.setattr(streams, "_MAX_BYTES", 4 * (256 + 8 + 4) * 5)
    assert TaskRing(TaskDistribution(FrozenLake(size=16)), 4).depth == 4


@settings(max_examples=80)
@given(
    st.lists(st.one_of(st.just("all"), st.sets(st.integers(0, 3), min_size=1)), max_size=60),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_a_row_is_dealt_its_own_stream_stride_by_stride(calls, step_draws, initial_draws):
    tape = NoiseTape(4, step_draws, initial_draws)
    tape.seed(np.arange(4), KEYS)
    stride = max(step_draws, initial_draws)
    expected = uniforms(KEYS, 61 * stride).reshape(4, 61, stride)
    dealt = np.zeros(4, np.int64)
    for call in calls:
        rows = np.arange(4) if call == "all" else np.array(sorted(call))
        strides = expected[rows, dealt[rows]]
        if call == "all":
            assert_same(np.ascontiguousarray(tape.deal()), np.ascontiguousarray(strides[:, :step_draws]))
            some = np.array([1, 3])
            assert_same(tape.dealt_to(some), np.ascontiguousarray(strides[some, :initial_draws]))
        else:
            assert_same(tape.deal_to(rows), np.ascontiguousarray(strides[:, :initial_draws]))
        dealt[rows] += 1


def test_noise_drawn_ahead_cannot_be_written_to():
    tape = NoiseTape(2, 1, 0)
    with pytest.raises(ValueError, match="read-only"):
        tape.deal()[0] = 0.5
