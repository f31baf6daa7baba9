"""Products with packed weights, for a range of output groups, to be called by compiled code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import prange

from adapterhub.kernels import simd
from adapterhub.kernels.amx import compiles_amx
from adapterhub.kernels.linear.fields import (
    BLOCK,
    OUTPUTS,
    PLAIN_ROWS,
    SCALES,
    TABLE,
    TILES,
    WEIGHT,
    WIDTH,
)
from adapterhub.kernels.linear.layout import GROUP
from adapterhub.kernels.linear.row_products import multiply_rows, row_buffer_bytes
from adapterhub.kernels.linear.tile_products import (
    buffer_bytes,
    dequantize_group,
    group_bias,
    multiply_tiles,
    pair_vector,
)
from adapterhub.kernels.numba_support import compiled, inlined

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Number of tokens from which matrix tiles multiply 4-bit weights, which are written to memory for
#: them; bfloat16 ones they always do.
MIN_TILE_TOKENS = 2
# numba leaves out what a constant excludes, which other CPUs can't compile
_COMPILES_AMX = compiles_amx()


@compiled()
def multiply_groups(
    x: int, tokens: int, layer: NDArray[np.int64], y: int, stride: int, first: int, last: int
) -> None:
    """Write ``y = x Wᵀ + bias`` for the outputs ``16 first`` to ``16 last`` of a layer.

    Args:
        x: Address of the inputs, bfloat16 ``[tokens, width]``, contiguous.
        tokens: Number of tokens.
        layer: Description of the layer, see ``fields``.
        y: Address of the outputs of the whole layer, bfloat16 ``[tokens, out]``.
        stride: Elements of ``y`` from a token to the next.
        first: First group of 16 outputs.
        last: Group after the last one.
    """
    if _COMPILES_AMX and layer[TILES] == PLAIN_ROWS:
        memory = np.empty(row_buffer_bytes(layer, tokens), np.uint8)
        multiply_rows(x, tokens, layer, y, stride, first, last, memory)
        return
    if _COMPILES_AMX and layer[TILES] != 0 and (layer[SCALES] == 0 or tokens >= MIN_TILE_TOKENS):
        buffer = np.empty(buffer_bytes(layer), np.uint8)
        multiply_tiles(x, tokens, layer, y, stride, first, last, buffer)
        return
    width = layer[WIDTH]
    for group in range(first, last):
        done = 0
        while done < tokens:
            left = tokens - done
            source = x + 2 * done * width
            target = y + 2 * (done * stride + group * GROUP)
            if left >= 8:
                _multiply_block(simd.zeros(8), source, layer, group, target, stride)
                done += 8
            elif left >= 4:
                _multiply_block(simd.zeros(4), source, layer, group, target, stride)
                done += 4
            elif left >= 2:
                _multiply_block(simd.zeros(2), source, layer, group, target, stride)
                done += 2
            else:
                _multiply_block(simd.zeros(1), source, layer, group, target, stride)
                done += 1


@compiled()
def _multiply_block(
    zeros: Any, x: int, layer: NDArray[np.int64], group: int, y: int, stride: int
) -> None:
    """Compute 16 outputs of a block of as many tokens as there are zeros."""
    if layer[SCALES] != 0:
        even, odd = _sums_of_codes(zeros, x, layer, group)
    else:
        even, odd = _sums(zeros, x, layer, group)
    simd.store_sums(even, odd, group_bias(layer, group), y, 2 * stride)


@inlined
def _sums(zeros: Any, x: int, layer: Any, group: int) -> Any:
    """Return the sums of even and of odd pairs of inputs, with bfloat16 weights."""
    width = layer[WIDTH]
    weight = layer[WEIGHT] + group * width * 2 * GROUP
    even, odd = zeros, zeros
    for pair in range(0, width // 2, 4):
        at, vector = x + 4 * pair, weight + pair * simd.VECTOR
        even = simd.add_products(even, simd.load_bf16(vector), at, 2 * width)
        odd = simd.add_products(odd, simd.load_bf16(vector + 64), at + 4, 2 * width)
        even = simd.add_products(even, simd.load_bf16(vector + 128), at + 8, 2 * width)
        odd = simd.add_products(odd, simd.load_bf16(vector + 192), at + 12, 2 * width)
    return even, odd


@inlined
def _sums_of_codes(zeros: Any, x: int, layer: Any, group: int) -> Any:
    """Return the sums of even and of odd pairs of inputs, with 4-bit weights."""
    width, block = layer[WIDTH], layer[BLOCK]
    words = layer[WEIGHT] + group * width * GROUP // 2
    scales = layer[SCALES] + group * (width // block) * simd.VECTOR
    table = simd.load_f32(layer[TABLE])
    even, odd = zeros, zeros
    for number in range(width // block):
        lower, upper = simd.repeat_halves(simd.load_f32(scales + number * simd.VECTOR))
        for column in range(number * block, (number + 1) * block, 8):
            codes, at = simd.load_i32(words + column * 8), x + 2 * column
            pair = pair_vector(codes, table, lower, upper)
            even = simd.add_products(even, pair, at, 2 * width)
            pair = pair_vector(simd.shift_right(codes, 8), table, lower, upper)
            odd = simd.add_products(odd, pair, at + 4, 2 * width)
            pair = pair_vector(simd.shift_right(codes, 16), table, lower, upper)
            even = simd.add_products(even, pair, at + 8, 2 * width)
            pair = pair_vector(simd.shift_right(codes, 24), table, lower, upper)
            odd = simd.add_products(odd, pair, at + 12, 2 * width)
    return even, odd


@compiled(parallel=True)
def multiply_all(x: int, tokens: int, layer: NDArray[np.int64], y: int, shares: int) -> None:
    """Write ``y = x Wᵀ + bias``, contiguous, with the groups in a number of shares."""
    groups = layer[OUTPUTS] // GROUP
    pairs = (groups + 1) // 2
    for index in prange(shares):
        share = np.int64(index)
        first, last = 2 * (share * pairs // shares), 2 * ((share + 1) * pairs // shares)
        last = min(last, groups)
        multiply_groups(x, tokens, layer, y, layer[OUTPUTS], first, last)


@compiled(parallel=True)
def dequantize_all(layer: NDArray[np.int64], target: int) -> None:
    """Write all weights of a 4-bit layer as pair vectors of bfloat16."""
    for index in prange(layer[OUTPUTS] // GROUP):
        group: Any = np.int64(index)
        dequantize_group(layer, group, target + group * layer[WIDTH] * 2 * GROUP)
