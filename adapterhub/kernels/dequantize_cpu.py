"""Dequantization of 4-bit weights on CPUs with AVX-512 BF16, bit by bit as bitsandbytes does it."""
# mypy: allow-untyped-decorators

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

from adapterhub.kernels import simd
from adapterhub.kernels.numba_support import as_array, compiled
from adapterhub.kernels.simd_floats import splat

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

#: Weights of a register.
_REGISTER = 32


def dequantize_4bit(codes: Tensor, state: Any) -> Tensor | None:
    """Return a bfloat16 weight, or ``None`` where bitsandbytes has to compute it.

    Args:
        codes: Two codes per byte, uint8, the first one in the upper half.
        state: bitsandbytes' ``QuantState``.
    """
    fits = (
        codes.device.type == "cpu"
        and codes.dtype == torch.uint8
        and codes.is_contiguous()
        and state.dtype == torch.bfloat16
        and state.absmax.dtype == torch.float32
        and not state.nested
        and state.blocksize % _REGISTER == 0
        and 2 * codes.numel() == state.shape.numel() == state.absmax.numel() * state.blocksize
        and simd.has_avx512_bf16()
    )
    if not fits:
        return None
    weight = torch.empty(state.shape, dtype=torch.bfloat16)
    _dequantize(
        as_array(codes.view(-1)),
        as_array(state.absmax.view(-1)),
        as_array(state.code),
        as_array(weight.view(-1)),
    )
    return weight


@intrinsic
def _load_bytes(_context: Any, _address: Any) -> Any:
    """Return 16 bytes at an address as an ``i32x16``."""
    form = ir.VectorType(ir.IntType(8), 16)

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer = simd.as_pointer(builder, arguments[0], form)
        return builder.zext(builder.load(pointer, align=1), simd.I32X16)

    return simd.i32x16(types.int64), build


@intrinsic
def _alternate(_context: Any, _halves: Any) -> Any:
    """Return a ``bf16x32`` with values of its lower and upper half in turns."""

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        lanes = [lane // 2 + 16 * (lane % 2) for lane in range(32)]
        order = ir.Constant(ir.VectorType(ir.IntType(32), 32), lanes)
        return builder.shuffle_vector(arguments[0], arguments[0], order)

    return simd.bf16x32(simd.bf16x32), build


@compiled(parallel=True)
def _dequantize(
    codes: NDArray[np.uint8],
    scales: NDArray[np.float32],
    values: NDArray[np.float32],
    weight: NDArray[np.uint16],
) -> None:
    """Write ``[n]`` weights of ``[n / 2]`` bytes and a scale for each block."""
    for index in prange(len(scales)):
        block = np.int64(index)
        size = len(weight) // len(scales)
        _dequantize_block(codes, scales[block], values, block * size, size, weight)


@compiled()
def _dequantize_block(
    codes: Any, scale: Any, values: Any, first: Any, count: int, weight: Any
) -> None:
    source, target = codes.ctypes.data + first // 2, weight.ctypes.data + 2 * first
    table, factor = simd.load_f32(values.ctypes.data), splat(scale)
    for k in range(0, count, _REGISTER):
        pairs = _load_bytes(source + k // 2)
        even = simd.multiply(simd.look_up(table, simd.shift_right(pairs, 4)), factor)
        odd = simd.multiply(simd.look_up(table, pairs), factor)
        simd.store(target + 2 * k, _alternate(simd.round_halves(even, odd)))
