"""Causal attention of some tokens of a sequence to its paged KV cache."""

from __future__ import annotations

from typing import Any

import numpy as np

from adapterhub.kernels import simd
from adapterhub.kernels import simd_floats as floats
from adapterhub.kernels.attention.softmax_rows import exponential, keep_lanes
from adapterhub.kernels.numba_support import compiled, inlined
from adapterhub.kernels.simd_floats import float_at, integer_at

#: Positions whose scores are a register.
_LANES = 16


@compiled()
def attend(
    query: int,
    keys: int,
    values: int,
    slots: int,
    length: int,
    width: int,
    row: int,
    scale: float,
    out: int,
    scores: int,
) -> None:
    """Write the attention of one head of one token.

    Args:
        query: Address of the query, bfloat16 ``[width]``.
        keys: Address of the keys of the head in slot 0.
        values: Address of its values in slot 0.
        slots: Address of the KV-cache slots that the token sees.
        length: Number of these slots.
        width: Dimension of a head, a multiple of 32.
        row: Bytes from a slot to the next.
        scale: Factor of the scores.
        out: Address of the result, bfloat16 ``[width]``.
        scores: Address of memory for float32 of all positions, in whole registers.
    """
    factor = np.float32(scale)
    top = _scores(query, keys, slots, length, width, row)
    simd.store(scores, top)
    for position in range(_LANES, length, _LANES):
        own = slots + 8 * position
        found = _scores(query, keys, own, length - position, width, row)
        simd.store(scores + 4 * position, found)
        top = floats.larger(top, found)
    shift, total = floats.splat(floats.largest_lane(top) * factor), floats.zero()
    for position in range(0, length, _LANES):
        found = exponential(simd.load_f32(scores + 4 * position), factor, shift)
        found = keep_lanes(found, 0, length - position)
        simd.store(scores + 4 * position, found)
        total = simd.add(total, found)
    share = floats.splat(np.float32(1.0) / floats.sum_lanes(total))
    k = 0
    while k + 128 <= 2 * width:
        _mix_64(values + k, slots, length, row, scores, share, out + k)
        k += 128
    if k < 2 * width:
        _mix_32(values + k, slots, length, row, scores, share, out + k)


@inlined
def _scores(query: Any, keys: Any, slots: Any, count: Any, width: Any, row: Any) -> Any:
    """Return the scores of 16 positions; those from ``count`` on are that of the last one."""
    sums = simd.zeros(16)
    for k in range(0, 2 * width, 64):
        sums = floats.add_row_dots(sums, simd.load_bf16(query + k), keys + k, slots, count, row)
    return floats.sum_rows(sums)


@inlined
def _mix_64(
    values: Any, slots: Any, length: Any, row: Any, scores: Any, share: Any, out: Any
) -> None:
    """Write the weighted sum of 64 values of each slot."""
    s0, s1, s2, s3 = floats.zero(), floats.zero(), floats.zero(), floats.zero()
    for position in range(length):
        value = values + integer_at(slots, position) * row
        weight = floats.splat(float_at(scores, position))
        s0 = floats.multiply_add(weight, simd.load_widened(value), s0)
        s1 = floats.multiply_add(weight, simd.load_widened(value + 32), s1)
        s2 = floats.multiply_add(weight, simd.load_widened(value + 64), s2)
        s3 = floats.multiply_add(weight, simd.load_widened(value + 96), s3)
    simd.store_rounded(out, simd.multiply(s0, share))
    simd.store_rounded(out + 32, simd.multiply(s1, share))
    simd.store_rounded(out + 64, simd.multiply(s2, share))
    simd.store_rounded(out + 96, simd.multiply(s3, share))


@inlined
def _mix_32(
    values: Any, slots: Any, length: Any, row: Any, scores: Any, share: Any, out: Any
) -> None:
    """Write the weighted sum of 32 values of each slot."""
    lower, upper = floats.zero(), floats.zero()
    for position in range(length):
        value = values + integer_at(slots, position) * row
        weight = floats.splat(float_at(scores, position))
        lower = floats.multiply_add(weight, simd.load_widened(value), lower)
        upper = floats.multiply_add(weight, simd.load_widened(value + 32), upper)
    simd.store_rounded(out, simd.multiply(lower, share))
    simd.store_rounded(out + 32, simd.multiply(upper, share))
