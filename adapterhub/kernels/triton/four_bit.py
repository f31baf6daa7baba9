"""A 4-bit layer that expands its weights in registers where there are few rows.

bitsandbytes 0.50 has a product of that kind on NVIDIA GPUs, which it takes up to 4 rows and, by
tables of its own, for some shapes above; elsewhere it writes the expanded weights to memory
first (``bitsandbytes/backends/cuda/ops.py``, ``_gemm_4bit_use_custom_cuda``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
from bitsandbytes import functional as bnb_functional
from bitsandbytes.nn import Linear4bit
from torch import Tensor, nn

from adapterhub.kernels.triton.code import four_bit
from adapterhub.kernels.triton.operands import on_device_of, precision, widens

if TYPE_CHECKING:
    from typing import TypeGuard

#: Most rows that this product is for.
MOST_ROWS = 32
#: Outputs of a program.
OUT = 64
#: Programs that a product is cut into, at least, where it is long enough.
PROGRAMS = 256
#: Elements of a program that adds sums up.
SIZE = 1024


class TritonFourBit(nn.Module):
    """Computes what a 4-bit layer computes, and leaves its codes where they are."""

    def __init__(self, layer: Linear4bit) -> None:
        """Stand before a layer.

        Args:
            layer: as ``can_fuse_four_bit`` accepts it.
        """
        super().__init__()
        self.in_features = layer.in_features
        self.out_features = layer.out_features
        self.bias = layer.bias
        self._layer = (layer,)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``."""
        (layer,) = self._layer
        state = layer.weight.quant_state
        if x.numel() > MOST_ROWS * self.in_features:
            return layer(x)
        rows = x.reshape(-1, self.in_features).contiguous().to(state.dtype)
        with on_device_of(rows):
            y = multiply_four_bit(rows, layer.weight.data, state, self.bias)
        return y.view(*x.shape[:-1], self.out_features).to(x.dtype)

    def dense(self) -> Tensor:
        """Return the weight ``[out, in]``."""
        (layer,) = self._layer
        return bnb_functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)

    def unpacked(self) -> Linear4bit:
        """Return the layer, which never changed."""
        return self._layer[0]


def can_fuse_four_bit(module: nn.Module) -> TypeGuard[Linear4bit]:
    """Return whether a layer's weights can be expanded in registers: scales are plain."""
    if not isinstance(module, Linear4bit):
        return False
    state = module.weight.quant_state
    return (
        state is not None
        and not state.nested
        and module.weight.dtype == torch.uint8
        and module.in_features % state.blocksize == 0
        and tuple(state.shape) == (module.out_features, module.in_features)
    )


def multiply_four_bit(x: Tensor, codes: Tensor, state: Any, bias: Tensor | None = None) -> Tensor:
    """Return ``x Wᵀ + bias``, ``[rows, out]`` in the type of ``x``.

    Args:
        x: ``[rows, in]``, contiguous, at most ``MOST_ROWS`` rows.
        codes: uint8, two to a byte.
        state: bitsandbytes' of the weight, not nested, its blocks a divisor of ``in``.
        bias: ``[out]``.
    """
    (rows, width), out_width = x.shape, int(state.shape[0])
    step = min(state.blocksize, 64)
    steps, programs = width // step, triton.cdiv(out_width, OUT)
    in_range = triton.cdiv(steps, min(steps, max(1, PROGRAMS // programs)))
    ranges = triton.cdiv(steps, in_range)
    sums = torch.empty(ranges, rows, out_width, dtype=torch.float32, device=x.device)
    four_bit.multiply[(programs, ranges)](
        x,
        codes,
        state.absmax,
        state.code,
        sums,
        rows,
        width,
        out_width,
        in_range,
        ROWS=16 if rows <= 16 else 32,
        OUT=OUT,
        BLOCK=state.blocksize,
        STEP=step,
        WIDE=widens(x.dtype),
        PRECISION=precision(x.dtype),
    )
    y = torch.empty(rows, out_width, dtype=x.dtype, device=x.device)
    four_bit.finish[(triton.cdiv(y.numel(), SIZE),)](
        sums,
        y if bias is None else bias,
        y,
        y.numel(),
        out_width,
        ranges,
        SIZE=SIZE,
        BIASED=bias is not None,
    )
    return y
