"""Causal attention of some tokens of a sequence to its paged KV cache."""

from __future__ import annotations

from typing import Any

import numpy as np

from adapterhub.kernels import simd
from adapterhub.kernels import simd_floats as floats
from adapterhub.kernels.numba_support import compiled, exponential, inlined
from adapterhub.kernels.simd_floats import integer_at


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
    """
    scores = np.empty(length, np.float32)
    for position in range(length):
        key = keys + integer_at(slots, position) * row
        dot = floats.zero()
        for k in range(0, 2 * width, 64):
            dot = floats.add_dot(dot, simd.load_bf16(query + k), simd.load_bf16(key + k))
        scores[position] = floats.sum_lanes(dot) * np.float32(scale)
    share = floats.splat(np.float32(1.0) / _exponentials(scores))
    for k in range(0, 2 * width, 64):
        lower, upper = _mix(values + k, slots, length, row, scores)
        simd.store_rounded(out + k, simd.multiply(lower, share))
        simd.store_rounded(out + k + 32, simd.multiply(upper, share))


@inlined
def _mix(values: Any, slots: Any, length: Any, row: Any, scores: Any) -> Any:
    """Return the weighted sum of 32 values of each slot."""
    lower, upper = floats.zero(), floats.zero()
    for position in range(length):
        value = values + integer_at(slots, position) * row
        weight = floats.splat(scores[position])
        lower = floats.multiply_add(weight, simd.load_widened(value), lower)
        upper = floats.multiply_add(weight, simd.load_widened(value + 32), upper)
    return lower, upper


@compiled()
def _exponentials(scores: Any) -> Any:
    """Replace scores by the exponentials of their distance to the largest; return the sum."""
    largest = scores[0]
    for position in range(scores.shape[0]):
        largest = max(largest, scores[position])
    total = np.float32(0.0)
    for position in range(scores.shape[0]):
        value = exponential(scores[position] - largest)
        scores[position] = value
        total += value
    return total
