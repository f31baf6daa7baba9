"""Products with a plain bfloat16 weight ``[out, in]``, by matrix tiles of AMX.

Rows of the weight are left tiles and inputs, which are few, are packed to right tiles, so that the
weight needs no layout of its own: that of an output layer is mostly the embedding's too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from adapterhub.kernels import amx, simd
from adapterhub.kernels.linear.fields import WEIGHT, WIDTH
from adapterhub.kernels.linear.layout import GROUP
from adapterhub.kernels.linear.tile_products import group_bias
from adapterhub.kernels.numba_support import compiled, inlined

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Bytes of the sums of four tiles.
_SUMS = 4 * amx.TILE
#: Tokens of two tiles.
_TOKENS = 2 * amx.ROWS


@inlined
def row_buffer_bytes(layer: Any, tokens: int) -> Any:
    """Return the bytes that ``multiply_rows`` needs beside its arguments."""
    return _SUMS + (tokens + _TOKENS) * 2 * layer[WIDTH] + simd.VECTOR


@compiled()
def multiply_rows(
    x: int,
    tokens: int,
    layer: NDArray[np.int64],
    y: int,
    stride: int,
    first: int,
    last: int,
    buffer: NDArray[np.uint8],
) -> None:
    """Compute what ``multiply_groups`` does, with ``row_buffer_bytes`` of memory beside."""
    width = layer[WIDTH]
    sums: Any = (np.int64(buffer.ctypes.data) + simd.VECTOR - 1) // simd.VECTOR * simd.VECTOR
    inputs = sums + _SUMS
    for token in range(0, tokens, amx.ROWS):
        count = min(amx.ROWS, tokens - token)
        _pack(x + 2 * token * width, count, width, inputs + 2 * token * width)
    amx.configure_rows(amx.ROWS, amx.ROWS)
    for group in range(first, last, 2):
        # a single group is computed twice
        other = min(group + 1, last - 1)
        rows = layer[WEIGHT] + group * GROUP * 2 * width
        others = layer[WEIGHT] + other * GROUP * 2 * width
        bias, more = group_bias(layer, group), group_bias(layer, other)
        for token in range(0, tokens, _TOKENS):
            count = tokens - token
            _sum(inputs + 2 * token * width, count > amx.ROWS, width, rows, others, sums)
            for row in range(min(count, _TOKENS)):
                at = sums + (row // amx.ROWS) * amx.TILE + (row % amx.ROWS) * 4
                target = y + 2 * ((token + row) * stride + group * GROUP)
                simd.store_rounded(target, simd.add(simd.gather_rows(at, simd.VECTOR), bias))
                if other != group:
                    values = simd.gather_rows(at + 2 * amx.TILE, simd.VECTOR)
                    simd.store_rounded(target + 2 * GROUP, simd.add(values, more))
    amx.release()


@compiled()
def _pack(x: int, tokens: int, width: int, inputs: int) -> None:
    """Write up to 16 tokens as right tiles ``[width / 2, 16, 2]``, filled up with the last one."""
    for pair in range(width // 2):
        simd.store(inputs + pair * simd.VECTOR, simd.gather_tokens(x + 4 * pair, 2 * width, tokens))


@compiled()
def _sum(x: int, double: bool, width: int, rows: int, others: int, sums: int) -> None:
    """Write the sums of two groups and 16 tokens, or 32, float32 ``[2, 2, 16 outputs, 16]``."""
    amx.clear(0)
    amx.clear(1)
    amx.clear(2)
    amx.clear(3)
    below = x + 2 * amx.ROWS * width
    for column in range(0, width, amx.DEPTH):
        amx.load_once(4, rows + 2 * column, 2 * width)
        amx.load_once(5, others + 2 * column, 2 * width)
        amx.load(6, x + amx.DEPTH * column, simd.VECTOR)
        amx.multiply(0, 4, 6)
        amx.multiply(2, 5, 6)
        if double:
            amx.load(7, below + amx.DEPTH * column, simd.VECTOR)
            amx.multiply(1, 4, 7)
            amx.multiply(3, 5, 7)
    amx.store(0, sums, simd.VECTOR)
    amx.store(1, sums + amx.TILE, simd.VECTOR)
    amx.store(2, sums + 2 * amx.TILE, simd.VECTOR)
    amx.store(3, sums + 3 * amx.TILE, simd.VECTOR)
