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
from adapterhub.kernels.attention.softmax_rows import (
    softmax_row,
)
from adapterhub.kernels.attention.tile_operands import (
    aligned,
    multiply_tiles,
    pack_pairs,
    pack_transposed,
    read_rows,
)
from adapterhub.kernels.numba_support import compiled, narrow

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
    pack_transposed(rows.ctypes.data, 2 * dim, padded, dim, keys.ctypes.data)
    read_rows(value, start, length, kv_head, rows)
    pack_pairs(rows.ctypes.data, 2 * dim, padded, dim, values.ctypes.data)
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
                begin, end = _keys_of(first + row, 1, length, batch)
                log_z[head, start + first + row] = _softmax(
                    block[row], weights[row], begin - low, end - low, scale
                )
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
                store_row(sums[row], out[start + first + row, head], np.float32(1.0))


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
def store_row(source: Any, target: Any, factor: Any) -> None:
    for k in range(len(source)):
        target[k] = narrow(source[k] * factor, target[k])
