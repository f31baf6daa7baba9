"""Vector types and instructions of AVX-512 for numba kernels.

Memory is addressed by integers (``tensor.data_ptr()``), so that a kernel has one signature whatever
its tensors are. A value of type ``f32x16``, ``i32x16`` or ``bf16x32`` is one register of 64 bytes;
a tuple of ``f32x16`` holds one register for each token of a block.

A kernel that uses this module is compiled when it is called first, which needs a CPU with
``has_avx512_bf16``.
"""
# mypy: allow-untyped-decorators

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from llvmlite import ir
from llvmlite.ir.types import _BaseFloatType
from numba import config, types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

if TYPE_CHECKING:
    from collections.abc import Callable

#: Bytes of a register.
VECTOR = 64
_WORD = ir.IntType(32)


class _BFloat(_BaseFloatType):
    """LLVM's bfloat, which llvmlite lacks."""

    def __str__(self) -> str:
        return "bfloat"


_BFloat._create_instance()
#: LLVM's types of registers, for functions that build instructions.
F32X16 = ir.VectorType(ir.FloatType(), 16)
I32X16 = ir.VectorType(_WORD, 16)
BF16X16 = ir.VectorType(_BFloat(), 16)
BF16X32 = ir.VectorType(_BFloat(), 32)


class Vector(types.Type):
    """A register as a numba type.

    Args:
        name: Name of the type.
        form: LLVM's type.
    """

    def __init__(self, name: str, form: ir.VectorType) -> None:
        super().__init__(name=name)
        self.form = form


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, vector.form)


f32x16 = Vector("f32x16", F32X16)
i32x16 = Vector("i32x16", I32X16)
bf16x32 = Vector("bf16x32", BF16X32)


@cache
def has_avx512_bf16() -> bool:
    """Return whether numba compiles AVX-512 with bfloat16 products for this CPU."""
    # set by NUMBA_CPU_NAME and NUMBA_CPU_FEATURES to compile for another CPU
    other = config.CPU_NAME or config.CPU_FEATURES
    return bool(not other and torch.cpu._is_avx512_bf16_supported())


def call_llvm(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    """Call a function of LLVM, such as ``llvm.fma.v16f32``."""
    form = ir.FunctionType(result, [each.type for each in arguments])
    function = cgutils.get_or_insert_function(builder.module, form, name)
    return builder.call(function, arguments)


def as_pointer(builder: Any, address: Any, form: Any) -> Any:
    """Return an integer address as a pointer to a type of LLVM."""
    return builder.inttoptr(address, form.as_pointer())


def splat_value(builder: Any, value: Any) -> Any:
    """Return a vector of 64 bytes of one 32-bit value."""
    undefined = ir.Constant(ir.VectorType(value.type, 16), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_WORD, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(I32X16, [0] * 16))


def _loads(vector: Vector) -> Callable[..., Any]:
    @intrinsic
    def load(_context: Any, _address: Any) -> Any:
        def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return builder.load(as_pointer(builder, arguments[0], vector.form), align=1)

        return vector(types.int64), build

    return load


load_f32 = _loads(f32x16)
load_i32 = _loads(i32x16)
load_bf16 = _loads(bf16x32)


@intrinsic
def store(_context: Any, _address: Any, vector: Any) -> Any:
    """Write a register to 64 bytes at an address."""

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        builder.store(arguments[1], as_pointer(builder, arguments[0], vector.form), align=1)

    return types.void(types.int64, vector), build


@intrinsic
def prefetch(_context: Any, _address: Any) -> Any:
    """Ask for the cache line at an address, which need not exist."""

    def build(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        # for reading, kept in all caches, of data
        options = [ir.Constant(_WORD, value) for value in (0, 3, 1)]
        address = as_pointer(builder, arguments[0], ir.IntType(8))
        call_llvm(builder, "llvm.prefetch.p0", ir.VoidType(), address, *options)
        return context.get_dummy_value()

    return types.void(types.int64), build


@intrinsic
def multiply(_context: Any, _left: Any, _right: Any) -> Any:
    """Return the product of two ``f32x16``."""

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.fmul(*arguments)

    return f32x16(f32x16, f32x16), build


@intrinsic
def add(_context: Any, _left: Any, _right: Any) -> Any:
    """Return the sum of two ``f32x16``."""

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.fadd(*arguments)

    return f32x16(f32x16, f32x16), build


@intrinsic
def shift_right(_context: Any, _value: Any, _bits: Any) -> Any:
    """Return an ``i32x16`` shifted right by a number of bits."""

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.lshr(arguments[0], splat_value(builder, builder.trunc(arguments[1], _WORD)))

    return i32x16(i32x16, types.int64), build


@intrinsic
def look_up(_context: Any, _table: Any, _index: Any) -> Any:
    """Return the entries of a table, an ``f32x16``, for the lowest 4 bits of each lane."""

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return call_llvm(builder, "llvm.x86.avx512.permvar.sf.512", F32X16, *arguments)

    return f32x16(f32x16, i32x16), build


@intrinsic
def round_halves(_context: Any, _lower: Any, _upper: Any) -> Any:
    """Return two ``f32x16`` one after the other, rounded to a ``bf16x32``."""

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        lower, upper = arguments
        name = "llvm.x86.avx512bf16.cvtne2ps2bf16.512"
        return call_llvm(builder, name, BF16X32, upper, lower)

    return bf16x32(f32x16, f32x16), build


@intrinsic
def repeat_halves(_context: Any, _values: Any) -> Any:
    """Return the lower and the upper half of an ``f32x16`` with each lane twice."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        halves = [
            builder.shuffle_vector(
                arguments[0],
                arguments[0],
                ir.Constant(I32X16, [start + lane // 2 for lane in range(16)]),
            )
            for start in (0, 8)
        ]
        return context.make_tuple(builder, signature.return_type, halves)

    return types.UniTuple(f32x16, 2)(f32x16), build


@intrinsic(prefer_literal=True)
def zeros(_context: Any, tokens: Any) -> Any:
    """Return a tuple of one ``f32x16`` of zeros for each token; the number is a constant."""
    if not isinstance(tokens, types.IntegerLiteral):
        return None
    rows = types.UniTuple(f32x16, tokens.literal_value)

    def build(_target: Any, _builder: Any, _signature: Any, _arguments: Any) -> Any:
        return ir.Constant(ir.ArrayType(F32X16, rows.count), None)

    return rows(tokens), build


@intrinsic
def add_products(_context: Any, sums: Any, _weights: Any, _x: Any, _stride: Any) -> Any:
    """Add the products of 16 outputs and a pair of inputs to the sums of each token.

    Args:
        sums: One ``f32x16`` for each token.
        _weights: ``bf16x32``, two inputs for each of 16 outputs.
        _x: Address of the pair of bfloat16 inputs of the first token.
        _stride: Bytes from a token to the next.
    """

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        total, weights, address, stride = arguments
        for token in range(sums.count):
            pair = builder.load(as_pointer(builder, address, _WORD), align=2)
            product = call_llvm(
                builder,
                "llvm.x86.avx512bf16.dpbf16ps.512",
                F32X16,
                builder.extract_value(total, token),
                weights,
                builder.bitcast(splat_value(builder, pair), BF16X32),
            )
            total = builder.insert_value(total, product, token)
            address = builder.add(address, stride)
        return total

    return sums(sums, bf16x32, types.int64, types.int64), build


@intrinsic
def store_sums(_context: Any, sums: Any, _more: Any, _bias: Any, _y: Any, _stride: Any) -> Any:
    """Write two tuples of sums and a bias, added up and rounded to bfloat16.

    Args:
        sums: One ``f32x16`` for each token.
        _more: Further sums of the same tokens.
        _bias: ``f32x16`` that is added for each token.
        _y: Address of the 16 outputs of the first token.
        _stride: Bytes from a token to the next.
    """

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        first, second, bias, address, stride = arguments
        for token in range(sums.count):
            total = builder.fadd(
                builder.extract_value(first, token), builder.extract_value(second, token)
            )
            _store_rounded(builder, address, builder.fadd(total, bias))
            address = builder.add(address, stride)

    return types.void(sums, sums, f32x16, types.int64, types.int64), build


@intrinsic
def store_rounded(_context: Any, _address: Any, _values: Any) -> Any:
    """Write an ``f32x16`` rounded to bfloat16 to 32 bytes at an address."""

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        _store_rounded(builder, *arguments)

    return types.void(types.int64, f32x16), build


def _store_rounded(builder: Any, address: Any, values: Any) -> None:
    rounded = call_llvm(builder, "llvm.x86.avx512bf16.cvtneps2bf16.512", BF16X16, values)
    builder.store(rounded, as_pointer(builder, address, BF16X16), align=2)


@intrinsic
def load_widened(_context: Any, _address: Any) -> Any:
    """Return 16 bfloat16 values at an address as an ``f32x16``."""

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        form = ir.VectorType(ir.IntType(16), 16)
        bits = builder.load(as_pointer(builder, arguments[0], form), align=2)
        upper = builder.shl(builder.zext(bits, I32X16), ir.Constant(I32X16, [16] * 16))
        return builder.bitcast(upper, F32X16)

    return f32x16(types.int64), build


def _gather(builder: Any, address: Any, offsets: Any) -> Any:
    """Return 16 values of 32 bits at byte offsets from an address."""
    mask = ir.Constant(ir.VectorType(ir.IntType(1), 16), [1] * 16)
    return call_llvm(
        builder,
        "llvm.x86.avx512.mask.gather.dps.512",
        F32X16,
        ir.Constant(F32X16, [0.0] * 16),
        as_pointer(builder, address, ir.IntType(8)),
        offsets,
        mask,
        ir.Constant(_WORD, 1),
    )


@intrinsic
def gather_rows(_context: Any, _address: Any, _stride: Any) -> Any:
    """Return the ``f32x16`` of values that are a number of bytes apart."""

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        stride = splat_value(builder, builder.trunc(arguments[1], _WORD))
        offsets = builder.mul(ir.Constant(I32X16, list(range(16))), stride)
        return _gather(builder, arguments[0], offsets)

    return f32x16(types.int64, types.int64), build


@intrinsic
def gather_tokens(_context: Any, _address: Any, _stride: Any, _tokens: Any) -> Any:
    """Return the pair of inputs of up to 16 tokens, and that of the last one for further ones."""

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        address, stride, tokens = arguments
        last = splat_value(
            builder, builder.sub(builder.trunc(tokens, _WORD), ir.Constant(_WORD, 1))
        )
        lanes = ir.Constant(I32X16, list(range(16)))
        chosen = builder.select(builder.icmp_signed("<", lanes, last), lanes, last)
        offsets = builder.mul(chosen, splat_value(builder, builder.trunc(stride, _WORD)))
        return _gather(builder, address, offsets)

    return f32x16(types.int64, types.int64, types.int64), build
