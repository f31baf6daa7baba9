"""Helpers for numba kernels: compile options, bfloat16 access and a vectorised ``exp``.

NumPy has no bfloat16, so such tensors are passed as ``uint16`` arrays of their bits. A kernel reads
with ``widen``, computes in float32 and writes with ``narrow``; it is compiled for either type.
"""
# mypy: allow-untyped-decorators

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from adapterhub.kernels.compilation_cache import compilation_cache

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

#: Sums may be reordered so that they vectorise; NaN and infinity keep their meaning.
_FAST_MATH = {"reassoc", "contract", "nsz", "arcp"}

#: Smallest argument whose ``exp`` is not 0 in float32.
_MIN_EXPONENT = np.float32(-87.0)

_Function = TypeVar("_Function", bound="Callable[..., Any]")


def compiled(
    *, parallel: bool = False, fast: bool = True, cached: bool = True
) -> Callable[[_Function], _Function]:
    """Compile a function, without the GIL.

    Args:
        parallel: Whether its ``prange`` loops are distributed over threads.
        fast: Whether sums may be reordered.
        cached: Whether it is cached by itself; not for generators, which numba can't give to a new
            caller once they are loaded from the cache. Their callers are cached with them.
    """

    def compile_(function: _Function) -> _Function:
        # Python's division checks for zero, which prevents vectorisation; NumPy's does not
        options = {"nogil": True, "cache": cached, "error_model": "numpy", "parallel": parallel}
        with compilation_cache():
            return njit(fastmath=_FAST_MATH if fast else False, **options)(function)

    return compile_


def inlined(function: _Function) -> _Function:
    """Compile a function into each of its callers."""
    return njit(fastmath=_FAST_MATH, inline="always", error_model="numpy")(function)


def as_array(tensor: Tensor) -> NDArray[Any]:
    """Return a NumPy view of a CPU tensor; bfloat16 becomes the ``uint16`` of its bits."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


@intrinsic
def widen(_context: Any, value: Any) -> Any:
    """Return a float32 or bfloat16 (``uint16`` bits) value as float32."""
    if value == types.float32:
        return types.float32(types.float32), _same

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        wide = builder.shl(
            builder.zext(arguments[0], ir.IntType(32)), ir.Constant(ir.IntType(32), 16)
        )
        return builder.bitcast(wide, ir.FloatType())

    return types.float32(types.uint16), build


@intrinsic
def narrow(_context: Any, _value: Any, like: Any) -> Any:
    """Return a float32 in the type of ``like``, rounding to the nearest bfloat16 if that is one.

    Ties round to even; NaN stays NaN.
    """
    if like == types.float32:
        return types.float32(types.float32, types.float32), _same

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        bits = builder.bitcast(arguments[0], word)
        odd = builder.and_(builder.lshr(bits, ir.Constant(word, 16)), ir.Constant(word, 1))
        rounded = builder.add(bits, builder.add(odd, ir.Constant(word, 0x7FFF)))
        upper = builder.lshr(rounded, ir.Constant(word, 16))
        is_nan = builder.fcmp_unordered("uno", arguments[0], arguments[0])
        upper = builder.select(is_nan, ir.Constant(word, 0x7FC0), upper)
        return builder.trunc(upper, ir.IntType(16))

    return types.uint16(types.float32, types.uint16), build


def _same(_target: Any, _builder: Any, _signature: Any, arguments: Any) -> Any:
    return arguments[0]


@intrinsic
def power_of_two(_context: Any, _exponent: Any) -> Any:
    """Return ``2 ** n`` as float32 for an int32 ``n`` from -126 to 127."""

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        biased = builder.add(arguments[0], ir.Constant(word, 127))
        return builder.bitcast(builder.shl(biased, ir.Constant(word, 23)), ir.FloatType())

    return types.float32(types.int32), build


@inlined
def exponential(x: Any) -> Any:
    """Return ``exp(x)`` for ``x <= 0`` with an absolute error below 2e-7.

    Source: the polynomial of Cephes' ``expf``, which vectorises.
    """
    x = max(x, _MIN_EXPONENT)
    n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    f = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * f + np.float32(1.3981999507e-3)
    p = p * f + np.float32(8.3334519073e-3)
    p = p * f + np.float32(4.1665795894e-2)
    p = p * f + np.float32(1.6666665459e-1)
    p = p * f + np.float32(5.0000001201e-1)
    return (p * f * f + f + np.float32(1.0)) * power_of_two(np.int32(n))
