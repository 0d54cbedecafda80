"""An LSTM over packed sequences: equal to PyTorch's, whichever way it runs."""

import pytest
import torch as th
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from metagym.nets.compiled_sequence import compiled_recurrence, has_numba
from metagym.nets.lstm import compiled_lstm_sequence, lstm_sequence

BATCHES = [(4, 3, 3, 3, 2, 2, 2), (3,) * 5, (2,), (1, 1, 1)]
needs_numba = pytest.mark.skipif(not has_numba(), reason="numba is not installed")


def setting(batch_sizes, dtype=th.float32, size=8, width=5):
    th.manual_seed(2)
    lstm = nn.LSTM(width, size).to(dtype)
    inputs = th.randn(sum(batch_sizes), width, dtype=dtype, requires_grad=True)
    return lstm, inputs, th.randn(sum(batch_sizes), size, dtype=dtype)


@pytest.mark.parametrize("batch_sizes", BATCHES)
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_numba)])
def test_lstm_sequence_equals_torch_in_values_and_in_all_gradients(batch_sizes, compiled):
    lstm, inputs, weight = setting(batch_sizes)
    arguments = [inputs, *lstm.parameters()]
    expected = lstm(PackedSequence(inputs, th.tensor(batch_sizes)))[0].data
    expected_gradients = th.autograd.grad((expected * weight).sum(), arguments)
    with compiled_recurrence(compiled):
        actual = lstm_sequence(*arguments, batch_sizes)
        gradients = th.autograd.grad((actual * weight).sum(), arguments)
    th.testing.assert_close(actual, expected, atol=1e-6, rtol=0)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        th.testing.assert_close(gradient, expected_gradient, atol=1e-5 * float(expected_gradient.abs().max()), rtol=0)


@needs_numba
@pytest.mark.parametrize("batch_sizes", BATCHES)
def test_it_goes_on_from_a_state_and_tells_the_cells(batch_sizes):
    lstm, inputs, weight = setting(batch_sizes)
    arguments = [inputs, *lstm.parameters()]
    before = th.randn(1, batch_sizes[0], 8), th.randn(1, batch_sizes[0], 8)
    expected, (_, cells) = lstm(PackedSequence(inputs, th.tensor(batch_sizes)), before)
    expected_gradients = th.autograd.grad((expected.data * weight).sum(), arguments)
    initial = before[0][0], before[1][0]
    actual, found_cells = compiled_lstm_sequence(inputs, list(lstm.parameters()), batch_sizes, initial)
    th.testing.assert_close(actual, expected.data, atol=1e-6, rtol=0)
    assert not found_cells.requires_grad
    alive = batch_sizes[-1]
    th.testing.assert_close(found_cells[-alive:], cells[0, :alive], atol=1e-6, rtol=0)
    for gradient, other in zip(th.autograd.grad((actual * weight).sum(), arguments), expected_gradients, strict=True):
        th.testing.assert_close(gradient, other, atol=1e-5 * float(other.abs().max()), rtol=0)


@needs_numba
def test_a_second_backward_pass_gives_the_gradients_of_the_first():
    lstm, inputs, weight = setting(BATCHES[0])
    arguments = [inputs, *lstm.parameters()]
    loss = (lstm_sequence(*arguments, BATCHES[0]) * weight).sum()
    first, second, third = (th.autograd.grad(loss, arguments, retain_graph=True) for _ in range(3))
    for one, *others in zip(first, second, third, strict=True):
        for other in others:
            th.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [th.float64, pytest.param(th.float32, marks=needs_numba)])
def test_gradients_of_gradients_are_those_of_torch(dtype):
    batch_sizes = BATCHES[0]
    lstm, inputs, weight = setting(batch_sizes, dtype)
    wanted = [inputs, *lstm.parameters()]

    def curvature(states):
        slopes = th.autograd.grad((states.square() * weight).sum(), wanted, create_graph=True)
        return th.autograd.grad(sum((slope**3).sum() for slope in slopes), wanted)

    expected = curvature(lstm(PackedSequence(inputs, th.tensor(batch_sizes)))[0].data)
    tolerance = 1e-9 if dtype == th.float64 else 1e-4
    for one, other in zip(expected, curvature(lstm_sequence(*wanted, batch_sizes)), strict=True):
        th.testing.assert_close(other, one, atol=tolerance * float(one.abs().max()), rtol=0)
