"""Attention of single query tokens to a paged KV cache on CPUs, compiled by numba.

Arithmetic is float32. A key is read once for all query heads that share it. The scores of a
sequence are kept, and the softmax takes a pass over them: they fit into the cache for any context
that a CPU serves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numba import prange

from adapterhub.kernels.numba_support import as_array, compiled, exponential, inlined, narrow, widen

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from adapterhub.kernels.attention.layout import AttentionParams
    from adapterhub.kernels.attention.paged import PageTable


def attend_pages(
    query: Tensor, keys: Tensor, values: Tensor, pages: PageTable, params: AttentionParams
) -> Tensor:
    """Attend on a CPU; see ``PagedAttention``."""
    if pages.page_size != 1:
        raise ValueError(f"attention on CPUs needs pages of 1 slot, got {pages.page_size}")
    query = query.contiguous()
    out = torch.empty_like(query)
    tables = (as_array(query), as_array(keys), as_array(values))
    context = (as_array(pages.indices), as_array(pages.offsets), as_array(pages.context_lens))
    _attend(*tables, *context, params.window or 0, params.scale, as_array(out))
    return out


@compiled(parallel=True)
def _attend(
    query: NDArray[Any],
    keys: NDArray[Any],
    values: NDArray[Any],
    slots: NDArray[np.int32],
    offsets: NDArray[np.int32],
    context_lens: NDArray[np.int32],
    window: int,
    scale: float,
    out: NDArray[Any],
) -> None:
    """Write the attention of single tokens to ``out`` ``[num_seqs, heads, head_dim]``."""
    sequences, heads, width = query.shape
    kv_heads = keys.shape[1]
    group = heads // kv_heads
    for index in prange(sequences * kv_heads):
        sequence, head = index // kv_heads, index % kv_heads
        first, end = offsets[sequence], offsets[sequence] + context_lens[sequence]
        if window and end - first > window:
            first = end - window
        context = end - first
        scaled = np.empty((group, width), np.float32)
        for g in range(group):
            for k in range(width):
                scaled[g, k] = widen(query[sequence, head * group + g, k]) * scale
        scores = np.empty((group, context), np.float32)
        for position in range(context):
            slot = slots[first + position]
            for g in range(group):
                total = np.float32(0.0)
                for k in range(width):
                    total += scaled[g, k] * widen(keys[slot, head, k])
                scores[g, position] = total
        _softmax(scores)
        mixed = np.zeros((group, width), np.float32)
        for position in range(context):
            slot = slots[first + position]
            for g in range(group):
                weight = scores[g, position]
                for k in range(width):
                    mixed[g, k] += weight * widen(values[slot, head, k])
        for g in range(group):
            for k in range(width):
                out[sequence, head * group + g, k] = narrow(mixed[g, k], query[sequence, 0, k])


@inlined
def _softmax(scores: Any) -> None:
    """Replace scores ``[group, context]`` by their softmax over the context, in place."""
    group, context = scores.shape
    for g in range(group):
        largest = scores[g, 0]
        for position in range(1, context):
            largest = max(largest, scores[g, position])
        total = np.float32(0.0)
        for position in range(context):
            value = exponential(scores[g, position] - largest)
            scores[g, position] = value
            total += value
        for position in range(context):
            scores[g, position] /= total
