"""Operand types and precision of the products in Triton kernels."""

from __future__ import annotations

import torch
from triton import knobs


def widens(dtype: torch.dtype) -> bool:
    """Return whether operands must be widened to float32 before a product.

    Triton 3.7's interpreter multiplies the bits of bfloat16 as integers. Products of bfloat16
    are exact in float32, so widening changes nothing but the order of sums.
    """
    return bool(knobs.runtime.interpret) and dtype == torch.bfloat16


def precision(dtype: torch.dtype) -> str:
    """Return Triton's ``input_precision`` for float32 operands of a kernel's compute type.

    TF32 keeps 10 mantissa bits, more than either 16-bit type leaves of the result.
    """
    return "ieee" if dtype == torch.float32 else "tf32"
