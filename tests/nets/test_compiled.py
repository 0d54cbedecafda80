"""Compiled recurrences: the function that PyTorch computes, in one order of sums."""

import numpy as np
import pytest
import torch as th
from torch import nn

from metagym.nets import TrialRNN, compiled_sequence, gru_sequence
from metagym.nets.compiled_sequence import compiled_recurrence, has_numba, runs_compiled
from metagym.nets.lstm import lstm_sequence
from metagym.nets.recurrent import PackedTrials

pytestmark = pytest.mark.skipif(not has_numba(), reason="numba is not installed")

RAGGED = (19, 19, 12, 9, 9, 9, 4, 1, 1)
BATCHES = [RAGGED, (16,) * 6, (3, 2, 1), (1,), (33,)]
SEQUENCES = {"gru": gru_sequence, "lstm": lstm_sequence}
SIZES = [(1, 1), (5, 3), (8, 40), (33, 7), (64, 13)]
kinds = pytest.mark.parametrize("kind", list(SEQUENCES))


@pytest.fixture(autouse=True)
def threads():
    before = th.get_num_threads()
    yield
    th.set_num_threads(before)


def setting(kind, batch_sizes, size, width):
    th.manual_seed(size)
    net = (nn.GRU if kind == "gru" else nn.LSTM)(width, size)
    inputs = th.randn(sum(batch_sizes), width, requires_grad=True)
    return [inputs, *net.parameters()], th.randn(sum(batch_sizes), size)


def states_and_gradients(kind, batch_sizes, arguments, weight):
    states = SEQUENCES[kind](*arguments, batch_sizes)
    return [states.detach(), *th.autograd.grad((states * weight).sum(), arguments)]


def assert_equal_bits(some, others):
    for one, other in zip(some, others, strict=True):
        assert th.equal(one, other)


@kinds
@pytest.mark.parametrize("batch_sizes", BATCHES)
@pytest.mark.parametrize(("size", "width"), SIZES)
def test_states_and_gradients_are_those_of_plain_torch(kind, batch_sizes, size, width):
    arguments, weight = setting(kind, batch_sizes, size, width)
    states, *gradients = states_and_gradients(kind, batch_sizes, arguments, weight)
    with compiled_recurrence(False):
        expected, *expected_gradients = states_and_gradients(kind, batch_sizes, arguments, weight)
    th.testing.assert_close(states, expected, atol=1e-6, rtol=0)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        th.testing.assert_close(gradient, other, atol=1e-5 * float(other.abs().max()) + 1e-9, rtol=0)


@kinds
def test_long_sequences_stay_as_close_to_double_precision_as_torch(kind):
    batch_sizes = (16,) * 100
    arguments, weight = setting(kind, batch_sizes, 64, 13)
    found = states_and_gradients(kind, batch_sizes, arguments, weight)
    with compiled_recurrence(False):
        plain = states_and_gradients(kind, batch_sizes, arguments, weight)
    doubles = [argument.detach().double().requires_grad_() for argument in arguments]
    exact = states_and_gradients(kind, batch_sizes, doubles, weight.double())
    for own, theirs, true in zip(found, plain, exact, strict=True):
        assert (own - true).abs().max() <= 4 * (theirs - true).abs().max() + 1e-7


@kinds
@pytest.mark.parametrize("batch_sizes", [RAGGED, (40,) * 3])
def test_every_run_and_every_number_of_threads_gives_the_same_bits(kind, batch_sizes, monkeypatch):
    arguments, weight = setting(kind, batch_sizes, 33, 7)
    alone = states_and_gradients(kind, batch_sizes, arguments, weight)
    assert_equal_bits(alone, states_and_gradients(kind, batch_sizes, arguments, weight))
    monkeypatch.setattr(compiled_sequence, "WORTH_A_THREAD", 1)
    for number in (1, 2, 3, 7):
        th.set_num_threads(number)
        assert_equal_bits(alone, states_and_gradients(kind, batch_sizes, arguments, weight))


def test_threads_get_about_equal_work(monkeypatch):
    monkeypatch.setattr(compiled_sequence, "WORTH_A_THREAD", 1)
    th.set_num_threads(3)
    sizes = np.array([64] * 50 + [16] * 50)
    spans = compiled_sequence._spans_of_rows(sizes, 1)
    assert [first for first, _ in spans[1:]] == [last for _, last in spans[:-1]]
    assert (spans[0][0], spans[-1][1]) == (0, 64)
    work = [np.clip(sizes - first, 0, last - first).sum() for first, last in spans]
    assert len(work) == 3
    assert max(work) <= 1.5 * sizes.sum() / 3


@kinds
@pytest.mark.parametrize("rows", [1, 2, 5, 8, 13])
def test_a_sequence_has_the_same_bits_in_any_company(kind, rows):
    steps = 4
    arguments, _ = setting(kind, (16,) * steps, 33, 7)
    with th.no_grad():
        together = SEQUENCES[kind](*arguments, (16,) * steps).view(steps, 16, -1)
        few = arguments[0].view(steps, 16, -1)[:, :rows].reshape(steps * rows, -1)
        apart = SEQUENCES[kind](few, *arguments[1:], (rows,) * steps).view(steps, rows, -1)
    assert th.equal(together[:, :rows], apart)


@pytest.fixture
def every_step_compiled(monkeypatch):
    monkeypatch.setattr("metagym.nets.recurrent.ROWS_WORTH_A_LOOP", 1)


@kinds
@pytest.mark.usefixtures("every_step_compiled")
def test_a_walk_in_single_steps_gives_the_bits_of_the_sequence(kind):
    th.manual_seed(0)
    rnn = TrialRNN(kind, 7, 20, 2)
    features = th.randn(5, 3, 7)
    with th.no_grad():
        whole = rnn(PackedTrials(features.reshape(15, 7), (3,) * 5)).view(5, 3, 20)
        state, outputs = rnn.zero_state(3), []
        for step in features:
            out, state = rnn.step(step, state)
            outputs.append(out)
    assert th.equal(th.stack(outputs), whole)


@kinds
@pytest.mark.usefixtures("every_step_compiled")
def test_steps_follow_weights_that_change_behind_autograds_back(kind):
    th.manual_seed(0)
    rnn = TrialRNN(kind, 3, 4, 1)
    features = th.randn(2, 3)
    with th.no_grad():
        before = rnn.step(features, rnn.zero_state(2))[0]
        rnn.rnn.weight_ih_l0.data.mul_(2.0)
        after = rnn.step(features, rnn.zero_state(2))[0]
        expected = rnn(PackedTrials(features, (2,)))
    assert not th.equal(before, after)
    assert th.equal(after, expected)


@kinds
def test_single_steps_of_few_and_of_many_rows_agree(kind):
    th.manual_seed(0)
    rnn = TrialRNN(kind, 3, 4, 2)
    features, state = th.randn(300, 3), tuple(th.randn(2, 300, 4) for _ in rnn.zero_state(1))
    with th.no_grad():
        out, after = rnn.step(features, state)
        few, after_few = rnn.step(features[:2], tuple(part[:, :2] for part in state))
    th.testing.assert_close(out[:2], few, atol=1e-6, rtol=0)
    for part, part_few in zip(after, after_few, strict=True):
        th.testing.assert_close(part[:, :2], part_few, atol=1e-6, rtol=0)


@kinds
@pytest.mark.usefixtures("every_step_compiled")
def test_a_walk_does_not_change_the_state_it_started_from(kind):
    rnn = TrialRNN(kind, 3, 4, 1)
    state = rnn.zero_state(2)
    with th.no_grad():
        rnn.step(th.randn(2, 3), state)
    assert all(not part.any() for part in state)


@kinds
@pytest.mark.parametrize("value", [1e4, -1e4, 1e30, float("inf")])
def test_gates_saturate_as_those_of_torch(kind, value):
    arguments, _ = setting(kind, (2, 2), 8, 3)
    with th.no_grad():
        arguments[0].fill_(value)
        found = SEQUENCES[kind](*arguments, (2, 2))
        with compiled_recurrence(False):
            expected = SEQUENCES[kind](*arguments, (2, 2))
    th.testing.assert_close(found, expected, atol=1e-6, rtol=0, equal_nan=True)


@kinds
def test_what_is_not_a_number_stays_so(kind):
    arguments, _ = setting(kind, (2, 2), 8, 3)
    with th.no_grad():
        arguments[0][0, 0] = float("nan")
        found = SEQUENCES[kind](*arguments, (2, 2)).view(2, 2, 8)
    assert found[:, 0].isnan().all()
    assert not found[:, 1].isnan().any()


def test_single_precision_on_the_cpu_runs_compiled_unless_forbidden():
    assert runs_compiled(th.zeros(1))
    assert not runs_compiled(th.zeros(1), th.zeros(1, dtype=th.float64))
    assert not runs_compiled(th.zeros(1, device="meta"))
    with compiled_recurrence(False):
        assert not runs_compiled(th.zeros(1))
        with compiled_recurrence(True):
            assert runs_compiled(th.zeros(1))
        assert not runs_compiled(th.zeros(1))
    assert runs_compiled(th.zeros(1))


@pytest.fixture
def forgotten():
    compiled_sequence.has_numba.cache_clear()
    yield
    compiled_sequence.has_numba.cache_clear()


@pytest.mark.usefixtures("forgotten")
def test_without_numba_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr(compiled_sequence, "find_spec", lambda _: None)
    assert not runs_compiled(th.zeros(1))


@pytest.mark.usefixtures("forgotten")
def test_a_numba_that_cannot_be_imported_is_named_and_not_used(monkeypatch):
    def refuse(_):
        raise ImportError("Numba needs NumPy 2.0 or less")

    monkeypatch.setattr(compiled_sequence, "import_module", refuse)
    with pytest.warns(UserWarning, match="not used: Numba needs NumPy"):
        assert not runs_compiled(th.zeros(1))
    assert not runs_compiled(th.zeros(1))
