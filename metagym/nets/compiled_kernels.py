"""Loops over time of GRUs and LSTMs, compiled by numba: one call walks along whole sequences.

Every number of a result is summed in one fixed order, which does not depend on how many rows there are. Sigmoids and
hyperbolic tangents are one quotient of polynomials, free of branches. What LLVM's vectoriser is to make vector code of
is a loop over one row that writes to few arrays: it checks that no two overlap, and gives up where there are many.

Without numba nothing here is called. What is compiled is kept in numba's cache, which lies beside this file or in the
user's cache folder, and is renewed when this file changes.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from metagym.nets.compiled_tiles import HAS_NUMBA, ROWS, WIDTH, tile
from metagym.types import Array, Int

__all__ = [
    "ROWS",
    "WIDTH",
    "gru_backward",
    "gru_forward",
    "lstm_backward",
    "lstm_forward",
    "packed",
    "panels_size",
    "times",
    "weight_gradients",
]

DEPTH = 128  # what is summed at a time in `weight_gradients`: a panel of so many rows stays in the nearest cache
CHUNK = 64  # rows whose sums are added to the others' at once

# tanh(x) = x P(x^2) / Q(x^2) for |x| <= CLAMP, where it is 1 in single precision: the minimax fit of Eigen,
# `Eigen/src/Core/MathFunctionsImpl.h`, to two units in the last place.
CLAMP = np.float32(7.90531110763549805)
P0, P1, P2, P3 = map(
    np.float32, (4.89352455891786e-03, 6.37261928875436e-04, 1.48572235717979e-05, 5.12229709037114e-08)
)
P4, P5, P6 = map(np.float32, (-8.60467152213735e-11, 2.00018790482477e-13, -2.76076847742355e-16))
Q0, Q1, Q2, Q3 = map(
    np.float32, (4.89352518554385e-03, 2.26843463243900e-03, 1.18534705686654e-04, 1.19825839466702e-06)
)
ZERO, HALF, ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)

F = TypeVar("F", bound=Callable[..., Any])


def _compiled(function: F) -> F:
    if not HAS_NUMBA:
        return function
    import numba

    # Contraction alone of all fast-math flags: a product and a sum may round once, NaNs and the order of sums stay.
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
    try:
        return cast("F", numba.njit(cache=True, **options)(function))
    except RuntimeError:  # numba finds no folder that it may write to: it compiles in every process
        return cast("F", numba.njit(**options)(function))


_tile_full, _tile_4, _tile_2, _tile_1 = tile(ROWS), tile(4), tile(2), tile(1)


@_compiled
def _column_of_tiles(a: int, a_rows: int, a_columns: int, m: int, b: int, c: int, c_rows: int, length: int) -> None:
    """One panel of columns of c += a b, for m rows."""
    i = 0
    while i + ROWS <= m:
        _tile_full(a + 4 * i * a_rows, a_rows, a_columns, b, WIDTH, c + 4 * i * c_rows, c_rows, length)
        i += ROWS
    if m - i >= 4:
        _tile_4(a + 4 * i * a_rows, a_rows, a_columns, b, WIDTH, c + 4 * i * c_rows, c_rows, length)
        i += 4
    if m - i >= 2:
        _tile_2(a + 4 * i * a_rows, a_rows, a_columns, b, WIDTH, c + 4 * i * c_rows, c_rows, length)
        i += 2
    if m - i >= 1:
        _tile_1(a + 4 * i * a_rows, a_rows, a_columns, b, WIDTH, c + 4 * i * c_rows, c_rows, length)


@_compiled
def _panel(a: int, a_rows: int, a_columns: int, m: int, b: int, c: Array, top: int, left: int, length: int) -> None:
    """The columns from `left` on of c += a b, `WIDTH` of them or all that there are."""
    stride = c.shape[1]
    if left + WIDTH <= stride:
        of_c = c.ctypes.data + 4 * (top * stride + left)
        _column_of_tiles(a, a_rows, a_columns, m, b, of_c, stride, length)
        return
    # By way of a block that is wide enough.
    block = np.zeros((m, WIDTH), np.float32)
    _column_of_tiles(a, a_rows, a_columns, m, b, block.ctypes.data, WIDTH, length)
    for i in range(m):
        for j in range(stride - left):
            c[top + i, left + j] += block[i, j]


@_compiled
def _product(a: int, a_rows: int, m: int, length: int, b: Array, c: Array, top: int, left: int, n: int) -> None:
    """c[top : top + m, left : left + n] += a b, with b (length, n) in panels.

    Where n is no multiple of `WIDTH`, what the last panel has too many are zeros, or beyond the width of c.
    """
    for panel in range(0, n, WIDTH):
        _panel(a, a_rows, 1, m, b.ctypes.data + 4 * panel * length, c, top, left + panel, length)


def panels_size(rows: int, columns: int) -> int:
    """Numbers in the panels of a matrix (rows, columns)."""
    return rows * -(-columns // WIDTH) * WIDTH


@_compiled
def packed(matrix: Array, left: int, columns: int, panels: Array) -> None:
    """Lay matrix[:, left : left + columns] out in panels of `WIDTH` columns, the last filled up with zeros."""
    place = 0
    for panel in range(0, columns, WIDTH):
        low, width = left + panel, min(WIDTH, columns - panel)
        for k in range(len(matrix)):
            to = panels[place : place + WIDTH]
            row = matrix[k, low : low + width]
            for j in range(width):
                to[j] = row[j]
            for j in range(width, WIDTH):
                to[j] = ZERO
            place += WIDTH


@_compiled
def times(a: Array, length: int, panels: Array, c: Array) -> None:
    """Add to c (n, N): a[:, :length] b, with b (length, N) in panels."""
    stride = a.shape[1]
    for i in range(0, len(a), CHUNK):
        rows = min(CHUNK, len(a) - i)
        _product(a.ctypes.data + 4 * i * stride, stride, rows, length, panels, c, i, 0, c.shape[1])


@_compiled
def weight_gradients(
    first: int, last: int, x: Array, states: Array, d: Array, skipped: int, by_x: Array, by_states: Array, sums: Array
) -> None:
    """Columns `first` to `last` of by_x += x^T d, of by_states += states^T d, and of the sums of d's rows.

    Args:
        first: a multiple of `WIDTH`.
        last: another one, or J.
        x: (n, D).
        states: (n, H).
        d: (n, J).
        skipped: so many of the last columns of by_x and of the first of by_states are not wanted, and hold anything.
        by_x: (D, J).
        by_states: (H, J).
        sums: (J,).
    """
    size, width = states.shape[1], x.shape[1]
    panel = np.empty(DEPTH * WIDTH, np.float32)
    for low in range(0, len(d), DEPTH):
        k = min(DEPTH, len(d) - low)
        of_x, of_states = x.ctypes.data + 4 * low * width, states.ctypes.data + 4 * low * size
        for left in range(first, last, WIDTH):
            columns = min(WIDTH, last - left)
            packed(d[low : low + k], left, columns, panel)
            _add_rows(panel, k, sums[left : left + columns])
            if left < d.shape[1] - skipped:
                _panel(of_x, 1, width, width, panel.ctypes.data, by_x, 0, left, k)
            if left + WIDTH > skipped:
                _panel(of_states, 1, size, size, panel.ctypes.data, by_states, 0, left, k)


@_compiled
def _add_rows(panel: Array, rows: int, sums: Array) -> None:
    part = np.zeros(WIDTH, np.float32)
    for k in range(rows):
        row = panel[k * WIDTH : (k + 1) * WIDTH]
        for j in range(WIDTH):
            part[j] += row[j]
    for j in range(len(sums)):
        sums[j] += part[j]


@_compiled
def _tanh(x: Any) -> Any:
    # Comparisons that a NaN fails, so that it goes through; minimum and maximum would not be vectorised.
    x = CLAMP if x > CLAMP else x  # noqa: FURB136
    x = -CLAMP if x < -CLAMP else x  # noqa: FURB136
    y = x * x
    above = x * (P0 + y * (P1 + y * (P2 + y * (P3 + y * (P4 + y * (P5 + y * P6))))))
    return above / (Q0 + y * (Q1 + y * (Q2 + y * Q3)))


@_compiled
def _sigmoid(x: Any) -> Any:
    return HALF + HALF * _tanh(HALF * x)


@_compiled
def _copy(values: Array, to: Array) -> None:
    for j in range(len(to)):
        to[j] = values[j]


@_compiled
def _sigmoids(x: Array) -> None:
    for j in range(len(x)):
        x[j] = _sigmoid(x[j])


@_compiled
def gru_forward(
    first: int, last: int, x: Array, weight_x: Array, weight_h: Array, bias: Array, sizes: Int, states: Array,
    buffer: Array,
) -> None:  # fmt: skip
    """States of a GRU along packed sequences (see `metagym.nets.gru`).

    Args:
        first: the first of the sequences that this call walks along,
        last: and the one after the last.
        x: inputs, (n, D).
        weight_x: panels of the weights (D, 3H) of n, r and z.
        weight_h: panels of the weights (H, 3H) of r, z and q.
        bias: of n, r, z and q, (4H,).
        sizes: sequences alive at each step, (T,).
        states: first the initial states, (sizes[0], H); then filled with those after each step, (n, H).
        buffer: filled with n, r, z and q, (n, 4H).
    """
    size, width = states.shape[1], x.shape[1]
    low, before = first, first
    for alive in sizes:
        m = min(alive, last) - first
        if m <= 0:
            break
        for i in range(low, low + m):
            _copy(bias, buffer[i])
        _product(x.ctypes.data + 4 * low * width, width, m, width, weight_x, buffer, low, 0, 3 * size)
        _product(states.ctypes.data + 4 * before * size, size, m, size, weight_h, buffer, low, size, 3 * size)
        after = sizes[0] + low
        for i in range(m):
            _gru_gates(buffer[low + i], states[before + i], states[after + i])
        before = after
        low += alive


@_compiled
def _gru_gates(row: Array, state: Array, after: Array) -> None:
    size = len(state)
    n, r, z, q = row[:size], row[size : 2 * size], row[2 * size : 3 * size], row[3 * size :]
    _sigmoids(row[size : 3 * size])
    for j in range(size):
        n[j] = _tanh(n[j] + r[j] * q[j])
        after[j] = n[j] + z[j] * (state[j] - n[j])


@_compiled
def gru_backward(
    first: int, last: int, grad: Array, weight: Array, sizes: Int, states: Array, buffer: Array, d_states: Array
) -> None:
    """Derivatives by the pre-activations of n, r, z and q, in their places.

    Args:
        first: as in `gru_forward`.
        last: as in `gru_forward`.
        grad: of the loss by the states after each step, (n, H).
        weight: panels of the recurrent weights (3H, H) of r, z and q.
        sizes: as in `gru_forward`.
        states: of `gru_forward`.
        buffer: of `gru_forward`; overwritten.
        d_states: zeros, (sizes[0], H); filled with the derivatives by the initial states.
    """
    size = states.shape[1]
    low = len(buffer) + first
    for step in range(len(sizes) - 1, -1, -1):
        low -= sizes[step]
        m = min(sizes[step], last) - first
        if m <= 0:
            continue
        before = first if step == 0 else sizes[0] + low - sizes[step - 1]
        for i in range(m):
            _gru_gradients(buffer[low + i], states[before + i], grad[low + i], d_states[first + i])
        of_rzq = buffer.ctypes.data + 4 * (low * 4 * size + size)
        _product(of_rzq, 4 * size, m, 3 * size, weight, d_states, first, 0, size)


@_compiled
def _gru_gradients(row: Array, state: Array, grad: Array, d_state: Array) -> None:
    size = len(state)
    n, r, z, q = row[:size], row[size : 2 * size], row[2 * size : 3 * size], row[3 * size :]
    for j in range(size):
        d_state[j] += grad[j]
    for j in range(size):
        d, keep = d_state[j], z[j]
        z[j] = d * (state[j] - n[j]) * keep * (ONE - keep)
        n[j] = d * (ONE - keep) * (ONE - n[j] * n[j])
        d_state[j] = d * keep
    for j in range(size):
        by_q = n[j] * r[j]
        r[j] = by_q * q[j] * (ONE - r[j])
        q[j] = by_q


@_compiled
def lstm_forward(
    first: int, last: int, x: Array, weight_x: Array, weight_h: Array, bias: Array, sizes: Int, states: Array,
    cells: Array, buffer: Array,
) -> None:  # fmt: skip
    """States of an LSTM along packed sequences.

    Args:
        first: as in `gru_forward`.
        last: as in `gru_forward`.
        x: inputs, (n, D).
        weight_x: panels of the weights (D, 4H) of the input, forget, candidate and output gates.
        weight_h: panels of the weights (H, 4H).
        bias: (4H,).
        sizes: sequences alive at each step, (T,).
        states: first the initial outputs, (sizes[0], H); then filled with those after each step, (n, H).
        cells: the same for the cells.
        buffer: filled with the gates, (n, 4H).
    """
    size, width = states.shape[1], x.shape[1]
    low, before = first, first
    for alive in sizes:
        m = min(alive, last) - first
        if m <= 0:
            break
        for i in range(low, low + m):
            _copy(bias, buffer[i])
        _product(x.ctypes.data + 4 * low * width, width, m, width, weight_x, buffer, low, 0, 4 * size)
        _product(states.ctypes.data + 4 * before * size, size, m, size, weight_h, buffer, low, 0, 4 * size)
        after = sizes[0] + low
        for i in range(m):
            _lstm_gates(buffer[low + i], cells[before + i], cells[after + i], states[after + i])
        before = after
        low += alive


@_compiled
def _lstm_gates(row: Array, cell: Array, cell_after: Array, after: Array) -> None:
    size = len(cell)
    i, f, g, o = row[:size], row[size : 2 * size], row[2 * size : 3 * size], row[3 * size :]
    _sigmoids(row[: 2 * size])
    _sigmoids(o)
    for j in range(size):
        g[j] = _tanh(g[j])
    for j in range(size):
        cell_after[j] = f[j] * cell[j] + i[j] * g[j]
        after[j] = o[j] * _tanh(cell_after[j])


@_compiled
def lstm_backward(
    first: int, last: int, grad: Array, weight: Array, sizes: Int, cells: Array, buffer: Array, d_states: Array,
    d_cells: Array,
) -> None:  # fmt: skip
    """Derivatives by the pre-activations of the gates, in their places; as `gru_backward`."""
    size = cells.shape[1]
    low = len(buffer) + first
    for step in range(len(sizes) - 1, -1, -1):
        low -= sizes[step]
        m = min(sizes[step], last) - first
        if m <= 0:
            continue
        before = first if step == 0 else sizes[0] + low - sizes[step - 1]
        after = sizes[0] + low
        for i in range(m):
            _lstm_gradients(
                buffer[low + i],
                cells[before + i],
                cells[after + i],
                grad[low + i],
                d_states[first + i],
                d_cells[first + i],
            )
        d_states[first : first + m] = ZERO
        _product(buffer.ctypes.data + 4 * low * 4 * size, 4 * size, m, 4 * size, weight, d_states, first, 0, size)


@_compiled
def _lstm_gradients(row: Array, cell: Array, cell_after: Array, grad: Array, d_state: Array, d_cell: Array) -> None:
    size = len(cell)
    i, f, g, o = row[:size], row[size : 2 * size], row[2 * size : 3 * size], row[3 * size :]
    for j in range(size):
        d_state[j] += grad[j]
    for j in range(size):
        squashed = _tanh(cell_after[j])
        d = d_state[j] * o[j]
        d_cell[j] += d * (ONE - squashed * squashed)
        o[j] = d * squashed * (ONE - o[j])
    for j in range(size):
        d, opened = d_cell[j], i[j]
        i[j] = d * g[j] * opened * (ONE - opened)
        g[j] = d * opened * (ONE - g[j] * g[j])
    for j in range(size):
        d = d_cell[j] * f[j]
        f[j] = d * cell[j] * (ONE - f[j])
        d_cell[j] = d
