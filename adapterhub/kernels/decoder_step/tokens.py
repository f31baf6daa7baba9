"""Element-wise work on the tokens of a step: norms, rotary embeddings and the gate.

Every function rounds where transformers' modules round.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from adapterhub.kernels import simd
from adapterhub.kernels import simd_floats as floats
from adapterhub.kernels.numba_support import compiled, exponential, narrow, widen


@compiled()
def add(state: int, added: int, width: int) -> None:
    """Add bfloat16 ``[width]`` to the residual stream of a token in place."""
    for k in range(0, 2 * width, 32):
        total = simd.add(simd.load_widened(state + k), simd.load_widened(added + k))
        simd.store_rounded(state + k, total)


@compiled()
def normalize(x: int, weight: int, width: int, epsilon: float, out: int) -> None:
    """Write the RMS norm of bfloat16 ``[width]``; all are addresses."""
    squares = floats.zero()
    for k in range(0, 2 * width, 32):
        value = simd.load_widened(x + k)
        squares = floats.multiply_add(value, value, squares)
    mean = floats.sum_lanes(squares) / np.float32(width)
    scale = floats.splat(np.float32(1.0) / np.sqrt(mean + np.float32(epsilon)))
    for k in range(0, 2 * width, 32):
        normal = floats.rounded(simd.multiply(simd.load_widened(x + k), scale))
        simd.store_rounded(out + k, simd.multiply(normal, simd.load_widened(weight + k)))


@compiled()
def copy(source: int, target: int, width: int) -> None:
    """Copy bfloat16 ``[width]`` from one address to another."""
    for k in range(0, 2 * width, 32):
        simd.store_rounded(target + k, simd.load_widened(source + k))


@compiled()
def rotate(head: int, cosine: int, sine: int, width: int) -> None:
    """Rotate one head ``[width]`` as transformers' ``apply_rotary_pos_emb`` does, in place."""
    for lower in range(0, width, 32):
        upper = lower + width
        low, high = simd.load_widened(head + lower), simd.load_widened(head + upper)
        first = floats.rounded(simd.multiply(low, simd.load_widened(cosine + lower)))
        second = floats.rounded(simd.multiply(high, simd.load_widened(sine + lower)))
        third = floats.rounded(simd.multiply(high, simd.load_widened(cosine + upper)))
        fourth = floats.rounded(simd.multiply(low, simd.load_widened(sine + upper)))
        simd.store_rounded(head + lower, floats.subtract(first, second))
        simd.store_rounded(head + upper, simd.add(third, fourth))


@compiled()
def gate(gates: int, values: int, width: int) -> None:
    """Multiply bfloat16 ``values`` by ``silu(gates)`` in place; both ``[width]`` at addresses."""
    _gate(floats.array_at(gates, width, np.uint16), floats.array_at(values, width, np.uint16))


@compiled()
def _gate(gates: Any, values: Any) -> None:
    for k in range(values.shape[0]):
        like = values[k]
        x = widen(gates[k])
        small = exponential(-abs(x))
        sigmoid = (np.float32(1.0) if x >= 0 else small) / (np.float32(1.0) + small)
        values[k] = narrow(widen(narrow(x * sigmoid, like)) * widen(values[k]), like)
