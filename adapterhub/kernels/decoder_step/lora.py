"""LoRA of one token: both factors, read in place from the tables of rank slots."""

from __future__ import annotations

from typing import Any

from adapterhub.kernels import simd
from adapterhub.kernels import simd_floats as floats
from adapterhub.kernels.decoder_step.fields import FIRST_SLICE, INNER_PLACE, LAST_SLICE
from adapterhub.kernels.numba_support import compiled, inlined
from adapterhub.kernels.simd_floats import float_at, integer_at, put_float

#: Distance in bytes at which rows are prefetched: processors foresee what is read in order,
#: not what is read from four rows in turns or by pieces of rows.
_AHEAD, _NEXT = 4608, 256


@compiled()
def shrink(
    x: int,
    width: int,
    a: int,
    entry: int,
    slices: int,
    weights: int,
    inner: int,
) -> None:
    """Write the weighted products of a token with its rank slots.

    Args:
        x: Address of the inputs of the token, bfloat16 ``[width]``.
        width: Number of inputs, a multiple of 32.
        a: Address of the table, bfloat16 ``[rank_slots, width]``.
        entry: Address of the adapters of the token, see ``fields``.
        slices: Address of the slices.
        weights: Address of the weights of the slices, float32.
        inner: Address of the results, float32.
    """
    place = integer_at(entry, INNER_PLACE)
    for each in range(integer_at(entry, FIRST_SLICE), integer_at(entry, LAST_SLICE)):
        row = a + 2 * width * integer_at(slices, 2 * each)
        rank, weight = integer_at(slices, 2 * each + 1), float_at(weights, each)
        done = 0
        while done + 4 <= rank:
            first, second, third, fourth = _four_dots(x, width, row)
            put_float(inner, place, first * weight)
            put_float(inner, place + 1, second * weight)
            put_float(inner, place + 2, third * weight)
            put_float(inner, place + 3, fourth * weight)
            place, done, row = place + 4, done + 4, row + 8 * width
        while done < rank:
            put_float(inner, place, _dot(x, width, row) * weight)
            place, done, row = place + 1, done + 1, row + 2 * width


@inlined
def _four_dots(x: Any, width: Any, row: Any) -> Any:
    first, second, third, fourth = floats.zero(), floats.zero(), floats.zero(), floats.zero()
    for k in range(0, 2 * width, 64):
        own = simd.load_bf16(x + k)
        at, ahead = row + k, row + 4 * k + _AHEAD
        simd.prefetch(ahead)
        simd.prefetch(ahead + 64)
        simd.prefetch(ahead + 128)
        simd.prefetch(ahead + 192)
        first = floats.add_dot(first, own, simd.load_bf16(at))
        second = floats.add_dot(second, own, simd.load_bf16(at + 2 * width))
        third = floats.add_dot(third, own, simd.load_bf16(at + 4 * width))
        fourth = floats.add_dot(fourth, own, simd.load_bf16(at + 6 * width))
    return (
        floats.sum_lanes(first),
        floats.sum_lanes(second),
        floats.sum_lanes(third),
        floats.sum_lanes(fourth),
    )


@inlined
def _dot(x: Any, width: Any, row: Any) -> Any:
    total = floats.zero()
    for k in range(0, 2 * width, 64):
        total = floats.add_dot(total, simd.load_bf16(x + k), simd.load_bf16(row + k))
    return floats.sum_lanes(total)


@compiled()
def expand(
    y: int,
    width: int,
    first: int,
    last: int,
    b: int,
    entry: int,
    slices: int,
    inner: int,
) -> None:
    """Add the products with the second factors to some outputs of a token.

    Args:
        y: Address of the outputs of the token, bfloat16 ``[width]``.
        width: Number of outputs.
        first: First output to change.
        last: Output after the last one; their number is a multiple of 16.
        b: Address of the table, bfloat16 ``[rank_slots, width]``.
        entry: Address of the adapters of the token, see ``fields``.
        slices: Address of the slices.
        inner: Address of the results of ``shrink``.
    """
    column = first
    while column + 64 <= last:
        _expand_64(y + 2 * column, width, b + 2 * column, entry, slices, inner)
        column += 64
    while column < last:
        _expand_16(y + 2 * column, width, b + 2 * column, entry, slices, inner)
        column += 16


@inlined
def _expand_64(y: Any, width: Any, b: Any, entry: Any, slices: Any, inner: Any) -> None:
    s0, s1 = simd.load_widened(y), simd.load_widened(y + 32)
    s2, s3 = simd.load_widened(y + 64), simd.load_widened(y + 96)
    place = integer_at(entry, INNER_PLACE)
    for each in range(integer_at(entry, FIRST_SLICE), integer_at(entry, LAST_SLICE)):
        row = b + 2 * width * integer_at(slices, 2 * each)
        for rank in range(integer_at(slices, 2 * each + 1)):
            factor = floats.splat(float_at(inner, place + rank))
            simd.prefetch(row + _NEXT)
            simd.prefetch(row + _NEXT + 64)
            s0 = floats.multiply_add(factor, simd.load_widened(row), s0)
            s1 = floats.multiply_add(factor, simd.load_widened(row + 32), s1)
            s2 = floats.multiply_add(factor, simd.load_widened(row + 64), s2)
            s3 = floats.multiply_add(factor, simd.load_widened(row + 96), s3)
            row += 2 * width
        place += integer_at(slices, 2 * each + 1)
    simd.store_rounded(y, s0)
    simd.store_rounded(y + 32, s1)
    simd.store_rounded(y + 64, s2)
    simd.store_rounded(y + 96, s3)


@inlined
def _expand_16(y: Any, width: Any, b: Any, entry: Any, slices: Any, inner: Any) -> None:
    total = simd.load_widened(y)
    place = integer_at(entry, INNER_PLACE)
    for each in range(integer_at(entry, FIRST_SLICE), integer_at(entry, LAST_SLICE)):
        row = b + 2 * width * integer_at(slices, 2 * each)
        for rank in range(integer_at(slices, 2 * each + 1)):
            factor = floats.splat(float_at(inner, place + rank))
            total = floats.multiply_add(factor, simd.load_widened(row), total)
            row += 2 * width
        place += integer_at(slices, 2 * each + 1)
    simd.store_rounded(y, total)
