"""The segmented low-rank product on a CPU, compiled by numba.

One token needs every value of its adapter once, so a batch of many adapters is bound by reading
them. Rows are kept in bfloat16 and widened in registers, which torch's batched products do not
do: they read half as much at a third of the speed. Tokens are shared out over the threads;
neighbours of one adapter find its rows in the cache. Runs of many tokens, as in prefill, are
matrix products and are left to torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from adapterhub.kernels.arrays import as_array
from adapterhub.kernels.loops.lora import add_single_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from adapterhub.kernels.lora_rows import LoraPlan, Run


class CpuKernel:
    """Segmented product for CPUs; see ``LoraKernel``."""

    def add_(self, y: Tensor, x: Tensor, a: Tensor, b: Tensor, plan: LoraPlan) -> None:
        """Add to ``y`` in place."""
        long, short = plan.split
        for run in long:
            _add_long(y, x, a, b, run)
        if short is not None:
            arrays = (as_array(y), as_array(x), as_array(a), as_array(b))
            add_single_tokens(*arrays, *short.tables)


def _add_long(y: Tensor, x: Tensor, a: Tensor, b: Tensor, run: Run) -> None:
    tokens = slice(run.start, run.end)
    total = y[tokens]
    for row, rank, weight in run.parts:
        inner = torch.nn.functional.linear(x[tokens], a[row : row + rank])
        total = torch.addmm(total, inner, b[row : row + rank], alpha=weight)
    y[tokens] = total
