"""Packed attention in bfloat16 with matrix tiles (AMX), forward and backward.

One thread computes the query heads of one key head of one sequence, so that no two threads add to
the same gradient. Scores of 32 queries stay in the cache. The backward pass computes transposed
scores, keys by queries, whose rows are then left operands of the products for keys and values.

    S = s Q Kᵀ,   P = exp(S - log z),   O = P V
    dV = Pᵀ dO,   dS = P ∘ (dO Vᵀ - rowsum(dO ∘ O)),   dQ = s dS K,   dK = s dSᵀ Q

Products are accumulated in float32; ``P`` and ``dS`` are rounded to bfloat16 between them.
Source: Dao et al. 2022, arXiv:2205.14135, appendix B.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import prange

from adapterhub.kernels import amx
from adapterhub.kernels.attention.softmax_rows import softmax_row
from adapterhub.kernels.attention.tile_operands import (
    aligned,
    multiply_tiles,
    pack_pairs,
    pack_transposed,
    read_rows,
)
from adapterhub.kernels.numba_support import compiled, exponential, narrow, widen

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Queries, and keys, that are computed together.
BLOCK = 32


class TileBatch(NamedTuple):
    """Sequences of a packed batch and the mask of their attention, for compiled code.

    Args:
        starts: First token of each sequence.
        lengths: Number of tokens of each sequence.
        causal: Whether a query sees only itself and earlier positions.
        window: Positions that a query sees in one direction, including its own.
        scale: Factor of the scores.
        configuration: Address of ``amx.CONFIGURATION``.
    """

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    causal: bool
    window: int
    scale: float
    configuration: int


@compiled(parallel=True)
def attend_forward(
    query: NDArray[np.uint16],
    key: NDArray[np.uint16],
    value: NDArray[np.uint16],
    batch: TileBatch,
    out: NDArray[np.uint16],
    log_z: NDArray[np.float32],
) -> None:
    """Attend within each sequence.

    Args:
        query: ``[num_tokens, heads, head_dim]``.
        key: ``[num_tokens, kv_heads, head_dim]``.
        value: Shaped as ``key``.
        batch: Sequences and mask.
        out: Result, shaped as ``query``.
        log_z: Log-sum-exp of each query's scores, ``[heads, num_tokens]``.
    """
    kv_heads, sequences = key.shape[1], len(batch.starts)
    for unit in prange(kv_heads * sequences):
        # neighbouring units are different sequences: a long one is then shared by the threads
        amx.configure(batch.configuration)
        _forward(query, key, value, batch, unit % sequences, unit // sequences, out, log_z)
        amx.release()


@compiled()
def _forward(
    query: Any,
    key: Any,
    value: Any,
    batch: TileBatch,
    sequence: int,
    kv_head: int,
    out: Any,
    log_z: Any,
) -> None:
    """Compute the query heads of one key head of a sequence."""
    start, length, scale = batch.starts[sequence], batch.lengths[sequence], np.float32(batch.scale)
    groups, dim = query.shape[1] // key.shape[1], query.shape[2]
    padded = -(-length // BLOCK) * BLOCK
    rows = aligned(padded * dim // 2).view(np.uint16).reshape(padded, dim)
    keys, values = aligned(padded * dim // 2), aligned(padded * dim // 2)
    read_rows(key, start, length, kv_head, rows)
    pack_transposed(rows, keys)
    read_rows(value, start, length, kv_head, rows)
    pack_pairs(rows, values)
    queries = aligned(BLOCK * dim // 2).view(np.uint16).reshape(BLOCK, dim)
    scores = aligned(BLOCK * padded).view(np.float32)
    probs = aligned(BLOCK * padded // 2).view(np.uint16)
    sums = aligned(BLOCK * dim).view(np.float32).reshape(BLOCK, dim)
    for head in range(kv_head * groups, (kv_head + 1) * groups):
        for first in range(0, length, BLOCK):
            count = min(BLOCK, length - first)
            low, high = _keys_of(first, count, length, batch)
            low, high = low // BLOCK * BLOCK, -(-high // BLOCK) * BLOCK
            width = high - low
            read_rows(query, start + first, count, head, queries)
            block = scores[: BLOCK * width].reshape(BLOCK, width)
            weights = probs[: BLOCK * width].reshape(BLOCK, width)
            depth = dim // amx.DEPTH
            multiply_tiles(
                queries.ctypes.data,
                2 * dim,
                keys.ctypes.data + low * dim * 2,
                depth * amx.TILE,
                depth,
                block.ctypes.data,
                4 * width,
                BLOCK,
                width,
                False,
            )
            for row in range(count):
                at = start + first + row
                begin, end = _keys_of(first + row, 1, length, batch)
                log_z[head, at] = _softmax(block[row], weights[row], begin - low, end - low, scale)
            weights[count:] = 0
            multiply_tiles(
                weights.ctypes.data,
                2 * width,
                values.ctypes.data + low // amx.DEPTH * amx.TILE,
                padded // amx.DEPTH * amx.TILE,
                width // amx.DEPTH,
                sums.ctypes.data,
                4 * dim,
                BLOCK,
                dim,
                False,
            )
            for row in range(count):
                _store(sums[row], out[start + first + row, head], np.float32(1.0))


@compiled()
def _keys_of(first: int, count: int, length: int, batch: TileBatch) -> Any:
    """Return the first key that some of ``count`` queries see, and one past the last."""
    last = first + count - 1
    end = last + 1 if batch.causal else min(length, last + batch.window)
    return max(0, first - batch.window + 1), end


@compiled()
def _softmax(scores: Any, weights: Any, begin: int, end: int, scale: Any) -> Any:
    """Write the softmax of scaled scores, 0 outside of the range, and return the log-sum-exp."""
    # loops, because an assignment to a slice takes longer
    for k in range(begin):
        scores[k] = np.float32(-np.inf)
    for k in range(end, len(scores)):
        scores[k] = np.float32(-np.inf)
    return softmax_row(scores.ctypes.data, weights.ctypes.data, len(scores), scale)


@compiled()
def _store(source: Any, target: Any, factor: Any) -> None:
    for k in range(len(source)):
        target[k] = narrow(source[k] * factor, target[k])


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
        pack_transposed(rows, q_turned)
        pack_pairs(rows, q_pairs)
        read_rows(grad, start, length, head, rows)
        pack_transposed(rows, g_turned)
        pack_pairs(rows, g_pairs)
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
        for row in range(length):
            target = d_query[start + row, head]
            for k in range(dim):
                target[k] = narrow(sum_query[k, row] * scale, target[k])
    for row in range(length):
        _store(sum_key[row], d_key[start + row, kv_head], scale)
        _store(sum_value[row], d_value[start + row, kv_head], np.float32(1.0))


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
    causal, window, scale = batch.causal, batch.window, np.float32(batch.scale)
    padded, dim = keys.shape
    depth, column = dim // amx.DEPTH, padded // amx.DEPTH * amx.TILE
    scores = aligned(BLOCK * BLOCK).view(np.float32).reshape(BLOCK, BLOCK)
    slopes = aligned(BLOCK * BLOCK).view(np.float32).reshape(BLOCK, BLOCK)
    probs = aligned(BLOCK * BLOCK // 2).view(np.uint16).reshape(BLOCK, BLOCK)
    left = aligned(BLOCK * BLOCK // 2).view(np.uint16).reshape(BLOCK, BLOCK)
    right = aligned(BLOCK * BLOCK // 2).reshape(2, amx.ROWS, amx.ROWS)
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
            for row in range(BLOCK):
                _weigh(
                    scores[row],
                    slopes[row],
                    shift[low : low + BLOCK],
                    delta[low : low + BLOCK],
                    scale,
                )
            _hide(scores, slopes, first, low, length, causal, window)
            for row in range(BLOCK):
                _store(scores[row], probs[row], np.float32(1.0))
                _store(slopes[row], left[row], np.float32(1.0))
            for half in range(2):
                for pair in range(amx.ROWS):
                    for at in range(amx.ROWS):
                        column_at = half * amx.ROWS + at
                        right[half, pair, at] = np.uint32(left[2 * pair, column_at]) | (
                            np.uint32(left[2 * pair + 1, column_at]) << np.uint32(16)
                        )
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
def _weigh(scores: Any, slopes: Any, shift: Any, delta: Any, scale: Any) -> None:
    """Turn a key's scores into ``P`` and ``dO Vᵀ`` into ``dS``, for a block of queries."""
    for k in range(len(scores)):
        prob = exponential(min(scores[k] * scale - shift[k], np.float32(0.0)))
        scores[k] = prob
        slopes[k] = prob * (slopes[k] - delta[k])


@compiled()
def _hide(
    scores: Any, slopes: Any, first: int, low: int, length: int, causal: bool, window: int
) -> None:
    """Set to 0 what a query of the block does not see, or lies behind the sequence."""
    inside = first + BLOCK <= length and low + BLOCK <= length
    near = low + BLOCK - first <= window and (causal or first + BLOCK - low <= window)
    if inside and near and (not causal or first + BLOCK <= low + 1):
        return
    for row in range(BLOCK):
        at = first + row
        begin = at if causal else max(0, at - window + 1)
        end = min(length, at + window) if at < length else begin
        for k in range(BLOCK):
            if low + k < begin or low + k >= end:
                scores[row, k] = 0
                slopes[row, k] = 0


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
