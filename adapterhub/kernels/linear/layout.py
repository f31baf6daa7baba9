"""Layout of packed weights: 16 outputs together, two inputs beside each other.

A *pair vector* holds two neighbouring inputs of 16 outputs, ``[16][2]`` bfloat16, one register of
64 bytes; a *group* is the pair vectors of 16 outputs. Sixteen pair vectors are one tile of AMX.

- bfloat16: pair vectors ``[out / 16, in / 2, 16, 2]``.
- 4 bits: ``[out / 16, in / 8, 16]`` words of 32 bits, four pair vectors in a register. In lane
  ``i`` of a register the bits from ``8 u`` on are the code of element ``i`` of its pair vector
  ``u``, and the four above them that of element ``16 + i``.
- Scales: float32 ``[out / 16, in / block, 16]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import prange

from adapterhub.kernels.numba_support import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Number of outputs of a group.
GROUP = 16
#: The number of inputs is a multiple of this.
INPUTS = 32

_LOWER, _UPPER = np.uint32(0x0F0F0F0F), np.uint32(0xF0F0F0F0)
_HALF_BYTE = np.uint32(4)


@compiled(parallel=True)
def interleave(rows: NDArray[np.uint32], packed: NDArray[np.uint32]) -> None:
    """Write ``[groups * 16, n]`` as ``[groups, n, 16]``: pairs of bfloat16, or scales."""
    for index in prange(packed.shape[0]):
        group = np.int64(index)
        _transpose(rows[group * GROUP : (group + 1) * GROUP], packed[group])


@compiled(parallel=True)
def separate(packed: NDArray[np.uint32], rows: NDArray[np.uint32]) -> None:
    """Invert ``interleave``."""
    for index in prange(packed.shape[0]):
        group = np.int64(index)
        _transpose(packed[group], rows[group * GROUP : (group + 1) * GROUP])


@compiled(parallel=True)
def interleave_codes(rows: NDArray[np.uint32], packed: NDArray[np.uint32]) -> None:
    """Write bitsandbytes' codes, ``[groups * 16, in / 8]`` words of 8, in the packed layout.

    A byte of bitsandbytes holds two inputs, the first in its upper half.
    """
    for index in prange(packed.shape[0]):
        group = np.int64(index)
        _interleave_codes(rows[group * GROUP : (group + 1) * GROUP], packed[group])


@compiled(parallel=True)
def separate_codes(packed: NDArray[np.uint32], rows: NDArray[np.uint32]) -> None:
    """Invert ``interleave_codes``."""
    for index in prange(packed.shape[0]):
        group = np.int64(index)
        _separate_codes(packed[group], rows[group * GROUP : (group + 1) * GROUP])


@compiled()
def _transpose(rows: NDArray[np.uint32], columns: NDArray[np.uint32]) -> None:
    for column in range(rows.shape[1]):
        for row in range(rows.shape[0]):
            columns[column, row] = rows[row, column]


@compiled()
def _interleave_codes(rows: NDArray[np.uint32], packed: NDArray[np.uint32]) -> None:
    for word in range(packed.shape[0]):
        for output in range(GROUP // 2):
            low, high = rows[output, word], rows[GROUP // 2 + output, word]
            packed[word, 2 * output] = ((low >> _HALF_BYTE) & _LOWER) | (high & _UPPER)
            packed[word, 2 * output + 1] = (low & _LOWER) | ((high << _HALF_BYTE) & _UPPER)


@compiled()
def _separate_codes(packed: NDArray[np.uint32], rows: NDArray[np.uint32]) -> None:
    for word in range(packed.shape[0]):
        for output in range(GROUP // 2):
            even, odd = packed[word, 2 * output], packed[word, 2 * output + 1]
            rows[output, word] = ((even & _LOWER) << _HALF_BYTE) | (odd & _LOWER)
            rows[GROUP // 2 + output, word] = (even & _UPPER) | ((odd >> _HALF_BYTE) & _LOWER)
