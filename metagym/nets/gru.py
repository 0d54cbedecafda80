"""A GRU over whole sequences with a hand-derived backward pass, for the CPU.

Where numba is installed, `metagym.nets.compiled_sequence` walks along single-precision sequences; what follows is for
everywhere else.

PyTorch's CPU ``nn.GRU`` records a dozen autograd nodes per time step. Here the gates of a step are computed in
place, and the backward pass first turns what was stored into the four factors that multiply dL/dh, so that a step
back in time costs three small multiplications and two matrix products; the weights' gradients are one product
each over all steps.

With r, z the reset and update gates, q the candidate's recurrent part, n the candidate and h the state before::

    r, z = sigmoid(W_i x + b_i + W_h h + b_h)        q = W_hn h + b_hn
    n    = tanh(W_in x + b_in + r q)                 h' = n + z (h - n)

the derivatives of the pre-activations, all proportional to dL/dh', are::

    dn = dh' (1 - z)(1 - n^2)     dq = dn r     dr = dn q r (1 - r)     dz = dh' (h - n) z (1 - z)
    dh = dh' z + [dr, dz] W_h + dq W_hn

Where more is asked than one gradient (a second backward pass, or a gradient of the gradient), the layer is computed
again by PyTorch's own operations, which remember everything.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch as th
from typing_extensions import override

from metagym.nets.compiled_sequence import compiled_gru, gru_gradients, runs_compiled

__all__ = ["gru_sequence", "previous_states"]

# Elements per block of rows whose factors are prepared together: small enough to stay in a core's L2 cache.
BLOCK_ELEMENTS = 32_768


def gru_sequence(
    inputs: th.Tensor,
    weight_ih: th.Tensor,
    weight_hh: th.Tensor,
    bias_ih: th.Tensor,
    bias_hh: th.Tensor,
    batch_sizes: Sequence[int],
) -> th.Tensor:
    """States of one GRU layer along packed sequences that start from the zero state (Cho et al. 2014).

    Equal to ``nn.GRU`` on ``PackedSequence(inputs, batch_sizes)``, whose parameters it takes.

    Args:
        inputs: packed inputs, (n, D): the first step of every sequence, then the second of every sequence that
            has one, and so on; sequences in order of decreasing length.
        weight_ih: input weights of the reset, update and candidate gates, (3H, D).
        weight_hh: recurrent weights, (3H, H).
        bias_ih: input biases, (3H,).
        bias_hh: recurrent biases, (3H,).
        batch_sizes: number of sequences alive at each step, not increasing; sums to n.

    Returns:
        States after each step, (n, H), in the order of ``inputs``. Differentiable any number of times; the first
        pass for plain gradients is the fast one.
    """
    result = _GRUSequence.apply(inputs, weight_ih, weight_hh, bias_ih, bias_hh, list(batch_sizes))  # type: ignore[no-untyped-call]
    return th.as_tensor(result)


class _GRUSequence(th.autograd.Function):
    # One buffer (n, 4H) holds n, r, z and q of every row, in this order: the inputs' product fills the first three,
    # the states' product the last three, and the backward pass puts the derivatives in their places.

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
    ) -> th.Tensor:
        weights = (weight_ih, weight_hh, bias_ih, bias_hh)
        ctx.compiled = runs_compiled(inputs, *weights)
        walk = compiled_gru if ctx.compiled else _forward_in_time
        states, ctx.buffer = walk(inputs, weights, batch_sizes)
        ctx.save_for_backward(inputs, *weights, states)
        ctx.batch_sizes = batch_sizes
        return states[batch_sizes[0] :]

    @staticmethod
    @override
    def backward(ctx: Any, grad: th.Tensor) -> tuple[th.Tensor | None, ...]:
        *arguments, states = ctx.saved_tensors
        buffer, batch_sizes = ctx.buffer, ctx.batch_sizes
        if th.is_grad_enabled() or buffer is None:
            return *_composed_gradients(arguments, ctx.needs_input_grad, batch_sizes, grad), None
        ctx.buffer = None
        inputs, *weights = arguments
        previous = previous_states(states, batch_sizes)
        of_inputs = ctx.needs_input_grad[0]
        if ctx.compiled:
            found = gru_gradients(grad, inputs, weights, batch_sizes, states, previous, buffer, of_inputs=of_inputs)
            return *found, None
        weight_ih, weight_hh = weights[:2]
        _backward_in_time(grad, buffer, previous, weight_hh, batch_sizes)
        size = weight_hh.shape[1]
        d_nrz, d_rzq = buffer[:, : 3 * size], buffer[:, size:]
        d_bias = buffer.sum(0)
        d_inputs = d_nrz @ weight_ih.roll(size, 0) if of_inputs else None
        d_weight_ih = (d_nrz.t() @ inputs).roll(-size, 0)
        return d_inputs, d_weight_ih, d_rzq.t() @ previous, d_bias[: 3 * size].roll(-size), d_bias[size:], None


def _forward_in_time(
    inputs: th.Tensor, weights: Sequence[th.Tensor], batch_sizes: list[int]
) -> tuple[th.Tensor, th.Tensor]:
    """The zero states and those after each step, (batch_sizes[0] + n, H); n, r, z and q of every row, (n, 4H)."""
    weight_ih, weight_hh, bias_ih, bias_hh = weights
    size = weight_hh.shape[1]
    bias = th.cat([bias_ih[2 * size :], bias_ih[: 2 * size] + bias_hh[: 2 * size], bias_hh[2 * size :]])
    buffer = bias.expand(len(inputs), 4 * size).clone()
    buffer[:, : 3 * size].addmm_(inputs, weight_ih.roll(size, 0).t())
    states = inputs.new_empty(batch_sizes[0] + len(inputs), size)
    states[: batch_sizes[0]] = 0.0
    state, rows = states[: batch_sizes[0]], batch_sizes[0]
    weight = weight_hh.t()
    columns = (buffer[:, size:], buffer[:, size : 3 * size], *th.split(buffer, size, dim=1))
    outs = th.split(states[batch_sizes[0] :], batch_sizes)
    views = zip(batch_sizes, *(th.split(column, batch_sizes) for column in columns), outs, strict=True)
    for alive, rzq, rz, n, r, z, q, out in views:
        if alive != rows:
            state, rows = state[:alive], alive
        rzq.addmm_(state, weight)
        rz.sigmoid_()
        n.addcmul_(r, q).tanh_()
        state = th.lerp(n, state, z, out=out)
    return states, buffer


def _composed_gradients(
    arguments: list[th.Tensor], needed: Sequence[bool], batch_sizes: list[int], grad: th.Tensor
) -> list[th.Tensor | None]:
    """The same gradients, differentiable in turn where gradients are being recorded."""
    wanted = [argument for argument, is_needed in zip(arguments, needed, strict=False) if is_needed]
    recorded = th.is_grad_enabled()
    with th.enable_grad():
        inputs, *weights = arguments
        zeros = inputs.new_zeros(1, batch_sizes[0], weights[1].shape[1])
        states = th._VF.gru(inputs, th.tensor(batch_sizes), zeros, weights, True, 1, 0.0, False, False)[0]
        gradients = iter(th.autograd.grad(states, wanted, grad, create_graph=recorded))
    return [next(gradients) if is_needed else None for is_needed in needed[: len(arguments)]]


def previous_states(states: th.Tensor, batch_sizes: list[int]) -> th.Tensor:
    """The state each step started from, (n, H); `states` begins with the zero states."""
    first = batch_sizes[0]
    if batch_sizes[-1] == first:
        return states[:-first]
    blocks = th.split(states, [first, *batch_sizes])
    return th.cat([block[:alive] for block, alive in zip(blocks, batch_sizes, strict=False)])


def _backward_in_time(
    grad: th.Tensor, buffer: th.Tensor, previous: th.Tensor, weight_hh: th.Tensor, batch_sizes: list[int]
) -> None:
    """Replace n, r, z and q in `buffer` (n, 4H) by the loss's derivatives by their pre-activations."""
    size = weight_hh.shape[1]
    gates = th.split(buffer.view(-1, 4, size), batch_sizes)
    d_rzqs = th.split(buffer[:, size:], batch_sizes)
    grads = th.split(grad, batch_sizes)
    steps_per_block = max(1, BLOCK_ELEMENTS // (size * batch_sizes[0]))
    borders = [*range(0, len(batch_sizes), steps_per_block), len(batch_sizes)]
    high = len(buffer)
    d_state, rows = buffer.new_zeros(batch_sizes[-1], size), batch_sizes[-1]
    for start, stop in reversed(list(pairwise(borders))):
        low = high - sum(batch_sizes[start:stop])
        keep = th.split(_factors_in_place(buffer[low:high], previous[low:high]), batch_sizes[start:stop])
        high = low
        for step in range(stop - 1, start - 1, -1):
            if batch_sizes[step] == rows:
                d_state.add_(grads[step])
            else:  # sequences that end here join those that go on, the first rows
                d_state, going_on, rows = grads[step].clone(), d_state, batch_sizes[step]
                d_state[: len(going_on)] += going_on
            gates[step].mul_(d_state.unsqueeze(1))
            d_state.mul_(keep[step - start]).addmm_(d_rzqs[step], weight_hh)


def _factors_in_place(buffer: th.Tensor, previous: th.Tensor) -> th.Tensor:
    """Turn n, r, z and q of some rows into what multiplies dL/dh'; returns the factor z of dL/dh, (rows, H)."""
    n, r, z, q = buffer.chunk(4, dim=1)
    keep = z.clone()
    by_n = (1.0 - z) * (1.0 - n * n)
    z.mul_(1.0 - z).mul_(previous - n)
    n.copy_(by_n)
    by_q = q * by_n
    th.mul(by_n, r, out=q)
    r.mul_(1.0 - r).mul_(by_q)
    return keep
