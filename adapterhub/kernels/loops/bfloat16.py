"""bfloat16 in compiled loops: NumPy has no such type, so its bits travel as ``uint16``."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@intrinsic
def widen(_context: Any, _bits: Any) -> Any:
    """Return the float32 that has these bits of a bfloat16 as its upper half."""

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        wide = builder.shl(
            builder.zext(arguments[0], ir.IntType(32)), ir.Constant(ir.IntType(32), 16)
        )
        return builder.bitcast(wide, ir.FloatType())

    return types.float32(types.uint16), build


@intrinsic
def narrow(_context: Any, _value: Any) -> Any:
    """Return the bits of the bfloat16 nearest to a float32, ties to even; NaN stays NaN."""

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        bits = builder.bitcast(arguments[0], word)
        odd = builder.and_(builder.lshr(bits, ir.Constant(word, 16)), ir.Constant(word, 1))
        rounded = builder.add(bits, builder.add(odd, ir.Constant(word, 0x7FFF)))
        upper = builder.lshr(rounded, ir.Constant(word, 16))
        is_nan = builder.fcmp_unordered("uno", arguments[0], arguments[0])
        upper = builder.select(is_nan, ir.Constant(word, 0x7FC0), upper)
        return builder.trunc(upper, ir.IntType(16))

    return types.uint16(types.float32), build


@intrinsic
def power_of_two(_context: Any, _exponent: Any) -> Any:
    """Return ``2 ** n`` as float32 for a whole ``n`` (int32) from -126 to 127."""

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        biased = builder.add(arguments[0], ir.Constant(word, 127))
        return builder.bitcast(builder.shl(biased, ir.Constant(word, 23)), ir.FloatType())

    return types.float32(types.int32), build
