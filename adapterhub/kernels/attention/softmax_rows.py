"""Softmax of a row of scores in the registers of AVX-512.

Loops over rows of some fifty scores spend most of their time on remainders and on calls; here a row
is whole registers. Rows are float32 at an address, a multiple of 64 bytes long.
"""
# mypy: allow-untyped-decorators

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from adapterhub.kernels import simd
from adapterhub.kernels import simd_floats as floats
from adapterhub.kernels.numba_support import compiled
from adapterhub.kernels.simd import F32X16, I32X16, call_llvm, f32x16, splat_value

_WORD = ir.IntType(32)
#: Coefficients of the polynomial of Cephes' ``expf``, highest first.
_EXPF = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)
#: Smallest argument whose ``exp`` is not 0 in float32.
_MIN_EXPONENT = -87.0


@compiled()
def softmax_row(scores: int, weights: int, width: int, scale: Any) -> Any:
    """Write the softmax of scaled scores in bfloat16, and return the log-sum-exp.

    Args:
        scores: Address of the row, which is overwritten; -inf has no weight.
        weights: Address of the result.
        width: Number of scores, a multiple of 16.
        scale: Factor of the scores.
    """
    top = simd.load_f32(scores)
    for k in range(16, width, 16):
        top = floats.larger(top, simd.load_f32(scores + 4 * k))
    shift = floats.largest_lane(top) * scale
    total, shifts = floats.splat(np.float32(0.0)), floats.splat(shift)
    for k in range(0, width, 16):
        found = exponential(simd.load_f32(scores + 4 * k), scale, shifts)
        simd.store(scores + 4 * k, found)
        total = simd.add(total, found)
    share = floats.sum_lanes(total)
    factor = floats.splat(np.float32(1.0) / share)
    for k in range(0, width, 16):
        product = simd.multiply(simd.load_f32(scores + 4 * k), factor)
        simd.store_rounded(weights + 2 * k, product)
    return shift + np.float32(math.log(share))


def _constant(value: float) -> Any:
    return ir.Constant(F32X16, [value] * 16)


@intrinsic
def exponential(_context: Any, _values: Any, _scale: Any, _shift: Any) -> Any:
    """Return ``exp(scale * values - shift)`` for arguments up to 0, 0 below -87."""

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        def fused(left: Any, right: Any, added: Any) -> Any:
            return call_llvm(builder, "llvm.fma.v16f32", F32X16, left, right, added)

        values, scale, shift = arguments
        x = fused(values, splat_value(builder, scale), builder.fneg(shift))
        seen = builder.fcmp_ordered(">=", x, _constant(_MIN_EXPONENT))
        x = builder.select(seen, x, _constant(0.0))
        n = call_llvm(
            builder, "llvm.floor.v16f32", F32X16, fused(x, _constant(1.44269504), _constant(0.5))
        )
        f = fused(n, _constant(-0.693359375), x)
        f = fused(n, _constant(2.12194440e-4), f)
        p = _constant(_EXPF[0])
        for coefficient in _EXPF[1:]:
            p = fused(p, f, _constant(coefficient))
        p = builder.fadd(fused(builder.fmul(p, f), f, f), _constant(1.0))
        bits = builder.add(builder.fptosi(n, I32X16), ir.Constant(I32X16, [127] * 16))
        power = builder.bitcast(builder.shl(bits, ir.Constant(I32X16, [23] * 16)), F32X16)
        return builder.select(seen, builder.fmul(p, power), _constant(0.0))

    return f32x16(f32x16, types.float32, f32x16), build


@intrinsic
def keep_lanes(_context: Any, _values: Any, _begin: Any, _end: Any) -> Any:
    """Return an ``f32x16`` that is 0 before lane ``begin`` and from lane ``end`` on."""

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        values, *bounds = arguments
        lanes = ir.Constant(I32X16, list(range(16)))
        begin, end = (splat_value(builder, builder.trunc(each, _WORD)) for each in bounds)
        kept = builder.and_(
            builder.icmp_signed(">=", lanes, begin), builder.icmp_signed("<", lanes, end)
        )
        return builder.select(kept, values, _constant(0.0))

    return f32x16(f32x16, types.int64, types.int64), build
