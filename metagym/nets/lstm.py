"""An LSTM over whole sequences, for the CPU: compiled where numba is installed, else PyTorch's fused kernel.

The sibling of `metagym.nets.gru`, but for one thing: PyTorch has a fused LSTM for CPUs (and no GRU). It was faster
than a loop over time in Python at every size measured, 1.1 to 4 times, so there is none here. The compiled loops took
0.7 to 1 of its time in most settings, and up to 1.4 of it with three rows of 256 units, where reading the weights is
most of the work; they take sequences of unequal length without padding.
"""

from collections.abc import Sequence
from typing import Any

import torch as th
from torch.nn.utils import rnn
from typing_extensions import override

from metagym.nets.compiled_sequence import compiled_lstm, lstm_gradients, runs_compiled
from metagym.nets.gru import previous_states

__all__ = ["compiled_lstm_sequence", "lstm_sequence"]


def lstm_sequence(
    inputs: th.Tensor,
    weight_ih: th.Tensor,
    weight_hh: th.Tensor,
    bias_ih: th.Tensor,
    bias_hh: th.Tensor,
    batch_sizes: Sequence[int],
) -> th.Tensor:
    """Outputs of one LSTM layer along packed sequences that start from the zero state.

    Equal to ``nn.LSTM`` on ``PackedSequence(inputs, batch_sizes)``, whose parameters it takes (Hochreiter & Schmidhuber
    1997, with the forget gates of Gers et al. 2000).

    Args:
        inputs: packed inputs, (n, D), as `gru_sequence` takes them.
        weight_ih: input weights of the input, forget, candidate and output gates, (4H, D).
        weight_hh: recurrent weights, (4H, H).
        bias_ih: input biases, (4H,).
        bias_hh: recurrent biases, (4H,).
        batch_sizes: number of sequences alive at each step, not increasing; sums to n.

    Returns:
        Outputs after each step, (n, H), in the order of ``inputs``. Differentiable any number of times.
    """
    weights = (weight_ih, weight_hh, bias_ih, bias_hh)
    if runs_compiled(inputs, *weights):
        return compiled_lstm_sequence(inputs, weights, batch_sizes)[0]
    # PyTorch's fused CPU kernel takes padded sequences only. Time is causal, so a padded tail cannot reach the steps
    # before it, and the tail itself is dropped.
    rows = batch_sizes[0]
    if batch_sizes[-1] == rows:
        return _fused(inputs.view(len(batch_sizes), rows, -1), weights).reshape(len(inputs), -1)
    padded, lengths = rnn.pad_packed_sequence(rnn.PackedSequence(inputs, th.tensor(batch_sizes)))
    return rnn.pack_padded_sequence(_fused(padded, weights), lengths).data


def compiled_lstm_sequence(
    inputs: th.Tensor,
    weights: Sequence[th.Tensor],
    batch_sizes: Sequence[int],
    initial: tuple[th.Tensor, th.Tensor] | None = None,
) -> tuple[th.Tensor, th.Tensor]:
    """`lstm_sequence` where `runs_compiled` holds, from any state, with the cells.

    Args:
        inputs: (n, D).
        weights: the four of `lstm_sequence`.
        batch_sizes: number of sequences alive at each step.
        initial: outputs and cells before the first step, (batch_sizes[0], H) each, which no gradient goes to;
            None: zeros.

    Returns:
        Outputs after each step, (n, H), and the cells after each step, (n, H), which no gradient comes from.
    """
    before = () if initial is None else tuple(part.detach() for part in initial)
    outputs, cells = _LSTMSequence.apply(inputs, *weights, list(batch_sizes), before)  # type: ignore[no-untyped-call]
    return outputs, cells


def _fused(inputs: th.Tensor, weights: Sequence[th.Tensor]) -> th.Tensor:
    zeros = inputs.new_zeros(1, inputs.shape[1], weights[1].shape[1])
    outputs: th.Tensor = th._VF.lstm(inputs, (zeros, zeros), list(weights), True, 1, 0.0, False, False, False)[0]
    return outputs


class _LSTMSequence(th.autograd.Function):
    @staticmethod
    @override
    def forward(
        ctx: Any,
        inputs: th.Tensor,
        weight_ih: th.Tensor,
        weight_hh: th.Tensor,
        bias_ih: th.Tensor,
        bias_hh: th.Tensor,
        batch_sizes: list[int],
        initial: tuple[th.Tensor, ...],
    ) -> tuple[th.Tensor, th.Tensor]:
        weights = (weight_ih, weight_hh, bias_ih, bias_hh)
        before = (initial[0], initial[1]) if initial else None
        states, cells, ctx.buffer = compiled_lstm(inputs, weights, batch_sizes, before)
        ctx.save_for_backward(inputs, *weights, states, cells)
        ctx.batch_sizes = batch_sizes
        outputs, kept = states[batch_sizes[0] :], cells[batch_sizes[0] :]
        ctx.mark_non_differentiable(kept)
        return outputs, kept

    @staticmethod
    @override
    def backward(ctx: Any, grad: th.Tensor, _: Any) -> tuple[th.Tensor | None, ...]:
        *arguments, states, cells = ctx.saved_tensors
        buffer, batch_sizes = ctx.buffer, ctx.batch_sizes
        if th.is_grad_enabled() or buffer is None:
            initial = states[: batch_sizes[0]], cells[: batch_sizes[0]]
            return *_composed_gradients(arguments, ctx.needs_input_grad, batch_sizes, initial, grad), None, None
        ctx.buffer = None
        inputs, *weights = arguments
        previous = previous_states(states, batch_sizes)
        of_inputs = ctx.needs_input_grad[0]
        found = lstm_gradients(grad, inputs, weights, batch_sizes, cells, previous, buffer, of_inputs=of_inputs)
        return *found, None, None


def _composed_gradients(
    arguments: list[th.Tensor],
    needed: Sequence[bool],
    batch_sizes: list[int],
    initial: tuple[th.Tensor, th.Tensor],
    grad: th.Tensor,
) -> list[th.Tensor | None]:
    """The same gradients, differentiable in turn where gradients are being recorded."""
    wanted = [argument for argument, is_needed in zip(arguments, needed, strict=False) if is_needed]
    recorded = th.is_grad_enabled()
    with th.enable_grad():
        inputs, *weights = arguments
        before = [part.detach().unsqueeze(0) for part in initial]
        states = th._VF.lstm(inputs, th.tensor(batch_sizes), before, weights, True, 1, 0.0, False, False)[0]
        gradients = iter(th.autograd.grad(states, wanted, grad, create_graph=recorded))
    return [next(gradients) if is_needed else None for is_needed in needed[: len(arguments)]]
