"""Matrix tiles (Intel AMX) for numba kernels.

A tile is one of eight registers of 16 rows of 64 bytes: a *left* tile holds 16 x 32 bfloat16 by
rows, a *right* tile 32 x 16 bfloat16 as 16 rows of pairs, ``[16][16][2]``, and a *sum* 16 x 16
float32. Memory is addressed by integers. A thread calls ``configure`` before it uses tiles and
``release`` after.
"""
# mypy: allow-untyped-decorators

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from adapterhub.kernels.simd import as_pointer, call_llvm, has_avx512_bf16

if TYPE_CHECKING:
    from collections.abc import Callable

#: Rows of a tile, and columns of a sum.
ROWS = 16
#: Products that one instruction adds to each sum.
DEPTH = 32
#: Bytes of a tile.
TILE = 1024
# Source: Linux, Documentation/arch/x86/xstate.rst
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18

#: Palette 1: eight tiles of 16 rows of 64 bytes. Source: Intel SDM, LDTILECFG.
CONFIGURATION = np.zeros(64, np.uint8)
CONFIGURATION[0] = 1
CONFIGURATION[16:32:2] = 64
CONFIGURATION[48:56] = ROWS

_BYTE, _SHORT, _ADDRESS = ir.IntType(8), ir.IntType(16), ir.IntType(64)
_VOID = ir.VoidType()


@cache
def compiles_amx() -> bool:
    """Return whether numba compiles bfloat16 tiles for this CPU."""
    if not torch.cpu._is_amx_tile_supported() or not has_avx512_bf16():
        return False
    return bool(binding.get_host_cpu_features().get("amx-bf16"))


@cache
def has_amx() -> bool:
    """Return whether this process may use bfloat16 tiles; asks the kernel for them."""
    if sys.platform != "linux" or not compiles_amx():
        return False
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    return bool(syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0)


def _are_constants(*tiles: Any) -> bool:
    """Return whether the numbers of tiles are constants, which an instruction needs."""
    return all(isinstance(tile, types.IntegerLiteral) for tile in tiles)


def _numbers(*tiles: Any) -> list[Any]:
    return [ir.Constant(_BYTE, tile.literal_value) for tile in tiles]


@intrinsic
def _load_configuration(_context: Any, _address: Any) -> Any:
    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        call_llvm(builder, "llvm.x86.ldtilecfg", _VOID, as_pointer(builder, arguments[0], _BYTE))

    return types.void(types.int64), build


configure = _load_configuration


@intrinsic
def configure_rows(_context: Any, _first: Any, _second: Any) -> Any:
    """Configure tiles for a product of ``first`` and ``second`` rows, 1 to 16 each.

    Sums 0 and 1 and the left tile 4 get the first rows, sums 2 and 3 and the left tile 5 the second
    ones; the right tiles 6 and 7 are full.
    """

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        memory = cgutils.alloca_once(builder, ir.ArrayType(_BYTE, 64))
        builder.store(ir.Constant(memory.type.pointee, None), memory)
        start = builder.ptrtoint(memory, _ADDRESS)

        def put(at: int, value: Any) -> None:
            address = builder.add(start, ir.Constant(_ADDRESS, at))
            builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=1)

        first, second = (builder.trunc(each, _BYTE) for each in arguments)
        full = ir.Constant(_BYTE, ROWS)
        put(0, ir.Constant(_BYTE, 1))
        for tile, rows in enumerate((first, first, second, second, first, second, full, full)):
            put(16 + 2 * tile, ir.Constant(_SHORT, 64))
            put(48 + tile, rows)
        call_llvm(builder, "llvm.x86.ldtilecfg", _VOID, builder.bitcast(memory, _BYTE.as_pointer()))

    return types.void(types.int64, types.int64), build


@intrinsic
def release(_context: Any) -> Any:
    """Clear the tiles, so that the kernel need not save them."""

    def build(_target: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        call_llvm(builder, "llvm.x86.tilerelease", _VOID)

    return types.void(), build


@intrinsic(prefer_literal=True)
def clear(_context: Any, tile: Any) -> Any:
    """Set a tile to zeros."""

    def build(_target: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        call_llvm(builder, "llvm.x86.tilezero", _VOID, *_numbers(tile))

    return (types.void(tile), build) if _are_constants(tile) else None


def _transfers(name: str) -> Callable[..., Any]:
    @intrinsic(prefer_literal=True)
    def transfer(_context: Any, tile: Any, _address: Any, _stride: Any) -> Any:
        def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            call_llvm(
                builder,
                name,
                _VOID,
                *_numbers(tile),
                as_pointer(builder, arguments[1], _BYTE),
                arguments[2],
            )

        form = types.void(tile, types.int64, types.int64)
        return (form, build) if _are_constants(tile) else None

    return transfer


#: ``load(tile, address, stride)``: read 16 rows of 64 bytes, ``stride`` bytes apart.
load = _transfers("llvm.x86.tileloadd64")
#: ``load_once``: the same, without keeping what is read in the first-level cache.
load_once = _transfers("llvm.x86.tileloaddt164")
#: ``store(tile, address, stride)``: write 16 rows of 64 bytes.
store = _transfers("llvm.x86.tilestored64")


@intrinsic(prefer_literal=True)
def multiply(_context: Any, total: Any, left: Any, right: Any) -> Any:
    """Add the product of two tiles to a sum."""

    def build(_target: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        call_llvm(builder, "llvm.x86.tdpbf16ps", _VOID, *_numbers(total, left, right))

    form = types.void(total, left, right)
    return (form, build) if _are_constants(total, left, right) else None
