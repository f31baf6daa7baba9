"""Gradients of packed attention with matrix tiles; see ``tiles``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import prange

from adapterhub.kernels import amx, simd
from adapterhub.kernels import simd_floats as floats
from adapterhub.kernels.attention.softmax_rows import exponential, keep_lanes
from adapterhub.kernels.attention.tile_operands import (
    aligned,
    multiply_tiles,
    pack_pairs,
    pack_transposed,
    read_rows,
    transpose_tile,
)
from adapterhub.kernels.attention.tiles import BLOCK, TileBatch, store_row
from adapterhub.kernels.numba_support import compiled, inlined, widen

if TYPE_CHECKING:
    from numpy.typing import NDArray


@compiled()
def _store_turned(source: Any, target: Any, factor: Any) -> None:
    """Write scaled columns of ``[dim, padded]`` as the rows of a target ``[length, dim]``."""
    turned = aligned(amx.ROWS * amx.ROWS).view(np.float32).reshape(amx.ROWS, amx.ROWS)
    for first in range(0, target.shape[0], amx.ROWS):
        for column in range(0, source.shape[0], amx.ROWS):
            at = source[column].ctypes.data + 4 * first
            transpose_tile(at, 4 * source.shape[1], turned.ctypes.data)
            for row in range(min(amx.ROWS, target.shape[0] - first)):
                store_row(turned[row], target[first + row, column : column + amx.ROWS], factor)


@compiled(parallel=True)
def attend_backward(
    query: NDArray[np.uint16],
    key: NDArray[np.uint16],
    value: NDArray[np.uint16],
    out: NDArray[np.uint16],
    log_z: NDArray[np.float32],
    grad: NDArray[np.uint16],
    batch: TileBatch,
    d_query: NDArray[np.uint16],
    d_key: NDArray[np.uint16],
    d_value: NDArray[np.uint16],
) -> None:
    """Write the gradients of query, key and value for ``grad``, that of ``out``."""
    kv_heads, sequences = key.shape[1], len(batch.starts)
    for unit in prange(kv_heads * sequences):
        amx.configure(batch.configuration)
        _backward(
            query,
            key,
            value,
            out,
            log_z,
            grad,
            batch,
            unit % sequences,
            unit // sequences,
            d_query,
            d_key,
            d_value,
        )
        amx.release()


@compiled()
def _backward(
    query: Any,
    key: Any,
    value: Any,
    out: Any,
    log_z: Any,
    grad: Any,
    batch: TileBatch,
    sequence: int,
    kv_head: int,
    d_query: Any,
    d_key: Any,
    d_value: Any,
) -> None:
    """Compute the gradients of one key head of a sequence and of its query heads."""
    start, length, scale = batch.starts[sequence], batch.lengths[sequence], np.float32(batch.scale)
    groups, dim = query.shape[1] // key.shape[1], query.shape[2]
    padded = -(-length // BLOCK) * BLOCK
    size = padded * dim // 2
    keys = aligned(size).view(np.uint16).reshape(padded, dim)
    values = aligned(size).view(np.uint16).reshape(padded, dim)
    turned = aligned(size).view(np.uint16).reshape(dim, padded)
    rows = aligned(size).view(np.uint16).reshape(padded, dim)
    q_turned, q_pairs, g_turned, g_pairs = (
        aligned(size),
        aligned(size),
        aligned(size),
        aligned(size),
    )
    sum_key = aligned(2 * size).view(np.float32).reshape(padded, dim)
    sum_value = aligned(2 * size).view(np.float32).reshape(padded, dim)
    sum_query = aligned(2 * size).view(np.float32).reshape(dim, padded)
    shift, delta = aligned(padded).view(np.float32), aligned(padded).view(np.float32)
    read_rows(key, start, length, kv_head, keys)
    read_rows(value, start, length, kv_head, values)
    _transpose(keys, turned)
    sum_key[:] = 0
    sum_value[:] = 0
    for head in range(kv_head * groups, (kv_head + 1) * groups):
        read_rows(query, start, length, head, rows)
        pack_transposed(rows.ctypes.data, 2 * dim, padded, dim, q_turned.ctypes.data)
        pack_pairs(rows.ctypes.data, 2 * dim, padded, dim, q_pairs.ctypes.data)
        read_rows(grad, start, length, head, rows)
        pack_transposed(rows.ctypes.data, 2 * dim, padded, dim, g_turned.ctypes.data)
        pack_pairs(rows.ctypes.data, 2 * dim, padded, dim, g_pairs.ctypes.data)
        for row in range(length):
            at = start + row
            shift[row] = log_z[head, at]
            delta[row] = _dot(grad[at, head], out[at, head])
        shift[length:] = 0
        delta[length:] = 0
        sum_query[:] = 0
        _head_blocks(
            keys,
            values,
            turned,
            q_turned.ctypes.data,
            q_pairs.ctypes.data,
            g_turned.ctypes.data,
            g_pairs.ctypes.data,
            shift,
            delta,
            length,
            batch,
            sum_query,
            sum_key,
            sum_value,
        )
        _store_turned(sum_query, d_query[start : start + length, head], scale)
    for row in range(length):
        store_row(sum_key[row], d_key[start + row, kv_head], scale)
        store_row(sum_value[row], d_value[start + row, kv_head], np.float32(1.0))


@compiled()
def _head_blocks(
    keys: Any,
    values: Any,
    turned: Any,
    q_turned: int,
    q_pairs: int,
    g_turned: int,
    g_pairs: int,
    shift: Any,
    delta: Any,
    length: int,
    batch: TileBatch,
    sum_query: Any,
    sum_key: Any,
    sum_value: Any,
) -> None:
    """Add the gradients of one query head, block by block."""
    causal, window = batch.causal, batch.window
    padded, dim = keys.shape
    depth, column = dim // amx.DEPTH, padded // amx.DEPTH * amx.TILE
    scores = aligned(BLOCK * BLOCK).view(np.float32).reshape(BLOCK, BLOCK)
    slopes = aligned(BLOCK * BLOCK).view(np.float32).reshape(BLOCK, BLOCK)
    probs = aligned(BLOCK * BLOCK // 2).view(np.uint16).reshape(BLOCK, BLOCK)
    left = aligned(BLOCK * BLOCK // 2).view(np.uint16).reshape(BLOCK, BLOCK)
    right = aligned(BLOCK * BLOCK // 2)
    for first in range(0, length, BLOCK):
        begin = first if causal else max(0, first - window + 1) // BLOCK * BLOCK
        end = min(length, first + BLOCK - 1 + window)
        for low in range(begin, end, BLOCK):
            tiles = low * dim * 2
            multiply_tiles(
                keys[first].ctypes.data,
                2 * dim,
                q_turned + tiles,
                depth * amx.TILE,
                depth,
                scores.ctypes.data,
                4 * BLOCK,
                BLOCK,
                BLOCK,
                False,
            )
            multiply_tiles(
                values[first].ctypes.data,
                2 * dim,
                g_turned + tiles,
                depth * amx.TILE,
                depth,
                slopes.ctypes.data,
                4 * BLOCK,
                BLOCK,
                BLOCK,
                False,
            )
            _weigh(scores, slopes, shift, delta, first, low, length, batch, probs, left)
            pack_pairs(left.ctypes.data, 2 * BLOCK, BLOCK, BLOCK, right.ctypes.data)
            tile = low // amx.DEPTH * amx.TILE
            multiply_tiles(
                probs.ctypes.data,
                2 * BLOCK,
                g_pairs + tile,
                column,
                1,
                sum_value[first].ctypes.data,
                4 * dim,
                BLOCK,
                dim,
                True,
            )
            multiply_tiles(
                left.ctypes.data,
                2 * BLOCK,
                q_pairs + tile,
                column,
                1,
                sum_key[first].ctypes.data,
                4 * dim,
                BLOCK,
                dim,
                True,
            )
            multiply_tiles(
                turned.ctypes.data + 2 * first,
                2 * padded,
                right.ctypes.data,
                amx.TILE,
                1,
                sum_query.ctypes.data + 4 * low,
                4 * padded,
                dim,
                BLOCK,
                True,
            )


@compiled()
def _weigh(
    scores: Any,
    slopes: Any,
    shift: Any,
    delta: Any,
    first: int,
    low: int,
    length: int,
    batch: TileBatch,
    probs: Any,
    left: Any,
) -> None:
    """Write ``P`` and ``dS``, rounded, for scores and ``dO Vᵀ`` of a block, keys by queries."""
    score, slope = scores.ctypes.data, slopes.ctypes.data
    prob, result = probs.ctypes.data, left.ctypes.data
    causal, window, scale = batch.causal, batch.window, np.float32(batch.scale)
    log_z, deltas = shift.ctypes.data + 4 * low, delta.ctypes.data + 4 * low
    lower, upper = simd.load_f32(deltas), simd.load_f32(deltas + 64)
    for row in range(BLOCK):
        # queries that see the key
        key = first + row
        begin = (key if causal else max(0, key - window + 1)) - low
        end = min(length, key + window) - low if key < length else begin
        x, dx = _weigh_half(score, slope, simd.load_f32(log_z), lower, scale, begin, end)
        y, dy = _weigh_half(
            score + 64, slope + 64, simd.load_f32(log_z + 64), upper, scale, begin - 16, end - 16
        )
        simd.store(prob, simd.round_halves(x, y))
        simd.store(result, simd.round_halves(dx, dy))
        score, slope = score + 4 * BLOCK, slope + 4 * BLOCK
        prob, result = prob + 2 * BLOCK, result + 2 * BLOCK


@inlined
def _weigh_half(
    score: Any, slope: Any, shift: Any, delta: Any, scale: Any, begin: Any, end: Any
) -> Any:
    """Return ``P`` and ``dS`` of a key and 16 queries."""
    x = keep_lanes(exponential(simd.load_f32(score), scale, shift), begin, end)
    return x, simd.multiply(x, floats.subtract(simd.load_f32(slope), delta))


@compiled()
def _dot(first: Any, second: Any) -> Any:
    total = np.float32(0.0)
    for k in range(len(first)):
        total += widen(first[k]) * widen(second[k])
    return total


@compiled()
def _transpose(source: Any, target: Any) -> None:
    for row in range(source.shape[0]):
        for column in range(source.shape[1]):
            target[column, row] = source[row, column]
