"""Tensors as NumPy arrays over the same memory, for compiled loops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


def as_array(tensor: Tensor) -> NDArray[Any]:
    """Return a CPU tensor as an array; bfloat16 as the ``uint16`` that its bits are."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
