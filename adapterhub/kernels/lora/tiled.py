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
from adapterhub.kernels.attention.tile_operands import aligned, multiply_tiles
from adapterhub.kernels.numba_support import as_array, compiled, narrow

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
    tables = (as_array(y), as_array(x), as_array(a), as_array(b))
    _add_parts(*tables, *parts, amx.CONFIGURATION.ctypes.data)


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
    configuration: int,
) -> None:
    """Add the products of all parts; see ``PartArrays``.

    Args:
        configuration: Address of ``amx.CONFIGURATION``.
    """
    for part in prange(bounds.shape[0]):
        first, last, run = bounds[part, 0], bounds[part, 1], bounds[part, 2]
        own = slots[offsets[run] : offsets[run + 1]]
        factors = weights[offsets[run] : offsets[run + 1]]
        amx.configure(configuration)
        inner = _shrink(x, a, first, last, own, factors)
        _expand(y, b, first, last, own, inner)
        amx.release()


@compiled()
def _shrink(x: Any, a: Any, first: int, last: int, slots: Any, weights: Any) -> Any:
    """Return bfloat16 ``U`` ``[tokens, slots]``, both filled up with zeros to multiples of 32."""
    width, steps = x.shape[1], x.shape[1] // amx.DEPTH
    rows, ranks = -(-(last - first) // 32) * 32, -(-len(slots) // 32) * 32
    packed = aligned(ranks * width // 2).reshape(ranks // 16, steps, 16, 16)
    if ranks > len(slots):
        packed[:] = 0
    words = a.view(np.uint32)
    for slot in range(len(slots)):
        for step in range(steps):
            for pair in range(16):
                packed[slot // 16, step, pair, slot % 16] = words[slots[slot], 16 * step + pair]
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
    inner[:] = 0
    for row in range(last - first):
        _weigh_row(sums[row], weights, inner[row])
    return inner


@compiled()
def _weigh_row(sums: Any, weights: Any, inner: Any) -> None:
    for slot in range(len(weights)):
        inner[slot] = narrow(sums[slot] * weights[slot], inner[slot])


@compiled()
def _expand(y: Any, b: Any, first: int, last: int, slots: Any, inner: Any) -> None:
    """Add ``U B`` to the tokens of ``y``."""
    rows, ranks = inner.shape
    steps = ranks // amx.DEPTH
    packed = aligned(_OUTPUTS * ranks // 2).reshape(_OUTPUTS // 16, steps, 16, 16)
    packed[:] = 0
    sums = aligned(rows * _OUTPUTS).view(np.float32).reshape(rows, _OUTPUTS)
    for start in range(0, y.shape[1], _OUTPUTS):
        width = min(_OUTPUTS, y.shape[1] - start)
        for pair in range(-(-len(slots) // 2)):
            upper = b[slots[2 * pair], start : start + width]
            lower = upper
            if 2 * pair + 1 < len(slots):
                lower = b[slots[2 * pair + 1], start : start + width]
            _pair_rows(upper, lower, packed[: width // 16, pair // 16, pair % 16])
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
def _pair_rows(upper: Any, lower: Any, target: Any) -> None:
    """Write two bfloat16 rows as words, ``[n / 16, 16]``."""
    for group in range(target.shape[0]):
        for column in range(16):
            at = 16 * group + column
            target[group, column] = np.uint32(upper[at]) | (np.uint32(lower[at]) << np.uint32(16))


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
