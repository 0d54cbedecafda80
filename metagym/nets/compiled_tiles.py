"""Tiles, the blocks that matrix products are made of, in LLVM's vectors.

`ROWS` rows by `WIDTH` columns of a result stay in registers while the loop runs over what is summed. LLVM's vectoriser
does not find this by itself, so it is written in LLVM's vectors, of which each processor makes its own instructions.
It compiles to the speed of the same tile in C by gcc: 113 billion operations per second either way (measured with
512-bit registers), where PyTorch's large products reached 95 to 102 on the same core. That is why there is no C here,
and no compiler to be had at installation.

Every number of a result is summed in one fixed order, whatever the tile and its place in it.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

__all__ = ["HAS_NUMBA", "ROWS", "WIDTH", "tile"]

HAS_NUMBA = find_spec("numba") is not None
LANES = 16
ROWS, VECTORS = 6, 1  # 6 x 16 sums fit into sixteen registers of 256 bits

if HAS_NUMBA:
    ir: Any = import_module("llvmlite.ir")
    cgutils: Any = import_module("numba.core.cgutils")
    types: Any = import_module("numba.core.types")
    intrinsic: Any = import_module("numba.extending").intrinsic
    if import_module("llvmlite.binding").get_host_cpu_features().get("avx512f"):
        ROWS, VECTORS = 8, 2  # sixteen of 32 registers of 512 bits
    NUMBER, INDEX, INTEGER = ir.FloatType(), ir.IntType(32), ir.IntType(64)
    VECTOR = ir.VectorType(NUMBER, LANES)

WIDTH = VECTORS * LANES


def tile(rows: int) -> Any:
    """An intrinsic for numba: c[r, :] += sum over k of a[r, k] b[k, :], for `rows` rows r and `WIDTH` columns.

    Its arguments are addresses of single-precision numbers, and strides in numbers: a, stride of its rows, of its
    columns; b, stride of its rows; c, stride of its rows; the length of the sum.
    """
    if not HAS_NUMBA:
        return None

    def codegen(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        a, a_rows, a_columns, b, b_rows, c, c_rows, length = arguments
        a, b, c = (builder.inttoptr(address, NUMBER.as_pointer()) for address in (a, b, c))
        zeros = ir.Constant(VECTOR, None)
        sums = [[cgutils.alloca_once_value(builder, zeros) for _ in range(VECTORS)] for _ in range(rows)]
        with cgutils.for_range(builder, length, intp=INTEGER) as loop:
            factors = _factors(builder, a, builder.mul(loop.index, a_columns), a_rows, rows)
            columns = _vectors(builder, b, builder.mul(loop.index, b_rows))
            _multiply_add(builder, factors, [_load(builder, column) for column in columns], sums)
        for row, kept in enumerate(sums):
            places = _vectors(builder, c, builder.mul(c_rows, ir.Constant(INTEGER, row)))
            for place, total in zip(places, kept, strict=True):
                _store(builder, builder.fadd(_load(builder, place), builder.load(total)), place)
        return context.get_dummy_value()

    def typed(_typing: Any, a: Any, ar: Any, ac: Any, b: Any, br: Any, c: Any, cr: Any, n: Any) -> Any:  # noqa: ARG001
        return types.void(*[types.int64] * 8), codegen

    return intrinsic(typed)


def _vectors(builder: Any, base: Any, offset: Any) -> list[Any]:
    """Addresses of the vectors that begin so many numbers behind an address."""
    lanes = [ir.Constant(INTEGER, place * LANES) for place in range(VECTORS)]
    places = [builder.gep(base, [builder.add(offset, lane)]) for lane in lanes]
    return [builder.bitcast(place, VECTOR.as_pointer()) for place in places]


def _factors(builder: Any, base: Any, offset: Any, stride: Any, rows: int) -> list[Any]:
    """A number of each row, in all lanes of a vector."""
    undefined, everywhere = ir.Constant(VECTOR, ir.Undefined), ir.Constant(ir.VectorType(INDEX, LANES), None)
    spread = []
    for row in range(rows):
        place = builder.add(offset, builder.mul(stride, ir.Constant(INTEGER, row)))
        single = builder.insert_element(undefined, builder.load(builder.gep(base, [place])), ir.Constant(INDEX, 0))
        spread.append(builder.shuffle_vector(single, undefined, everywhere))
    return spread


def _multiply_add(builder: Any, factors: list[Any], columns: list[Any], sums: list[list[Any]]) -> None:
    kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
    fused = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
    for factor, kept in zip(factors, sums, strict=True):
        for total, column in zip(kept, columns, strict=True):
            builder.store(builder.call(fused, [factor, column, builder.load(total)]), total)


def _load(builder: Any, place: Any) -> Any:
    loaded = builder.load(place)
    loaded.align = 4  # rows begin anywhere
    return loaded


def _store(builder: Any, value: Any, place: Any) -> None:
    builder.store(value, place).align = 4
