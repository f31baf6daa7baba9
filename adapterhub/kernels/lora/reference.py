"""Segmented LoRA product in plain torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from adapterhub.kernels.lora.plan import LoraPlan


class ReferenceLoraKernel:
    """``LoraKernel`` in plain torch; intermediate results are float32."""

    def add_(self, y: Tensor, x: Tensor, a: Tensor, b: Tensor, plan: LoraPlan) -> None:
        """Add the product to ``y`` in place; see ``LoraKernel``."""
        for start, end, slices in plan.runs:
            tokens = slice(start, end)
            total = y[tokens].float()
            for first, rank, weight in slices:
                slots = slice(first, first + rank)
                inner = x[tokens].float() @ a[slots].float().t()
                total = total + weight * (inner @ b[slots].float())
            y[tokens] = total.to(y.dtype)
