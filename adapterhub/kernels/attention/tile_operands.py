"""Operands of matrix tiles in aligned memory, and their product."""
# mypy: allow-untyped-decorators

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from adapterhub.kernels import amx
from adapterhub.kernels.numba_support import compiled
from adapterhub.kernels.simd import I32X16, as_pointer

_WORD = ir.IntType(32)
_HALVES = ir.VectorType(ir.IntType(16), 16)


@intrinsic
def transpose_tile(_context: Any, _source: Any, _stride: Any, _target: Any) -> Any:
    """Write 16 rows of 16 words, ``stride`` bytes apart, as the columns of a tile.

    Each of four steps exchanges the lanes whose number has one bit between two rows.
    """

    def build(_target_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        source, stride, target = arguments
        rows = []
        for _ in range(16):
            rows.append(builder.load(as_pointer(builder, source, I32X16), align=4))
            source = builder.add(source, stride)
        for bit in (1, 2, 4, 8):
            lower = [16 + lane - bit if lane & bit else lane for lane in range(16)]
            upper = [16 + lane if lane & bit else lane + bit for lane in range(16)]
            for row in range(16):
                if not row & bit:
                    pair = rows[row], rows[row + bit]
                    rows[row] = builder.shuffle_vector(*pair, ir.Constant(I32X16, lower))
                    rows[row + bit] = builder.shuffle_vector(*pair, ir.Constant(I32X16, upper))
        for row in rows:
            builder.store(row, as_pointer(builder, target, I32X16), align=64)
            target = builder.add(target, ir.Constant(target.type, 64))

    return types.void(types.int64, types.int64, types.int64), build


@intrinsic
def interleave_tile(_context: Any, _source: Any, _stride: Any, _target: Any) -> Any:
    """Write 32 rows of 16 bfloat16 values, ``stride`` bytes apart, as a right tile."""

    def build(_target_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        source, stride, target = arguments
        shift = ir.Constant(I32X16, [16] * 16)
        for _ in range(16):
            pair = []
            for _ in range(2):
                halves = builder.load(as_pointer(builder, source, _HALVES), align=2)
                pair.append(builder.zext(halves, I32X16))
                source = builder.add(source, stride)
            word = builder.or_(pair[0], builder.shl(pair[1], shift))
            builder.store(word, as_pointer(builder, target, I32X16), align=64)
            target = builder.add(target, ir.Constant(target.type, 64))

    return types.void(types.int64, types.int64, types.int64), build


@intrinsic
def interleave_rows(_context: Any, _upper: Any, _lower: Any, _target: Any) -> Any:
    """Write 16 bfloat16 values of two rows as pairs, one row of a right tile."""

    def build(_target_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        upper, lower = (
            builder.zext(builder.load(as_pointer(builder, each, _HALVES), align=2), I32X16)
            for each in arguments[:2]
        )
        word = builder.or_(upper, builder.shl(lower, ir.Constant(I32X16, [16] * 16)))
        builder.store(word, as_pointer(builder, arguments[2], I32X16), align=64)

    return types.void(types.int64, types.int64, types.int64), build


@compiled()
def aligned(words: int) -> Any:
    """Return uninitialised 32-bit words that start at a multiple of 64 bytes."""
    memory = np.empty(words + 16, np.uint32)
    skip = (-memory.ctypes.data // 4) % 16
    return memory[skip : skip + words]


@compiled()
def read_rows(source: Any, start: int, count: int, head: int, rows: Any) -> None:
    """Copy the states of one head of ``[num_tokens, heads, head_dim]``, and fill up with zeros."""
    for row in range(count):
        for k in range(rows.shape[1]):
            rows[row, k] = source[start + row, head, k]
    rows[count:] = 0


@compiled()
def pack_transposed(source: int, stride: int, rows: int, width: int, packed: int) -> None:
    """Write the transpose of bfloat16 ``[rows, width]`` as tiles ``[rows / 16, width / 32]``.

    Args:
        source: Address of the values.
        stride: Bytes from a row to the next.
        rows: Multiple of 16.
        width: Multiple of 32.
        packed: Address of the tiles.
    """
    for row in range(0, rows, amx.ROWS):
        for column in range(0, width, amx.DEPTH):
            transpose_tile(source + row * stride + 2 * column, stride, packed)
            packed += amx.TILE


@compiled()
def pack_pairs(source: int, stride: int, rows: int, width: int, packed: int) -> None:
    """Write bfloat16 ``[rows, width]`` as right tiles, ``[width / 16, rows / 32]``.

    Args:
        source: Address of the values.
        stride: Bytes from a row to the next.
        rows: Multiple of 32.
        width: Multiple of 16.
        packed: Address of the tiles.
    """
    column_size = rows // amx.DEPTH * amx.TILE
    for step in range(rows // amx.DEPTH):
        for group in range(width // amx.ROWS):
            at = source + step * amx.DEPTH * stride + 2 * group * amx.ROWS
            interleave_tile(at, stride, packed + group * column_size + step * amx.TILE)


@compiled()
def multiply_tiles(
    left: int,
    left_stride: int,
    right: int,
    right_stride: int,
    depth: int,
    total: int,
    total_stride: int,
    rows: int,
    columns: int,
    adds: bool,
) -> None:
    """Write, or add, the product of left rows and right tiles.

    Args:
        left: Address of bfloat16 ``[rows, 32 * depth]``.
        left_stride: Bytes from a row to the next.
        right: Address of tiles ``[columns / 16, depth]``.
        right_stride: Bytes from the tiles of 16 columns to the next.
        depth: Number of tiles in a row.
        total: Address of float32 ``[rows, columns]``.
        total_stride: Bytes from a row to the next.
        rows: Multiple of 32.
        columns: Multiple of 32.
        adds: Whether the product is added to ``total``, else written.
    """
    for row in range(0, rows, 32):
        for column in range(0, columns, 32):
            c = total + row * total_stride + 4 * column
            lower = c + 16 * total_stride
            if adds:
                amx.load(0, c, total_stride)
                amx.load(1, c + 64, total_stride)
                amx.load(2, lower, total_stride)
                amx.load(3, lower + 64, total_stride)
            else:
                amx.clear(0)
                amx.clear(1)
                amx.clear(2)
                amx.clear(3)
            a, b = left + row * left_stride, right + column // 16 * right_stride
            for _ in range(depth):
                amx.load(4, a, left_stride)
                amx.load(5, a + 16 * left_stride, left_stride)
                amx.load(6, b, 64)
                amx.load(7, b + right_stride, 64)
                amx.multiply(0, 4, 6)
                amx.multiply(1, 4, 7)
                amx.multiply(2, 5, 6)
                amx.multiply(3, 5, 7)
                a += 64
                b += amx.TILE
            amx.store(0, c, total_stride)
            amx.store(1, c + 64, total_stride)
            amx.store(2, lower, total_stride)
            amx.store(3, lower + 64, total_stride)
