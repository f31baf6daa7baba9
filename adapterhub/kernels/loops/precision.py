"""Two types of values in compiled loops: float32, and bfloat16 whose bits travel as ``uint16``.

NumPy has no bfloat16. A loop reads with ``widen`` and writes with ``narrow``, computes in float32
between them, and is compiled for either type of array.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@intrinsic
def widen(_context: Any, value: Any) -> Any:
    """Return a value as float32: itself, or that which has a bfloat16's bits as its upper half."""
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
    """Return a float32 in the type of ``like``: itself, or the bits of the nearest bfloat16.

    Ties go to even; NaN stays NaN.
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
    """Return ``2 ** n`` as float32 for a whole ``n`` (int32) from -126 to 127."""

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        biased = builder.add(arguments[0], ir.Constant(word, 127))
        return builder.bitcast(builder.shl(biased, ir.Constant(word, 23)), ir.FloatType())

    return types.float32(types.int32), build
