"""A product with 4-bit weights that are expanded in registers, in bitsandbytes' own layout.

Codes of ``W [out, in]`` lie in the order of its elements, two a byte, the first one in the high
half (``bitsandbytes/backends/default/ops.py``, ``_dequantize_4bit_compute``); a weight is its
code's entry in the code book, times the scale of its block of neighbouring elements, rounded
to the compute type.
"""

import triton
import triton.language as tl


# compiled once for all numbers of rows
@triton.jit(do_not_specialize=("rows", "step_programs"))
def multiply(
    x,
    codes,
    scales,
    book,
    sums,
    rows,
    width,
    out_width,
    step_programs,
    ROWS: tl.constexpr,
    OUT: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write the product of some outputs over one range of the input.

    Args:
        x: ``[rows, width]``.
        codes: uint8 ``[out width * width / 2]``.
        scales: float32 ``[out width * width / BLOCK]``.
        book: float32 ``[16]``, what a code stands for.
        sums: float32 ``[ranges, rows, out width]``.
        rows: of ``x``.
        width: of the input, a multiple of ``STEP``.
        out_width: outputs.
        step_programs: steps of a range.
        ROWS: at least ``rows``.
        OUT: outputs of a program.
        BLOCK: elements that have a scale in common.
        STEP: inputs at a time, a divisor of ``BLOCK``.
        WIDE: widen the operands of products to float32 beforehand.
        PRECISION: of products in float32.
    """
    n = (tl.program_id(0) * OUT + tl.arange(0, OUT)).to(tl.int64)
    row = tl.arange(0, ROWS)
    pair = tl.arange(0, STEP // 2)
    real_row, real_out = row[:, None] < rows, n[:, None] < out_width
    total = tl.zeros((ROWS, OUT), tl.float32)
    start = tl.program_id(1) * step_programs * STEP
    end = tl.minimum(start + step_programs * STEP, width)
    for k in range(start, end, STEP):
        first = n[:, None] * width + k
        packed = tl.load(codes + (first >> 1) + pair[None, :], mask=real_out, other=0).to(tl.int32)
        scale = tl.load(scales + first // BLOCK, mask=real_out, other=0.0)
        # even inputs and odd ones are two products, so nothing has to be interleaved
        for odd in tl.static_range(2):
            code = (packed & 15) if odd else (packed >> 4)
            weight = (tl.load(book + code) * scale).to(x.dtype.element_ty)
            values = tl.load(
                x + row[:, None] * width + k + 2 * pair[None, :] + odd, mask=real_row, other=0.0
            )
            if WIDE:
                weight = weight.to(tl.float32)
                values = values.to(tl.float32)
            total = tl.dot(values, tl.trans(weight), total, input_precision=PRECISION)
    at = (tl.program_id(1) * rows + row[:, None]).to(tl.int64) * out_width + n[None, :]
    tl.store(sums + at, total, mask=real_row & (n[None, :] < out_width))


@triton.jit(do_not_specialize=("elements", "ranges"))
def finish(
    sums,
    bias,
    y,
    elements,
    out_width,
    ranges,
    SIZE: tl.constexpr,
    BIASED: tl.constexpr,
):
    """Add the ranges' sums up, in their order, add a bias and round.

    Args:
        sums: as ``multiply`` writes it.
        bias: ``[out width]``, read if ``BIASED``.
        y: ``[rows, out width]``.
        elements: of ``y``.
        out_width: outputs.
        ranges: of the input.
        SIZE: elements of a program.
        BIASED: whether there is a bias.
    """
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    inside = at < elements
    total = tl.load(sums + at, mask=inside, other=0.0)
    for index in range(1, ranges):
        total += tl.load(sums + index * elements + at, mask=inside, other=0.0)
    if BIASED:
        total += tl.load(bias + at % out_width, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + at, total.to(y.dtype.element_ty), mask=inside)
