"""Arithmetic with AVX-512 registers of floats, beside the products of ``simd``."""
# mypy: allow-untyped-decorators

from __future__ import annotations

from functools import partial
from typing import Any

from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from adapterhub.kernels.numba_support import inlined
from adapterhub.kernels.simd import (
    BF16X16,
    BF16X32,
    F32X16,
    I32X16,
    as_pointer,
    bf16x32,
    call_llvm,
    f32x16,
    splat_value,
)

_NARROW = "llvm.x86.avx512bf16.cvtneps2bf16.512"


@intrinsic
def zero(_context: Any) -> Any:
    """Return an ``f32x16`` of zeros."""

    def build(_target: Any, _builder: Any, _signature: Any, _arguments: Any) -> Any:
        return ir.Constant(F32X16, None)

    return f32x16(), build


@intrinsic
def splat(_context: Any, _value: Any) -> Any:
    """Return an ``f32x16`` of one float32."""

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return splat_value(builder, arguments[0])

    return f32x16(types.float32), build


@intrinsic
def subtract(_context: Any, _left: Any, _right: Any) -> Any:
    """Return the difference of two ``f32x16``."""

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.fsub(*arguments)

    return f32x16(f32x16, f32x16), build


@intrinsic
def multiply_add(_context: Any, _left: Any, _right: Any, _added: Any) -> Any:
    """Return ``left * right + added`` of three ``f32x16``."""

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return call_llvm(builder, "llvm.fma.v16f32", F32X16, *arguments)

    return f32x16(f32x16, f32x16, f32x16), build


def _fold_lanes(builder: Any, vector: Any, combine: Any) -> Any:
    """Return what is left of the lanes of a vector when pairs are combined again and again."""
    for distance in (8, 4, 2, 1):
        lanes = [(lane + distance) % 16 for lane in range(16)]
        moved = builder.shuffle_vector(vector, vector, ir.Constant(I32X16, lanes))
        vector = combine(vector, moved)
    return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))


def _larger(builder: Any, left: Any, right: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", left, right), left, right)


@intrinsic
def sum_lanes(_context: Any, _vector: Any) -> Any:
    """Return the sum of the lanes of an ``f32x16``."""

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return _fold_lanes(builder, arguments[0], builder.fadd)

    return types.float32(f32x16), build


@intrinsic
def largest_lane(_context: Any, _vector: Any) -> Any:
    """Return the largest lane of an ``f32x16``."""

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return _fold_lanes(builder, arguments[0], partial(_larger, builder))

    return types.float32(f32x16), build


@intrinsic
def larger(_context: Any, _left: Any, _right: Any) -> Any:
    """Return the larger one of each pair of lanes of two ``f32x16``."""

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return _larger(builder, *arguments)

    return f32x16(f32x16, f32x16), build


@intrinsic
def sum_rows(_context: Any, rows: Any) -> Any:
    """Return the sums of the lanes of 16 ``f32x16``, a tuple, as one ``f32x16``."""

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        vectors = [builder.extract_value(arguments[0], place) for place in _PLACES]
        for lanes in _MERGES:
            pairs = zip(vectors[::2], vectors[1::2], strict=True)
            vectors = [_merge(builder, *pair, lanes) for pair in pairs]
        return vectors[0]

    return (f32x16(rows), build) if rows == types.UniTuple(f32x16, 16) else None


#: Lanes of two vectors that ``sum_rows`` adds in each of its steps; those of the second vector are
#: 16 and above. Processors exchange halves, quarters and lanes of quarters in one instruction.
_MERGES = (
    ([*range(8), *range(16, 24)], [*range(8, 16), *range(24, 32)]),
    (
        [*range(4), *range(8, 12), *range(16, 20), *range(24, 28)],
        [*range(4, 8), *range(12, 16), *range(20, 24), *range(28, 32)],
    ),
    *(
        tuple(
            [
                quarter + lane
                for quarter in range(0, 16, 4)
                for lane in (*own, *(16 + each for each in own))
            ]
            for own in pair
        )
        for pair in (((0, 1), (2, 3)), ((0, 2), (1, 3)))
    ),
)


def _places() -> list[int]:
    """Return the order in which ``sum_rows`` has to merge vectors so that sums are in order."""
    vectors = [[number] * 16 for number in range(16)]
    for first, _ in _MERGES:
        joined = [vectors[at] + vectors[at + 1] for at in range(0, len(vectors), 2)]
        vectors = [[both[lane] for lane in first] for both in joined]
    (found,) = vectors
    return [found.index(number) for number in range(16)]


_PLACES = _places()


def _merge(builder: Any, left: Any, right: Any, lanes: Any) -> Any:
    parts = [builder.shuffle_vector(left, right, ir.Constant(I32X16, each)) for each in lanes]
    return builder.fadd(*parts)


@intrinsic
def add_row_dots(
    _context: Any, sums: Any, _own: Any, _rows: Any, _slots: Any, _count: Any, _stride: Any
) -> Any:
    """Add the products of a ``bf16x32`` with those of 16 rows to the sums of each row.

    Args:
        sums: Tuple of 16 ``f32x16``.
        _own: ``bf16x32`` that is multiplied.
        _rows: Address of 32 bfloat16 values of row 0.
        _slots: Address of the numbers of the rows, int64.
        _count: Number of rows; further sums are those of the last one.
        _stride: Bytes from a row to the next.
    """

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        total, own, rows, slots, count, stride = arguments
        last = builder.sub(count, ir.Constant(count.type, 1))
        slots = as_pointer(builder, slots, count.type)
        for row in range(16):
            number = ir.Constant(count.type, row)
            number = builder.select(builder.icmp_signed("<", number, last), number, last)
            slot = builder.load(builder.gep(slots, [number]))
            address = builder.add(rows, builder.mul(slot, stride))
            values = builder.load(as_pointer(builder, address, BF16X32), align=2)
            before = builder.extract_value(total, row)
            name = "llvm.x86.avx512bf16.dpbf16ps.512"
            found = call_llvm(builder, name, F32X16, before, own, values)
            total = builder.insert_value(total, found, row)
        return total

    form = sums(sums, bf16x32, *[types.int64] * 4)
    return (form, build) if sums == types.UniTuple(f32x16, 16) else None


@intrinsic
def add_dot(_context: Any, _sums: Any, _left: Any, _right: Any) -> Any:
    """Add the products of two ``bf16x32``, of neighbouring pairs, to an ``f32x16``."""

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return call_llvm(builder, "llvm.x86.avx512bf16.dpbf16ps.512", F32X16, *arguments)

    return f32x16(f32x16, bf16x32, bf16x32), build


@intrinsic
def rounded(_context: Any, _vector: Any) -> Any:
    """Return an ``f32x16`` whose values are rounded to bfloat16."""

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        narrow = builder.bitcast(
            call_llvm(builder, _NARROW, BF16X16, arguments[0]), ir.VectorType(ir.IntType(16), 16)
        )
        upper = builder.shl(builder.zext(narrow, I32X16), ir.Constant(I32X16, [16] * 16))
        return builder.bitcast(upper, F32X16)

    return f32x16(f32x16), build


def _loads(kind: Any, form: Any) -> Any:
    @intrinsic
    def load(_context: Any, _address: Any, _index: Any) -> Any:
        def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            address, index = arguments
            return builder.load(builder.gep(as_pointer(builder, address, form), [index]))

        return kind(types.int64, types.int64), build

    return load


#: Return the int64, or the float32, at an index behind an address.
integer_at = _loads(types.int64, ir.IntType(64))
float_at = _loads(types.float32, ir.FloatType())


@intrinsic
def put_float(_context: Any, _address: Any, _index: Any, _value: Any) -> Any:
    """Write a float32 at an index behind an address."""

    def build(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        address, index, value = arguments
        builder.store(value, builder.gep(as_pointer(builder, address, ir.FloatType()), [index]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32), build


@intrinsic
def _as_pointer(_context: Any, _address: Any) -> Any:
    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), build


@inlined
def array_at(address: Any, length: Any, dtype: Any) -> Any:
    """Return the values at an address as an array ``[length]``."""
    return carray(_as_pointer(address), (length,), dtype)
