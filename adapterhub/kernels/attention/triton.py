"""Attention of single query tokens to a paged KV cache in Triton, with split contexts.

Every context is split into a fixed number of ranges; the softmax within a range is computed block
by block with a running maximum (Milakov and Gimelshein 2018, arXiv:1805.02867), and ranges are
combined afterwards, as in Dao et al. 2023, "Flash-Decoding". The grid depends on the numbers of
sequences, key heads and ranges; context lengths are data.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor

from adapterhub.kernels.attention.layout import AttentionParams
from adapterhub.kernels.attention.paged import PageTable
from adapterhub.kernels.triton_support import precision, widens

#: Number of positions per product.
_POSITIONS = 32
#: Number of ranges that a context is split into.
_RANGES = 8


def attend_pages(
    query: Tensor, keys: Tensor, values: Tensor, pages: PageTable, params: AttentionParams
) -> Tensor:
    """Attend on NVIDIA GPUs; see ``PagedAttention``."""
    query = query.contiguous()
    (sequences, heads, width), kv_heads = query.shape, keys.shape[1]
    shape, device = (sequences, heads, _RANGES), query.device
    partial = torch.empty(*shape, width, dtype=torch.float32, device=device)
    maxima = torch.empty(shape, dtype=torch.float32, device=device)
    sums = torch.empty(shape, dtype=torch.float32, device=device)
    out = torch.empty_like(query)
    padded_width = int(triton.next_power_of_2(max(width, 16)))
    # the current GPU may be another one
    with torch.cuda.device_of(query):
        attend_kernel[(sequences, kv_heads, _RANGES)](
            query,
            keys,
            values,
            pages.indices,
            pages.offsets,
            pages.context_lens,
            partial,
            maxima,
            sums,
            params.scale,
            params.window or 0,
            width,
            WIDTH=padded_width,
            GROUP=heads // kv_heads,
            HEADS=max(16, triton.next_power_of_2(heads // kv_heads)),
            PAGE=pages.page_size,
            POSITIONS=_POSITIONS,
            RANGES=_RANGES,
            WIDE=widens(query.dtype),
            PRECISION=precision(query.dtype),
        )
        reduce_kernel[(sequences * heads,)](
            partial, maxima, sums, out, width, WIDTH=padded_width, RANGES=_RANGES
        )
    return out


@triton.jit
def attend_kernel(
    query,  # [num_seqs, kv_heads * GROUP, width]
    keys,  # [num_slots, kv_heads, width]
    values,  # shaped as keys
    pages,  # int32, page indices of all sequences
    offsets,  # int32 [num_seqs], position of each sequence's first page in pages
    contexts,  # int32 [num_seqs], context lengths
    partial,  # float32 [num_seqs, kv_heads * GROUP, RANGES, width], sums not yet divided
    maxima,  # float32 [num_seqs, kv_heads * GROUP, RANGES], largest scores
    sums,  # shaped as maxima, sums of exponentials
    scale,  # factor of the scores
    window,  # size of the sliding window, 0 for none
    width,  # head_dim
    WIDTH: tl.constexpr,  # power of two, at least width
    GROUP: tl.constexpr,  # query heads per key head
    HEADS: tl.constexpr,  # power of two, at least GROUP and 16
    PAGE: tl.constexpr,  # slots in a page
    POSITIONS: tl.constexpr,  # positions per product
    RANGES: tl.constexpr,  # ranges that a context is split into
    WIDE: tl.constexpr,  # whether operands are widened to float32 before a product
    PRECISION: tl.constexpr,
):
    """Attend to one range of a sequence's context, with the query heads of one key head."""
    sequence = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    context = tl.load(contexts + sequence)
    begin = tl.where(window > 0, tl.maximum(context - window, 0), 0)
    blocks = (context - begin + POSITIONS - 1) // POSITIONS
    length = (blocks + RANGES - 1) // RANGES * POSITIONS
    start = begin + tl.program_id(2) * length
    end = tl.minimum(start + length, context)
    head = tl.arange(0, HEADS)
    column = tl.arange(0, WIDTH)
    real = (head[:, None] < GROUP) & (column[None, :] < width)
    heads = sequence * tl.num_programs(1) * GROUP + kv_head * GROUP + head
    q = tl.load(query + heads[:, None] * width + column[None, :], mask=real, other=0.0)
    if WIDE:
        q = q.to(tl.float32)
    total = tl.zeros((HEADS, WIDTH), tl.float32)
    largest = tl.full((HEADS,), float("-inf"), tl.float32)
    total_weight = tl.zeros((HEADS,), tl.float32)
    table = pages + tl.load(offsets + sequence)
    for low in range(start, end, POSITIONS):
        position = low + tl.arange(0, POSITIONS)
        visible = position < end
        page = tl.load(table + position // PAGE, mask=visible, other=0).to(tl.int64)
        slot = (page * PAGE + position % PAGE) * tl.num_programs(1) + kv_head
        at = slot[:, None] * width + column[None, :]
        valid = visible[:, None] & (column[None, :] < width)
        k = tl.load(keys + at, mask=valid, other=0.0)
        v = tl.load(values + at, mask=valid, other=0.0)
        if WIDE:
            k = k.to(tl.float32)
            v = v.to(tl.float32)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        scores = tl.where(visible[None, :], scores, float("-inf"))
        higher = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        rescale = tl.exp(largest - higher)
        total_weight = total_weight * rescale + tl.sum(weights, 1)
        total = total * rescale[:, None]
        total = tl.dot(weights.to(v.dtype), v, total, input_precision=PRECISION)
        largest = higher
    to = heads * RANGES + tl.program_id(2)
    tl.store(partial + to[:, None] * width + column[None, :], total, mask=real)
    tl.store(maxima + to, largest, mask=head < GROUP)
    tl.store(sums + to, total_weight, mask=head < GROUP)


@triton.jit
def reduce_kernel(
    partial,
    maxima,
    sums,
    out,  # [num_seqs * heads, width], written
    width,
    WIDTH: tl.constexpr,
    RANGES: tl.constexpr,
):
    """Combine the ranges of one query head of one sequence."""
    at = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, RANGES)
    column = tl.arange(0, WIDTH)
    valid = column < width
    largest = tl.load(maxima + at * RANGES + index)
    factors = tl.exp(largest - tl.max(largest, 0))
    total_weight = tl.sum(tl.load(sums + at * RANGES + index) * factors, 0)
    ranges = tl.load(
        partial + (at * RANGES + index[:, None]) * width + column[None, :],
        mask=valid[None, :],
        other=0.0,
    )
    result = tl.sum(ranges * factors[:, None], 0) / total_weight
    tl.store(out + at * width + column, result.to(out.dtype.element_ty), mask=valid)
