"""LoRA products of runs of tokens with matrix tiles (AMX).

    U = X Aᵀ W,   Y += U B

for consecutive tokens that use the same rank slots, with the weight of each slot in ``W``. The
slots of a run are packed as right operands once for many tokens; ``U`` is rounded to bfloat16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import prange

from adapterhub.kernels import amx, simd
from adapterhub.kernels.attention.tile_operands import (
    aligned,
    interleave_rows,
    multiply_tiles,
    pack_transposed,
)
from adapterhub.kernels.numba_support import as_array, compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from adapterhub.kernels.lora.plan import PartArrays

#: Outputs that are computed at once, so that their sums stay in the cache.
_OUTPUTS = 192


def fits_tiles(x: Tensor, y: Tensor) -> bool:
    """Return whether tiles can compute a layer; its widths are whole tiles."""
    widths = (x.shape[1] % amx.DEPTH, y.shape[1] % amx.DEPTH)
    return x.element_size() == y.element_size() == 2 and not any(widths) and amx.has_amx()


def add_tiled(y: Tensor, x: Tensor, a: Tensor, b: Tensor, parts: PartArrays) -> None:
    """Add the products of long runs to ``y`` in place; see ``LoraKernel``."""
    _add_parts(as_array(y), as_array(x), as_array(a), as_array(b), *parts)


@compiled(parallel=True)
def _add_parts(
    y: NDArray[np.uint16],
    x: NDArray[np.uint16],
    a: NDArray[np.uint16],
    b: NDArray[np.uint16],
    bounds: NDArray[np.int64],
    offsets: NDArray[np.int64],
    slots: NDArray[np.int64],
    weights: NDArray[np.float32],
) -> None:
    """Add the products of all parts; see ``PartArrays``."""
    for part in prange(bounds.shape[0]):
        first, last, run = bounds[part, 0], bounds[part, 1], bounds[part, 2]
        own = slots[offsets[run] : offsets[run + 1]]
        add_part(y, x, a, b, first, last, own, weights[offsets[run] : offsets[run + 1]])


@compiled()
def add_part(
    y: Any, x: Any, a: Any, b: Any, first: int, last: int, slots: Any, weights: Any
) -> None:
    """Add the products of tokens ``first`` to ``last`` with some weighted rank slots to ``y``."""
    amx.configure_rows(amx.ROWS, amx.ROWS)
    inner = _shrink(x, a, first, last, slots, weights)
    _expand(y, b, first, last, slots, inner)
    amx.release()


@compiled()
def _shrink(x: Any, a: Any, first: int, last: int, slots: Any, weights: Any) -> Any:
    """Return bfloat16 ``U`` ``[tokens, slots]``, both filled up with zeros to multiples of 32."""
    width, steps = x.shape[1], x.shape[1] // amx.DEPTH
    rows, ranks = -(-(last - first) // 32) * 32, -(-len(slots) // 32) * 32
    packed = aligned(ranks * width // 2).reshape(ranks // 16, steps, 16, 16)
    for group in range(ranks // amx.ROWS):
        _pack_slots(a, slots[group * amx.ROWS : (group + 1) * amx.ROWS], packed[group])
    source, stride = x[first:last], 2 * width
    if first + rows > x.shape[0]:
        # the last rows of a tile would be behind the end
        source = aligned(rows * width // 2).view(np.uint16).reshape(rows, width)
        source[: last - first] = x[first:last]
        source[last - first :] = 0
    sums = aligned(rows * ranks).view(np.float32).reshape(rows, ranks)
    multiply_tiles(
        source.ctypes.data,
        stride,
        packed.ctypes.data,
        amx.TILE * steps,
        steps,
        sums.ctypes.data,
        4 * ranks,
        rows,
        ranks,
        False,
    )
    inner = aligned(rows * ranks // 2).view(np.uint16).reshape(rows, ranks)
    padded = aligned(ranks).view(np.float32)
    padded[len(weights) :] = 0
    padded[: len(weights)] = weights
    for row in range(last - first):
        _weigh_row(sums[row].ctypes.data, padded.ctypes.data, ranks, inner[row].ctypes.data)
    return inner


@compiled()
def _pack_slots(a: Any, slots: Any, packed: Any) -> None:
    """Write up to 16 rank slots as right tiles ``[in / 32, 16, 16]``, filled up with zeros."""
    count = len(slots)
    consecutive = 1
    while consecutive < count and slots[consecutive] == slots[0] + consecutive:
        consecutive += 1
    if consecutive == amx.ROWS:
        stride = 2 * a.shape[1]
        start = a.ctypes.data + stride * slots[0]
        pack_transposed(start, stride, amx.ROWS, a.shape[1], packed.ctypes.data)
        return
    if count < amx.ROWS:
        packed[:] = 0
    words = a.view(np.uint32)
    for slot in range(count):
        for step in range(packed.shape[0]):
            for pair in range(16):
                packed[step, pair, slot] = words[slots[slot], 16 * step + pair]


@compiled()
def _weigh_row(sums: int, weights: int, ranks: int, inner: int) -> None:
    """Write the products of float32 sums and weights, rounded to bfloat16."""
    for rank in range(0, 4 * ranks, simd.VECTOR):
        product = simd.multiply(simd.load_f32(sums + rank), simd.load_f32(weights + rank))
        simd.store_rounded(inner + rank // 2, product)


@compiled()
def _expand(y: Any, b: Any, first: int, last: int, slots: Any, inner: Any) -> None:
    """Add ``U B`` to the tokens of ``y``."""
    rows, ranks = inner.shape
    steps, last_slot = ranks // amx.DEPTH, len(slots) - 1
    packed = aligned(_OUTPUTS * ranks // 2).reshape(_OUTPUTS // 16, steps, 16, 16)
    packed[:] = 0
    sums = aligned(rows * _OUTPUTS).view(np.float32).reshape(rows, _OUTPUTS)
    for start in range(0, y.shape[1], _OUTPUTS):
        width = min(_OUTPUTS, y.shape[1] - start)
        for pair in range(-(-len(slots) // 2)):
            upper = b.ctypes.data + 2 * (slots[2 * pair] * y.shape[1] + start)
            # beside the last one of an odd number ``U`` is 0
            lower = b.ctypes.data + 2 * (slots[min(2 * pair + 1, last_slot)] * y.shape[1] + start)
            target = packed[0, pair // 16, pair % 16].ctypes.data
            _pair_rows(upper, lower, width, target, amx.TILE * steps)
        multiply_tiles(
            inner.ctypes.data,
            2 * ranks,
            packed.ctypes.data,
            amx.TILE * steps,
            steps,
            sums.ctypes.data,
            4 * _OUTPUTS,
            rows,
            width,
            False,
        )
        _add_rows(y, first, last, start, width, sums)


@compiled()
def _pair_rows(upper: int, lower: int, width: int, target: int, stride: int) -> None:
    """Write two bfloat16 rows as rows of right tiles, ``stride`` bytes apart."""
    for column in range(0, 2 * width, 2 * amx.ROWS):
        interleave_rows(upper + column, lower + column, target)
        target += stride


@compiled()
def _add_rows(y: Any, first: int, last: int, start: int, width: int, sums: Any) -> None:
    """Add float32 sums to ``width`` bfloat16 columns of ``y``."""
    source = sums.ctypes.data
    for row in range(first, last):
        target = y.ctypes.data + 2 * (row * y.shape[1] + start)
        for column in range(0, width, 16):
            at = target + 2 * column
            total = simd.add(simd.load_widened(at), simd.load_f32(source + 4 * column))
            simd.store_rounded(at, total)
        source += 4 * sums.shape[1]
