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
#: Tokens of two tiles.
_TOKENS = 2 * amx.ROWS
#: Bytes of the sums of four tiles.
_SUMS = 4 * amx.TILE


@inlined
def buffer_bytes(layer: Any) -> Any:
    """Return the bytes that ``multiply_tiles`` needs beside its arguments."""
    return 2 * _SUMS + 2 * _group_bytes(layer) + simd.VECTOR


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
    part = max(_INPUT_BYTES // (2 * width) // _TOKENS * _TOKENS, _TOKENS)
    for start in range(0, tokens, part):
        count = min(part, tokens - start)
        for group in range(first, last, 2):
            # a single group is computed twice
            other = min(group + 1, last - 1)
            target = y + 2 * (start * stride + group * GROUP)
            weights = _weights(layer, group, other, sums + 2 * _SUMS)
            biases = group_bias(layer, group), group_bias(layer, other)
            outputs = (target, stride, group == other, biases)
            source = x + 2 * start * width
            _multiply_part(source, count, layer, group, other, weights, outputs, sums)
    amx.release()


@inlined
def _weights(layer: Any, group: int, other: int, buffer: int) -> Any:
    """Return the addresses of the bfloat16 weights of two groups, or of memory for them."""
    size = _group_bytes(layer)
    if layer[SCALES] == 0:
        return layer[WEIGHT] + group * size, layer[WEIGHT] + other * size
    return buffer, buffer + size


@compiled()
def _multiply_part(
    x: int,
    tokens: int,
    layer: NDArray[np.int64],
    group: int,
    other: int,
    weights: Any,
    outputs: Any,
    sums: int,
) -> None:
    """Compute two groups for some tokens; sums are finished while the next ones are computed."""
    pending, ready = 0, sums + _SUMS
    for token in range(0, tokens, _TOKENS):
        rows = min(_TOKENS, tokens - token)
        # configuring waits for all tiles
        if token == 0 or rows < _TOKENS:
            amx.configure_rows(min(rows, amx.ROWS), max(rows - amx.ROWS, 1))
        codes = (layer, group, other, token == 0 and layer[SCALES] != 0)
        earlier = (token - _TOKENS, pending, ready)
        source = x + 2 * token * layer[WIDTH]
        if rows > amx.ROWS:
            _sum_two(source, codes, weights, sums, earlier, outputs)
        else:
            _sum_one(source, codes, weights, sums, earlier, outputs)
        pending, sums, ready = rows, ready, sums
    _finish((tokens - 1) // _TOKENS * _TOKENS, 0, pending, ready, outputs)


@compiled()
def dequantize_group(layer: NDArray[np.int64], group: int, target: int) -> None:
    """Write the weights of a group, as pair vectors of bfloat16."""
    for column in range(0, layer[WIDTH], amx.DEPTH):
        _dequantize_tile(layer, group, column, target)


@compiled()
def _dequantize_tile(layer: NDArray[np.int64], group: int, column: int, target: int) -> None:
    """Write the weights of a group for 32 inputs to their place."""
    width, block = layer[WIDTH], layer[BLOCK]
    words = layer[WEIGHT] + (group * width + column) * GROUP // 2
    scale = layer[SCALES] + (group * (width // block) + column // block) * simd.VECTOR
    lower, upper = simd.repeat_halves(simd.load_f32(scale))
    table, start = simd.load_f32(layer[TABLE]), target + column * 2 * GROUP
    for word in range(amx.DEPTH // 8):
        codes, at = simd.load_i32(words + word * simd.VECTOR), start + word * 4 * simd.VECTOR
        simd.store(at, pair_vector(codes, table, lower, upper))
        codes = simd.shift_right(codes, 8)
        simd.store(at + 64, pair_vector(codes, table, lower, upper))
        codes = simd.shift_right(codes, 8)
        simd.store(at + 128, pair_vector(codes, table, lower, upper))
        codes = simd.shift_right(codes, 8)
        simd.store(at + 192, pair_vector(codes, table, lower, upper))


@inlined
def _dequantize_tiles(codes: Any, column: int, weights: Any) -> None:
    """Write the weights of two groups for 32 inputs, if they have to be."""
    layer, group, other, needed = codes
    if needed and column < layer[WIDTH]:
        _dequantize_tile(layer, group, column, weights[0])
        _dequantize_tile(layer, other, column, weights[1])


@inlined
def pair_vector(codes: Any, table: Any, lower: Any, upper: Any) -> Any:
    """Return the pair vector of the lowest 8 bits of each lane, rounded as bitsandbytes does."""
    return simd.round_halves(
        simd.multiply(simd.look_up(table, codes), lower),
        simd.multiply(simd.look_up(table, simd.shift_right(codes, 4)), upper),
    )


@compiled()
def _sum_one(x: int, codes: Any, weights: Any, sums: int, earlier: Any, outputs: Any) -> None:
    """Write the sums of up to 16 tokens and two groups and finish earlier ones meanwhile.

    Args:
        x: Address of the inputs of the first token.
        codes: The layer, both groups and whether their weights have to be dequantized.
        weights: Addresses of the weights of both groups.
        sums: Address of the sums, float32 ``[2, 16, 16]``.
        earlier: First token, number of tokens and address of the sums to finish.
        outputs: Where and how they are finished.
    """
    amx.clear(0)
    amx.clear(1)
    width = codes[0][WIDTH]
    done, step = 0, -(-_TOKENS * amx.DEPTH // width)
    _dequantize_tiles(codes, 0, weights)
    for column in range(0, width, amx.DEPTH):
        # what is written now is read later
        _dequantize_tiles(codes, column + amx.DEPTH, weights)
        amx.load_once(4, x + 2 * column, 2 * width)
        amx.load(6, weights[0] + amx.DEPTH * column, 64)
        amx.multiply(0, 4, 6)
        amx.load(7, weights[1] + amx.DEPTH * column, 64)
        amx.multiply(1, 4, 7)
        done = _finish(earlier[0], done, min(done + step, earlier[1]), earlier[2], outputs)
    amx.store(0, sums, 64)
    amx.store(1, sums + amx.TILE, 64)


@compiled()
def _sum_two(x: int, codes: Any, weights: Any, sums: int, earlier: Any, outputs: Any) -> None:
    """Write the sums of 17 to 32 tokens, float32 ``[2, 2, 16, 16]``; see ``_sum_one``."""
    amx.clear(0)
    amx.clear(1)
    amx.clear(2)
    amx.clear(3)
    width = codes[0][WIDTH]
    below = x + 2 * amx.ROWS * width
    done, step = 0, -(-_TOKENS * amx.DEPTH // width)
    _dequantize_tiles(codes, 0, weights)
    for column in range(0, width, amx.DEPTH):
        _dequantize_tiles(codes, column + amx.DEPTH, weights)
        amx.load_once(4, x + 2 * column, 2 * width)
        amx.load(6, weights[0] + amx.DEPTH * column, 64)
        amx.multiply(0, 4, 6)
        amx.load(7, weights[1] + amx.DEPTH * column, 64)
        amx.multiply(1, 4, 7)
        amx.load_once(5, below + 2 * column, 2 * width)
        amx.multiply(2, 5, 6)
        amx.multiply(3, 5, 7)
        done = _finish(earlier[0], done, min(done + step, earlier[1]), earlier[2], outputs)
    amx.store(0, sums, 64)
    amx.store(1, sums + amx.TILE, 64)
    amx.store(2, sums + 2 * amx.TILE, 64)
    amx.store(3, sums + 3 * amx.TILE, 64)


@inlined
def _finish(token: int, start: int, end: int, sums: int, outputs: Any) -> Any:
    """Add the biases to the sums of some rows from ``token`` on and write them in bfloat16."""
    y, stride, single, (first, second) = outputs
    for row in range(start, end):
        at = sums + (row // amx.ROWS) * 2 * amx.TILE + (row % amx.ROWS) * 64
        target = y + 2 * (token + row) * stride
        lower = simd.add(simd.load_f32(at), first)
        if single:
            simd.store_rounded(target, lower)
        else:
            upper = simd.add(simd.load_f32(at + amx.TILE), second)
            simd.store(target, simd.round_halves(lower, upper))
    return end


@inlined
def group_bias(layer: Any, group: int) -> Any:
    """Return the bias of a group, or zeros."""
    bias = simd.zeros(1)[0]
    if layer[BIAS] != 0:
        bias = simd.load_widened(layer[BIAS] + 2 * group * GROUP)
    return bias
