"""Attention of single tokens over a paged cache, each row cut into a fixed number of ranges.

The softmax is computed block by block with a running maximum (Milakov and Gimelshein 2018,
arXiv:1805.02867); ranges are joined afterwards, as in Dao et al. 2023, "Flash-Decoding". The
grid counts rows, key heads and ranges; how long a row is, is data.
"""

import triton
import triton.language as tl


@triton.jit
def attend(
    query,
    keys,
    values,
    pages,
    firsts,
    contexts,
    partial,
    maxima,
    sums,
    scale,
    window,
    width,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    HEADS: tl.constexpr,
    PAGE: tl.constexpr,
    POSITIONS: tl.constexpr,
    RANGES: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Attend to one range of a row's positions, with the query heads of one key head.

    Args:
        query: ``[rows, key heads * group, width]``.
        keys: ``[places, key heads, width]``.
        values: shaped as ``keys``.
        pages: int32, numbers of the pages of all rows.
        firsts: int32 ``[rows]``, where each row's pages begin.
        contexts: int32 ``[rows]``, positions of each row.
        partial: float32 ``[rows, key heads * group, RANGES, width]``, sums not yet divided.
        maxima: float32 ``[rows, key heads * group, RANGES]``, of scores.
        sums: shaped as ``maxima``, of exponentials.
        scale: of the scores.
        window: positions that are seen, 0 for all.
        width: of a head.
        WIDTH: power of two, at least ``width``.
        GROUP: query heads of a key head.
        HEADS: power of two, at least ``GROUP`` and 16.
        PAGE: positions in a page.
        POSITIONS: looked at at a time.
        RANGES: that a row is cut into.
        WIDE: widen the operands of products to float32 beforehand.
        PRECISION: of products in float32.
    """
    row = tl.program_id(0).to(tl.int64)
    shared = tl.program_id(1)
    context = tl.load(contexts + row)
    begin = tl.where(window > 0, tl.maximum(context - window, 0), 0)
    blocks = (context - begin + POSITIONS - 1) // POSITIONS
    length = (blocks + RANGES - 1) // RANGES * POSITIONS
    start = begin + tl.program_id(2) * length
    end = tl.minimum(start + length, context)
    head = tl.arange(0, HEADS)
    column = tl.arange(0, WIDTH)
    real = (head[:, None] < GROUP) & (column[None, :] < width)
    heads = row * tl.num_programs(1) * GROUP + shared * GROUP + head
    q = tl.load(query + heads[:, None] * width + column[None, :], mask=real, other=0.0)
    if WIDE:
        q = q.to(tl.float32)
    total = tl.zeros((HEADS, WIDTH), tl.float32)
    most = tl.full((HEADS,), float("-inf"), tl.float32)
    mass = tl.zeros((HEADS,), tl.float32)
    table = pages + tl.load(firsts + row)
    for low in range(start, end, POSITIONS):
        position = low + tl.arange(0, POSITIONS)
        seen = position < end
        page = tl.load(table + position // PAGE, mask=seen, other=0).to(tl.int64)
        place = (page * PAGE + position % PAGE) * tl.num_programs(1) + shared
        at = place[:, None] * width + column[None, :]
        held = seen[:, None] & (column[None, :] < width)
        k = tl.load(keys + at, mask=held, other=0.0)
        v = tl.load(values + at, mask=held, other=0.0)
        if WIDE:
            k = k.to(tl.float32)
            v = v.to(tl.float32)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        scores = tl.where(seen[None, :], scores, float("-inf"))
        higher = tl.maximum(most, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        before = tl.exp(most - higher)
        mass = mass * before + tl.sum(weights, 1)
        total = total * before[:, None]
        total = tl.dot(weights.to(v.dtype), v, total, input_precision=PRECISION)
        most = higher
    to = heads * RANGES + tl.program_id(2)
    tl.store(partial + to[:, None] * width + column[None, :], total, mask=real)
    tl.store(maxima + to, most, mask=head < GROUP)
    tl.store(sums + to, mass, mask=head < GROUP)


@triton.jit
def join(
    partial,
    maxima,
    sums,
    out,
    width,
    WIDTH: tl.constexpr,
    RANGES: tl.constexpr,
):
    """Join the ranges of one query head of one row.

    Args:
        partial: as ``attend`` writes it.
        maxima: as ``attend`` writes it.
        sums: as ``attend`` writes it.
        out: ``[rows * heads, width]``.
        width: of a head.
        WIDTH: power of two, at least ``width``.
        RANGES: power of two.
    """
    at = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, RANGES)
    column = tl.arange(0, WIDTH)
    held = column < width
    most = tl.load(maxima + at * RANGES + index)
    factors = tl.exp(most - tl.max(most, 0))
    mass = tl.sum(tl.load(sums + at * RANGES + index) * factors, 0)
    parts = tl.load(
        partial + (at * RANGES + index[:, None]) * width + column[None, :],
        mask=held[None, :],
        other=0.0,
    )
    found = tl.sum(parts * factors[:, None], 0) / mass
    tl.store(out + at * width + column, found.to(out.dtype.element_ty), mask=held)
