"""Cross entropy of rows of logits and its gradient on CPUs, in place."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import prange

from adapterhub.kernels.numba_support import compiled, exponential, narrow, widen

if TYPE_CHECKING:
    from numpy.typing import NDArray


@compiled(parallel=True)
def cross_entropy(
    logits: NDArray[Any],
    targets: NDArray[np.int64],
    smoothing: float,
    needs_slope: bool,
    losses: NDArray[np.float32],
) -> None:
    """Write the loss of each position and, if needed, replace its logits by their gradient.

    Args:
        logits: Logits ``[num_positions, vocab_size]``.
        targets: Token id of each position.
        smoothing: Label smoothing as in ``torch.nn.functional.cross_entropy``.
        needs_slope: Whether the gradient is needed.
        losses: Result, ``[num_positions]``.
    """
    rest = np.float32(smoothing / logits.shape[1])
    for index in prange(logits.shape[0]):
        position = np.int64(index)
        row, target = logits[position], targets[position]
        powers = np.empty(row.shape[0], np.float32)
        top = _maximum(row)
        total = _exponentials(row, top, powers)
        log_z = top + np.float32(math.log(total))
        loss = np.float32(1.0 - smoothing) * (log_z - widen(row[target]))
        if smoothing > 0:
            loss += rest * (np.float32(row.shape[0]) * log_z - _sum(row))
        losses[position] = loss
        if needs_slope:
            own = powers[target] / total - rest - np.float32(1.0 - smoothing)
            _slopes(powers, np.float32(1.0) / total, rest, row)
            row[target] = narrow(own, row[target])


@compiled()
def _maximum(row: Any) -> Any:
    top = np.float32(-np.inf)
    for k in range(row.shape[0]):
        top = max(top, widen(row[k]))
    return top


@compiled()
def _exponentials(row: Any, top: Any, powers: Any) -> Any:
    total = np.float32(0.0)
    for k in range(row.shape[0]):
        powers[k] = exponential(widen(row[k]) - top)
        total += powers[k]
    return total


@compiled()
def _sum(row: Any) -> Any:
    total = np.float32(0.0)
    for k in range(row.shape[0]):
        total += widen(row[k])
    return total


@compiled()
def _slopes(powers: Any, factor: Any, rest: Any, row: Any) -> None:
    for k in range(row.shape[0]):
        row[k] = narrow(powers[k] * factor - rest, row[k])
