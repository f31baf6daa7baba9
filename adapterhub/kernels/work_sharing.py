"""Sharing of work among threads that run at the same time, in phases.

A phase is a number of items of work. Threads claim items one after the other, and wait until all
items of a phase are done before they begin the next phase. No phase needs a certain number of
threads: a thread that comes late, because another process has its core, finds the items taken, and
the others wait for what it has claimed only. A thread that waits spins shortly, since the others
are mostly done within microseconds, and then gives up its core.
"""
# mypy: allow-untyped-decorators

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from adapterhub.kernels.numba_support import compiled
from adapterhub.kernels.simd import call_llvm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

#: Bytes of the counters of a phase: claimed items and done items, each in a pair of cache lines,
#: which processors fetch together.
_PHASE, _DONE = 256, 128
#: Number of pauses, of about 50 ns each, until a waiting thread yields its core.
_SPINS = 200
#: Number of yields until a waiting thread sleeps, so that its core is free for what it waits for.
_YIELDS = 20
#: Length of a sleep in microseconds; the kernel adds about 50.
_SLEEP = 5

_INT64 = ir.IntType(64)
_sched_yield = types.ExternalFunction("sched_yield", types.int32())
_usleep = types.ExternalFunction("usleep", types.int32(types.uint32))


def new_counters(phases: int) -> NDArray[np.int64]:
    """Return the counters of some phases, which are zero."""
    return np.zeros(phases * _PHASE // 8, np.int64)


@compiled(cached=False)
def claimed(counters: int, phase: int, total: int) -> Iterator[int]:
    """Yield the items of a phase that this thread has to compute, then wait for all others.

    Args:
        counters: Address of the counters.
        phase: Number of the phase.
        total: Number of items of the phase.
    """
    at, done = counters + phase * _PHASE, 0
    while _load(at) < total:
        item = _add(at, 1)
        if item >= total:
            break
        yield item
        done += 1
    finish(counters, phase, total, done)


@compiled()
def finish(counters: int, phase: int, total: int, own: int) -> None:
    """Wait until all items of a phase are done.

    Args:
        counters: Address of the counters.
        phase: Number of the phase.
        total: Number of items of the phase.
        own: Number of items that this thread has done.
    """
    at = counters + phase * _PHASE + _DONE
    if own:
        _add(at, own)
    spins = 0
    while _load(at) < total:
        spins += 1
        if spins <= _SPINS:
            _pause()
        elif spins <= _SPINS + _YIELDS:
            _sched_yield()
        else:
            _usleep(np.uint32(_SLEEP))


@intrinsic
def _add(_context: Any, _address: Any, _value: Any) -> Any:
    """Add to the integer at an address; return what it was before."""

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], _INT64.as_pointer())
        return builder.atomic_rmw("add", pointer, arguments[1], "acq_rel")

    return types.int64(types.int64, types.int64), build


@intrinsic
def _load(_context: Any, _address: Any) -> Any:
    """Return the integer at an address, after which other memory is read."""

    def build(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], _INT64.as_pointer())
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(types.int64), build


@intrinsic
def _pause(_context: Any) -> Any:
    """Tell the processor that this thread waits in a loop."""

    def build(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        call_llvm(builder, "llvm.x86.sse2.pause", ir.VoidType())
        return context.get_dummy_value()

    return types.void(), build
