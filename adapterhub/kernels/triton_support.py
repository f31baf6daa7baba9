"""Launch context and operand precision of the Triton kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from triton import knobs

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor


def interpreted() -> bool:
    """Return whether kernels run in Triton's interpreter (``TRITON_INTERPRET=1``)."""
    return bool(knobs.runtime.interpret)


def on_device_of(tensor: Tensor) -> AbstractContextManager[None]:
    """Launch kernels on a tensor's GPU, which may differ from the current one."""
    guard: AbstractContextManager[None] = torch.cuda.device_of(tensor)
    return guard


def widens(dtype: torch.dtype) -> bool:
    """Return whether operands must be widened to float32 before a product.

    Triton 3.7's interpreter multiplies the bits of bfloat16 as integers. Products of bfloat16
    are exact in float32, so widening changes nothing but the order of sums.
    """
    return interpreted() and dtype == torch.bfloat16


def precision(dtype: torch.dtype) -> str:
    """Return Triton's ``input_precision`` for float32 operands of a kernel's compute type.

    TF32 keeps 10 mantissa bits, more than either 16-bit type leaves of the result.
    """
    return "ieee" if dtype == torch.float32 else "tf32"
