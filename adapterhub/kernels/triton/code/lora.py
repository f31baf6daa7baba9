"""Segmented shrink and expand: programs for sorted tokens, whose index tables are data.

A program of either works on one *tile*: up to ``TOKENS`` tokens that use the same parts. Grids
count tiles as there could be, one a token; a program without a tile ends at once. So a grid
depends on the number of tokens alone, never on their adapters, and a CUDA graph may hold it.

What a token gets does not depend on the tokens beside it: sums have one fixed order, by rank
rows and by ranges of the input, and there are no atomic additions.
"""

import triton
import triton.language as tl

#: Sizes of buffers, which differ between steps: no program is compiled anew for one of them.
VARYING = ("table_words", "order_at", "parts_at", "weights_at", "inner_split", "inner_token")
#: Addresses within such buffers.
WITHIN = ("group", "tables")


@triton.jit(do_not_specialize=VARYING, do_not_specialize_on_alignment=WITHIN)
def shrink(
    x,
    a,
    inner,
    group,
    tables,
    table_words,
    order_at,
    parts_at,
    weights_at,
    width,
    inner_split,
    inner_token,
    TOKENS: tl.constexpr,
    RANKS: tl.constexpr,
    STEP: tl.constexpr,
    STEPS: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write ``w (x Aᵀ)`` of one range of the input, for one tile.

    Args:
        x: ``[tokens, width]``.
        a: ``[rank rows, width]``.
        inner: float32 ``[ranges, sorted tokens, ranks]``.
        group: int32, which table counts at this layer.
        tables: int32, see ``PlanBuffers`` for what is in one.
        table_words: length of a table.
        order_at: where the sorted tokens lie in a table.
        parts_at: where first rows and ranks of parts do.
        weights_at: where the bits of the weights of parts do.
        width: of the input.
        inner_split: stride of ``inner``.
        inner_token: stride of ``inner``.
        TOKENS: in a tile.
        RANKS: rank rows at a time.
        STEP: values of the input at a time.
        STEPS: steps in a range.
        WIDE: widen the operands of products to float32 beforehand.
        PRECISION: of products in float32.
    """
    table = tables + tl.load(group).to(tl.int64) * table_words
    tile = table + tl.program_id(0) * 4
    count = tl.load(tile + 1)
    if count > 0:
        first = tl.load(tile)
        member = tl.arange(0, TOKENS)
        inside = member < count
        token = tl.load(table + order_at + first + member, mask=inside, other=0).to(tl.int64)
        start = tl.program_id(1) * STEP * STEPS
        column = 0
        for part in range(tl.load(tile + 2), tl.load(tile + 3)):
            row = tl.load(table + parts_at + 2 * part).to(tl.int64)
            rank = tl.load(table + parts_at + 2 * part + 1)
            weight = tl.load(table + weights_at + part).to(tl.float32, bitcast=True)
            for low in range(0, rank, RANKS):
                ranks = low + tl.arange(0, RANKS)
                total = tl.zeros((TOKENS, RANKS), tl.float32)
                for step in range(STEPS):
                    k = start + step * STEP + tl.arange(0, STEP)
                    values = tl.load(
                        x + token[:, None] * width + k[None, :],
                        mask=inside[:, None] & (k[None, :] < width),
                        other=0.0,
                    )
                    rows = tl.load(
                        a + (row + ranks[None, :]) * width + k[:, None],
                        mask=(ranks[None, :] < rank) & (k[:, None] < width),
                        other=0.0,
                    )
                    if WIDE:
                        values = values.to(tl.float32)
                        rows = rows.to(tl.float32)
                    total = tl.dot(values, rows, total, input_precision=PRECISION)
                tl.store(
                    inner
                    + tl.program_id(1) * inner_split
                    + (first + member[:, None]) * inner_token
                    + column
                    + ranks[None, :],
                    total * weight,
                    mask=inside[:, None] & (ranks[None, :] < rank),
                )
            column += rank


@triton.jit(do_not_specialize=VARYING, do_not_specialize_on_alignment=WITHIN)
def expand(
    y,
    b,
    inner,
    group,
    tables,
    table_words,
    order_at,
    parts_at,
    width,
    inner_split,
    inner_token,
    TOKENS: tl.constexpr,
    RANKS: tl.constexpr,
    OUT: tl.constexpr,
    RANGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add ``inner B`` to ``y`` in place, for one tile and one range of the output.

    Args:
        y: ``[tokens, width]``.
        b: ``[rank rows, width]``.
        inner: as ``shrink`` writes it.
        group: int32, which table counts at this layer.
        tables: as for ``shrink``.
        table_words: as for ``shrink``.
        order_at: as for ``shrink``.
        parts_at: as for ``shrink``.
        width: of the output.
        inner_split: stride of ``inner``.
        inner_token: stride of ``inner``.
        TOKENS: in a tile.
        RANKS: rank rows at a time.
        OUT: outputs of a program.
        RANGES: of the input, whose parts of ``inner`` are summed.
        PRECISION: of the product.
    """
    table = tables + tl.load(group).to(tl.int64) * table_words
    tile = table + tl.program_id(0) * 4
    count = tl.load(tile + 1)
    if count > 0:
        first = tl.load(tile)
        member = tl.arange(0, TOKENS)
        inside = member < count
        token = tl.load(table + order_at + first + member, mask=inside, other=0).to(tl.int64)
        n = tl.program_id(1) * OUT + tl.arange(0, OUT)
        total = tl.zeros((TOKENS, OUT), tl.float32)
        column = 0
        for part in range(tl.load(tile + 2), tl.load(tile + 3)):
            row = tl.load(table + parts_at + 2 * part).to(tl.int64)
            rank = tl.load(table + parts_at + 2 * part + 1)
            for low in range(0, rank, RANKS):
                ranks = low + tl.arange(0, RANKS)
                used = inside[:, None] & (ranks[None, :] < rank)
                at = inner + (first + member[:, None]) * inner_token + column + ranks[None, :]
                between = tl.load(at, mask=used, other=0.0)
                for split in range(1, RANGES):
                    between += tl.load(at + split * inner_split, mask=used, other=0.0)
                rows = tl.load(
                    b + (row + ranks[:, None]) * width + n[None, :],
                    mask=(ranks[:, None] < rank) & (n[None, :] < width),
                    other=0.0,
                )
                total = tl.dot(between, rows.to(tl.float32), total, input_precision=PRECISION)
            column += rank
        out = y + token[:, None] * width + n[None, :]
        used = inside[:, None] & (n[None, :] < width)
        before = tl.load(out, mask=used, other=0.0)
        tl.store(out, (before.to(tl.float32) + total).to(y.dtype.element_ty), mask=used)
