"""Attention of single tokens over a paged cache, in float32 between reading and writing.

A key is read once for all query heads that share it. Source of the two passes over the scores:
the plain formula; they fit into the cache for any context that a CPU serves.
"""

import numpy as np
from numba import prange

from adapterhub.kernels.loops.compiling import compiled, inlined
from adapterhub.kernels.loops.precision import narrow, power_of_two, widen

#: Below this, ``exp`` is 0 in float32.
SMALLEST = np.float32(-87.0)


@inlined()
def exponential(x):
    """Return ``exp(x)`` for ``x <= 0``, within 2e-7 of it; Cephes' polynomial, which vectorises."""
    x = max(x, SMALLEST)
    n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    f = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * f + np.float32(1.3981999507e-3)
    p = p * f + np.float32(8.3334519073e-3)
    p = p * f + np.float32(4.1665795894e-2)
    p = p * f + np.float32(1.6666665459e-1)
    p = p * f + np.float32(5.0000001201e-1)
    return (p * f * f + f + np.float32(1.0)) * power_of_two(np.int32(n))


@compiled(parallel=True)
def attend(query, keys, values, places, firsts, window, scale, out):
    """Attend single tokens.

    Args:
        query: ``[rows, heads, width]``.
        keys: ``[places, key heads, width]``, the whole table of a layer.
        values: shaped as ``keys``.
        places: int64, of all rows, one after the other.
        firsts: int64 ``[rows + 1]``, where a row's places begin.
        window: how far back a token sees, itself included; 0 for everything.
        scale: of the scores.
        out: shaped as ``query``.
    """
    rows, heads, width = query.shape
    shared = keys.shape[1]
    group = heads // shared
    for index in prange(rows * shared):
        row, head = index // shared, index % shared
        first, end = firsts[row], firsts[row + 1]
        if window and end - first > window:
            first = end - window
        context = end - first
        asked = np.empty((group, width), np.float32)
        for g in range(group):
            for k in range(width):
                asked[g, k] = widen(query[row, head * group + g, k]) * scale
        scores = np.empty((group, context), np.float32)
        for position in range(context):
            place = places[first + position]
            for g in range(group):
                total = np.float32(0.0)
                for k in range(width):
                    total += asked[g, k] * widen(keys[place, head, k])
                scores[g, position] = total
        _softmax(scores)
        mixed = np.zeros((group, width), np.float32)
        for position in range(context):
            place = places[first + position]
            for g in range(group):
                share = scores[g, position]
                for k in range(width):
                    mixed[g, k] += share * widen(values[place, head, k])
        for g in range(group):
            for k in range(width):
                out[row, head * group + g, k] = narrow(mixed[g, k], query[row, 0, k])


@inlined()
def _softmax(scores):
    """Turn each row of scores into shares that sum to 1, in place."""
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
