"""Products of many tokens with packed weights, by matrix tiles of AMX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from adapterhub.kernels import amx, simd
from adapterhub.kernels.linear.fields import BIAS, BLOCK, SCALES, TABLE, WEIGHT, WIDTH
from adapterhub.kernels.linear.layout import GROUP
from adapterhub.kernels.numba_support import compiled, inlined

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Bytes of the inputs that are used again and again, which stay in a core's second-level cache.
_INPUT_BYTES = 2**20
#: Bytes of the sums of four tiles.
_SUMS = 4 * amx.TILE


@inlined
def buffer_bytes(layer: Any) -> Any:
    """Return the bytes that ``multiply_tiles`` needs beside its arguments."""
    return _SUMS + 2 * _group_bytes(layer) + simd.VECTOR


@inlined
def _group_bytes(layer: Any) -> Any:
    """Return the bytes of the bfloat16 weights of a group."""
    return 2 * GROUP * layer[WIDTH]


@compiled()
def multiply_tiles(
    x: int,
    tokens: int,
    layer: NDArray[np.int64],
    y: int,
    stride: int,
    first: int,
    last: int,
    buffer: NDArray[np.uint8],
) -> None:
    """Compute what ``multiply_groups`` does, with ``buffer_bytes`` of memory beside."""
    width = layer[WIDTH]
    sums: Any = (np.int64(buffer.ctypes.data) + simd.VECTOR - 1) // simd.VECTOR * simd.VECTOR
    # as many tokens as stay in the cache, in whole tiles
    part = max(_INPUT_BYTES // (2 * width) // 32 * 32, 32)
    for start in range(0, tokens, part):
        count = min(part, tokens - start)
        source, target = x + 2 * start * width, y + 2 * start * stride
        for group in range(first, last, 2):
            # a single group is computed twice
            other = min(group + 1, last - 1)
            weights, others = _weights(layer, group, other, sums + _SUMS)
            for token in range(0, count, 32):
                rows = min(32, count - token)
                _sum(source + 2 * token * width, rows, width, weights, others, sums)
                at = target + 2 * (token * stride + group * GROUP)
                _finish(sums, rows, layer, group, other, at, stride)
    amx.release()


@inlined
def _weights(layer: Any, group: int, other: int, buffer: int) -> Any:
    """Return the addresses of the bfloat16 weights of two groups."""
    size = _group_bytes(layer)
    if layer[SCALES] == 0:
        return layer[WEIGHT] + group * size, layer[WEIGHT] + other * size
    dequantize_group(layer, group, buffer)
    dequantize_group(layer, other, buffer + size)
    return buffer, buffer + size


@compiled()
def dequantize_group(layer: NDArray[np.int64], group: int, target: int) -> None:
    """Write the weights of a group, as pair vectors of bfloat16."""
    width, block = layer[WIDTH], layer[BLOCK]
    words = layer[WEIGHT] + group * width * GROUP // 2
    scales = layer[SCALES] + group * (width // block) * simd.VECTOR
    table = simd.load_f32(layer[TABLE])
    for number in range(width // block):
        lower, upper = simd.repeat_halves(simd.load_f32(scales + number * simd.VECTOR))
        for column in range(number * block, (number + 1) * block, 8):
            codes, at = simd.load_i32(words + column * 8), target + column * simd.VECTOR // 2
            simd.store(at, pair_vector(codes, table, lower, upper))
            codes = simd.shift_right(codes, 8)
            simd.store(at + 64, pair_vector(codes, table, lower, upper))
            codes = simd.shift_right(codes, 8)
            simd.store(at + 128, pair_vector(codes, table, lower, upper))
            codes = simd.shift_right(codes, 8)
            simd.store(at + 192, pair_vector(codes, table, lower, upper))


@inlined
def pair_vector(codes: Any, table: Any, lower: Any, upper: Any) -> Any:
    """Return the pair vector of the lowest 8 bits of each lane, rounded as bitsandbytes does."""
    return simd.round_halves(
        simd.multiply(simd.look_up(table, codes), lower),
        simd.multiply(simd.look_up(table, simd.shift_right(codes, 4)), upper),
    )


@compiled()
def _sum(x: int, rows: int, width: int, weights: int, others: int, sums: int) -> None:
    """Write the sums of up to 32 tokens and two groups, float32 ``[4, 16, 16]``."""
    second = rows - amx.ROWS
    amx.configure_rows(min(rows, amx.ROWS), max(second, 1))
    amx.clear(0)
    amx.clear(1)
    if second <= 0:
        for column in range(0, width, amx.DEPTH):
            amx.load(4, x + 2 * column, 2 * width)
            amx.load(6, weights + amx.DEPTH * column, 64)
            amx.load(7, others + amx.DEPTH * column, 64)
            amx.multiply(0, 4, 6)
            amx.multiply(1, 4, 7)
    else:
        amx.clear(2)
        amx.clear(3)
        below = x + 2 * amx.ROWS * width
        for column in range(0, width, amx.DEPTH):
            amx.load(4, x + 2 * column, 2 * width)
            amx.load(6, weights + amx.DEPTH * column, 64)
            amx.load(5, below + 2 * column, 2 * width)
            amx.load(7, others + amx.DEPTH * column, 64)
            amx.multiply(0, 4, 6)
            amx.multiply(1, 4, 7)
            amx.multiply(2, 5, 6)
            amx.multiply(3, 5, 7)
        amx.store(2, sums + 2 * amx.TILE, 64)
        amx.store(3, sums + 3 * amx.TILE, 64)
    amx.store(0, sums, 64)
    amx.store(1, sums + amx.TILE, 64)


@compiled()
def _finish(
    sums: int, rows: int, layer: NDArray[np.int64], group: int, other: int, y: int, stride: int
) -> None:
    """Add the bias to the sums of two groups and write them in bfloat16."""
    first = second = simd.zeros(1)[0]
    if layer[BIAS] != 0:
        first = simd.load_widened(layer[BIAS] + 2 * group * GROUP)
        second = simd.load_widened(layer[BIAS] + 2 * other * GROUP)
    for row in range(rows):
        at = sums + (row // amx.ROWS) * 2 * amx.TILE + (row % amx.ROWS) * 64
        lower = simd.add(simd.load_f32(at), first)
        if other == group:
            simd.store_rounded(y + 2 * row * stride, lower)
        else:
            upper = simd.add(simd.load_f32(at + amx.TILE), second)
            simd.store(y + 2 * row * stride, simd.round_halves(lower, upper))
