"""Which recurrences run compiled, and how tensors come to the compiled loops and back.

Where numba is installed (extra ``compiled``), single-precision GRUs and LSTMs on the CPU run in the loops of
`metagym.nets.compiled_kernels`; everywhere else in PyTorch's operations. Both compute the same function, to rounding.

Work is dealt to as many threads as PyTorch has, in parts that do not share a single number: sequences first, then
columns of the weights' gradients. So results are the same bits for every number of threads.
"""

import os
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
import torch as th

from metagym.types import Array, Int

__all__ = [
    "compiled_gru",
    "compiled_lstm",
    "compiled_recurrence",
    "gru_gradients",
    "has_numba",
    "lstm_gradients",
    "runs_compiled",
]

# Multiplications for which waking a second thread pays.
WORTH_A_THREAD = 30_000_000


class _Choice:
    wanted = True


@contextmanager
def compiled_recurrence(wanted: bool) -> Iterator[None]:
    """Within the block, allow compiled recurrences (as everywhere by default) or forbid them.

    Args:
        wanted: False: PyTorch's operations alone.
    """
    before, _Choice.wanted = _Choice.wanted, wanted
    try:
        yield
    finally:
        _Choice.wanted = before


def runs_compiled(*tensors: th.Tensor) -> bool:
    """Whether a recurrence over these tensors runs compiled."""
    single = all(tensor.dtype == th.float32 and tensor.device.type == "cpu" for tensor in tensors)
    return single and _Choice.wanted and has_numba()


@cache
def has_numba() -> bool:
    """Whether numba is installed and works; it is imported here, which takes half a second."""
    if find_spec("numba") is None:
        return False
    try:
        import_module("metagym.nets.compiled_kernels")
    except ImportError as broken:
        warnings.warn(f"numba is installed but cannot be imported, and is not used: {broken}", stacklevel=3)
        return False
    return True


def compiled_gru(
    inputs: th.Tensor,
    weights: Sequence[th.Tensor],
    batch_sizes: Sequence[int],
    initial: th.Tensor | None = None,
) -> tuple[th.Tensor, th.Tensor]:
    """States of a GRU layer along packed sequences, and what its gradients need.

    Args:
        inputs: (n, D).
        weights: (3H, D), (3H, H), (3H,) and (3H,), as those of ``nn.GRU``.
        batch_sizes: sequences alive at each step.
        initial: states before the first step, (batch_sizes[0], H); None: zeros.

    Returns:
        Initial states and those after each step, (batch_sizes[0] + n, H); gates, (n, 4H).
    """
    kernels = _kernels()
    bias_ih, bias_hh = map(_array, weights[2:])
    size, width = weights[1].shape[1], inputs.shape[1]
    bias = np.concatenate(
        [bias_ih[2 * size :], bias_ih[: 2 * size] + bias_hh[: 2 * size], bias_hh[2 * size :]], dtype=np.float32
    )
    turned = _kept_panels if len(batch_sizes) == 1 else _turned_panels
    weight_x, weight_h = turned(weights[0], size), turned(weights[1], 0)
    states, buffer = _with_initial(len(inputs), batch_sizes[0], size, initial), np.empty((len(inputs), 4 * size), _F32)
    sizes = np.array(batch_sizes, np.int64)
    arguments = (_array(inputs), weight_x, weight_h, bias, sizes, states, buffer)
    spans = _spans_of_rows(sizes, 3 * size * (size + width))
    _in_parallel(kernels.gru_forward, spans, arguments)
    return th.from_numpy(states), th.from_numpy(buffer)


def gru_gradients(
    grad: th.Tensor,
    inputs: th.Tensor,
    weights: Sequence[th.Tensor],
    batch_sizes: Sequence[int],
    states: th.Tensor,
    previous: th.Tensor,
    buffer: th.Tensor,
    *,
    of_inputs: bool,
) -> tuple[th.Tensor | None, th.Tensor, th.Tensor, th.Tensor, th.Tensor]:
    """Gradients of inputs and weights.

    Args:
        grad: by the states after each step, (n, H).
        inputs: of `compiled_gru`.
        weights: of `compiled_gru`.
        batch_sizes: of `compiled_gru`.
        states: what `compiled_gru` returned.
        previous: the state each step started from, (n, H).
        buffer: what `compiled_gru` returned; overwritten.
        of_inputs: whether those of the inputs are wanted.
    """
    size = weights[1].shape[1]
    gates, sizes = buffer.numpy(), np.array(batch_sizes, np.int64)
    d_states = np.zeros((batch_sizes[0], size), _F32)
    arguments = (_array(grad), _panels(weights[1]), sizes, states.numpy(), gates, d_states)
    _in_parallel(_kernels().gru_backward, _spans_of_rows(sizes, 3 * size * size), arguments)
    by_x, by_states, sums = _weight_gradients(inputs, previous, gates, size)
    d_inputs = _times(gates, weights[0].roll(size, 0)) if of_inputs else None
    d_weight_ih = by_x[:, : 3 * size].t().roll(-size, 0)
    return d_inputs, d_weight_ih, by_states[:, size:].t(), sums[: 3 * size].roll(-size), sums[size:]


def compiled_lstm(
    inputs: th.Tensor,
    weights: Sequence[th.Tensor],
    batch_sizes: Sequence[int],
    initial: tuple[th.Tensor, th.Tensor] | None = None,
) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """Outputs and cells of an LSTM layer along packed sequences, and what its gradients need.

    Args:
        inputs: (n, D).
        weights: (4H, D), (4H, H), (4H,) and (4H,), as those of ``nn.LSTM``.
        batch_sizes: sequences alive at each step.
        initial: outputs and cells before the first step, (batch_sizes[0], H) each; None: zeros.

    Returns:
        Initial outputs and those after each step, (batch_sizes[0] + n, H); the same of cells; gates, (n, 4H).
    """
    bias_ih, bias_hh = map(_array, weights[2:])
    size, width, rows = weights[1].shape[1], inputs.shape[1], batch_sizes[0]
    initial_states, initial_cells = (None, None) if initial is None else initial
    states = _with_initial(len(inputs), rows, size, initial_states)
    cells = _with_initial(len(inputs), rows, size, initial_cells)
    buffer = np.empty((len(inputs), 4 * size), _F32)
    sizes = np.array(batch_sizes, np.int64)
    turned = _kept_panels if len(batch_sizes) == 1 else _turned_panels
    panels = turned(weights[0], 0), turned(weights[1], 0)
    arguments = (_array(inputs), *panels, bias_ih + bias_hh, sizes, states, cells, buffer)
    _in_parallel(_kernels().lstm_forward, _spans_of_rows(sizes, 4 * size * (size + width)), arguments)
    return th.from_numpy(states), th.from_numpy(cells), th.from_numpy(buffer)


def lstm_gradients(
    grad: th.Tensor,
    inputs: th.Tensor,
    weights: Sequence[th.Tensor],
    batch_sizes: Sequence[int],
    cells: th.Tensor,
    previous: th.Tensor,
    buffer: th.Tensor,
    *,
    of_inputs: bool,
) -> tuple[th.Tensor | None, th.Tensor, th.Tensor, th.Tensor, th.Tensor]:
    """Gradients of inputs and weights.

    Args:
        grad: by the outputs after each step, (n, H).
        inputs: of `compiled_lstm`.
        weights: of `compiled_lstm`.
        batch_sizes: of `compiled_lstm`.
        cells: what `compiled_lstm` returned.
        previous: the output each step started from, (n, H).
        buffer: what `compiled_lstm` returned; overwritten.
        of_inputs: whether those of the inputs are wanted.
    """
    size = weights[1].shape[1]
    gates, sizes = buffer.numpy(), np.array(batch_sizes, np.int64)
    d_states, d_cells = np.zeros((2, batch_sizes[0], size), _F32)
    arguments = (_array(grad), _panels(weights[1]), sizes, cells.numpy(), gates, d_states, d_cells)
    _in_parallel(_kernels().lstm_backward, _spans_of_rows(sizes, 4 * size * size), arguments)
    by_x, by_states, sums = _weight_gradients(inputs, previous, gates, 0)
    d_inputs = _times(gates, weights[0]) if of_inputs else None
    return d_inputs, by_x.t(), by_states.t(), sums, sums.clone()


_F32 = np.float32


def _kernels() -> Any:
    return import_module("metagym.nets.compiled_kernels")


def _array(tensor: th.Tensor) -> Array:
    return tensor.detach().contiguous().numpy()


def _panels(matrix: th.Tensor) -> Array:
    kernels = _kernels()
    panels = np.empty(kernels.panels_size(*matrix.shape), _F32)
    kernels.packed(_array(matrix), 0, matrix.shape[1], panels)
    return panels


def _turned_panels(weight: th.Tensor, roll: int) -> Array:
    """Panels of weights (J, D) as they multiply inputs: of (D, J), with the J rolled."""
    return _panels((weight.detach().roll(roll, 0) if roll else weight.detach()).t())


# Of each weight the last value and its panels: a rollout asks for the same ones at every step.
_kept: OrderedDict[tuple[int, tuple[int, ...], int], tuple[th.Tensor, Array]] = OrderedDict()
MOST_KEPT = 16


def _kept_panels(weight: th.Tensor, roll: int) -> Array:
    key = (weight.data_ptr(), tuple(weight.shape), roll)
    value, panels = _kept.get(key, (None, None))
    # Compared, not numbered by PyTorch's versions, which writing to `.data` does not count.
    if value is None or panels is None or not th.equal(value, weight):
        panels = _turned_panels(weight, roll)
        _kept[key] = weight.detach().clone(), panels
        if len(_kept) > MOST_KEPT:
            _kept.popitem(last=False)
    return panels


def _with_initial(n: int, rows: int, size: int, initial: th.Tensor | None) -> Array:
    states = np.empty((rows + n, size), _F32)
    states[:rows] = 0.0 if initial is None else _array(initial)
    return states


def _times(gates: Array, weight: th.Tensor) -> th.Tensor:
    """The first J of the gates' derivatives by weights (J, D): (n, D)."""
    product = np.zeros((len(gates), weight.shape[1]), _F32)
    _kernels().times(gates, len(weight), _panels(weight), product)
    return th.from_numpy(product)


def _weight_gradients(inputs: th.Tensor, previous: th.Tensor, gates: Array, skipped: int) -> tuple[th.Tensor, ...]:
    kernels = _kernels()
    x, states, columns = _array(inputs), _array(previous), gates.shape[1]
    by_x, by_states = np.zeros((x.shape[1], columns), _F32), np.zeros((states.shape[1], columns), _F32)
    sums = np.zeros(columns, _F32)
    work = len(x) * columns * (x.shape[1] + states.shape[1])
    parts = _threads(work)
    width = -(-columns // (parts * kernels.WIDTH)) * kernels.WIDTH
    spans = [(low, min(low + width, columns)) for low in range(0, columns, width)]
    _in_parallel(kernels.weight_gradients, spans, (x, states, gates, skipped, by_x, by_states, sums))
    return th.from_numpy(by_x), th.from_numpy(by_states), th.from_numpy(sums)


def _threads(work: int) -> int:
    return max(1, min(th.get_num_threads(), work // WORTH_A_THREAD))


def _spans_of_rows(sizes: Int, work_of_a_step: int) -> list[tuple[int, int]]:
    """Ranges of sequences with about equal numbers of steps, for as many threads as are worth it."""
    rows, parts = int(sizes[0]), _threads(int(sizes.sum()) * work_of_a_step)
    if parts == 1:
        return [(0, rows)]
    borders = np.arange(0, rows + 1, _kernels().ROWS)
    steps_before = np.minimum(sizes, borders[:, None]).sum(axis=1)
    cuts = borders[np.searchsorted(steps_before, np.arange(1, parts) * (sizes.sum() / parts), side="right") - 1]
    ends = np.unique([0, *cuts, rows]).tolist()
    return list(pairwise(ends))


class _Pool:
    executor: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    _Pool.executor = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)  # a fork does not inherit threads


def _in_parallel(kernel: Callable[..., None], spans: list[tuple[int, int]], arguments: tuple[Any, ...]) -> None:
    """Run a kernel, which releases the interpreter's lock, over several ranges at once."""
    waiting = []
    if len(spans) > 1:
        if _Pool.executor is None:
            _Pool.executor = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="metagym")
        waiting = [_Pool.executor.submit(kernel, *span, *arguments) for span in spans[1:]]
    kernel(*spans[0], *arguments)
    for part in waiting:
        part.result()
