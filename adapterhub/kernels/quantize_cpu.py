"""Quantization of weights to 4 bits on CPUs, bit by bit as bitsandbytes does it.

bitsandbytes searches the code of every weight among the 15 bounds with ``torch.bucketize``.
Counting the bounds below a weight needs no branches, so it is vectorised.
"""
# mypy: allow-untyped-decorators

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numba import prange

from adapterhub.kernels.numba_support import as_array, compiled, widen

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

#: Smallest divisor of a block, as in bitsandbytes.
_SMALLEST = np.float32(1e-38)


def quantize_4bit(weight: Tensor, values: Tensor, block_size: int) -> tuple[Tensor, Tensor] | None:
    """Return the packed codes and the scales of a weight, or ``None`` where bitsandbytes has to.

    Args:
        weight: Bfloat16 or float32 weight on the CPU.
        values: Value of each code, float32 ``[16]``.
        block_size: Number of consecutive weights that share a scale.

    Returns:
        Codes ``[weight.numel() / 2, 1]`` of two weights per byte, the first one in the upper half,
        and the scale of each block, float32.
    """
    known = weight.dtype in (torch.bfloat16, torch.float32) and weight.device.type == "cpu"
    if not known or weight.numel() % block_size or block_size % 2:
        return None
    order = torch.argsort(values)
    bounds = ((values[order[:-1]] + values[order[1:]]) / 2).numpy()
    blocks = weight.numel() // block_size
    codes = torch.empty(blocks, block_size // 2, dtype=torch.uint8)
    scales = torch.empty(blocks)
    source = as_array(weight.contiguous().view(blocks, block_size))
    arrays = (bounds, order.to(torch.uint8).numpy(), codes.numpy(), scales.numpy())
    if not _quantize(source, *arrays):
        return None
    return codes.view(-1, 1), scales


# no fast math: the products must be rounded as torch rounds them
@compiled(parallel=True, fast=False)
def _quantize(
    weight: NDArray[Any],
    bounds: NDArray[np.float32],
    order: NDArray[np.uint8],
    codes: NDArray[np.uint8],
    scales: NDArray[np.float32],
) -> bool:
    """Write codes and scales; return whether all weights are finite.

    Args:
        weight: ``[blocks, block_size]``.
        bounds: Bounds between neighbouring values, ascending, ``[15]``.
        order: Code of each value, ascending by value, ``[16]``.
        codes: ``[blocks, block_size / 2]``.
        scales: ``[blocks]``.
    """
    size = weight.shape[1]
    faults = np.int64(0)
    for block in prange(weight.shape[0]):
        wide = np.empty(size, np.float32)
        ranks = np.zeros(size, np.uint8)
        largest, total = np.float32(0.0), np.float32(0.0)
        for k in range(size):
            value = widen(weight[block, k])
            wide[k] = value
            largest = max(largest, abs(value))
            # NaN and infinity become NaN
            total += value * np.float32(0.0)
        faults += total != np.float32(0.0)
        scales[block] = largest
        inverse = np.float32(1.0) / max(largest, _SMALLEST)
        for k in range(size):
            wide[k] = min(max(wide[k] * inverse, np.float32(-1.0)), np.float32(1.0))
        for bound in bounds:
            for k in range(size):
                ranks[k] += wide[k] > bound
        for k in range(size // 2):
            codes[block, k] = (order[ranks[2 * k]] << 4) | order[ranks[2 * k + 1]]
    return faults == 0
