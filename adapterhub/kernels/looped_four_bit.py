"""A 4-bit layer in float32, for CPUs that bitsandbytes has no product of its own for.

There it expands the weights by general functions at every call. Here a byte's two codes are
looked up at once, an output's weights stay in the first-level cache while few rows are multiplied
by them, and many rows are left to the BLAS over weights that were just expanded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from bitsandbytes.nn import Linear4bit
from torch import Tensor, nn
from torch.nn import functional as F

from adapterhub.kernels.arrays import as_array

if TYPE_CHECKING:
    from typing import TypeGuard

#: Most rows that are multiplied where the weights are expanded.
MOST_ROWS = 24


class LoopedFourBit(nn.Module):
    """Computes what a 4-bit layer computes, from the codes where they are."""

    def __init__(self, layer: Linear4bit) -> None:
        """Read a layer's codes; it keeps them.

        Args:
            layer: as ``can_loop_four_bit`` accepts it.
        """
        super().__init__()
        self.in_features = layer.in_features
        self.out_features = layer.out_features
        self.bias = layer.bias
        self._layer = (layer,)
        state = layer.weight.quant_state
        self._codes = as_array(layer.weight.data.view(self.out_features, -1))
        self._scales = as_array(state.absmax.view(self.out_features, -1))
        # the upper half of a byte comes first
        self._pairs = as_array(torch.cartesian_prod(state.code, state.code).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``."""
        from adapterhub.kernels.loops.four_bit import multiply

        rows = x.reshape(-1, self.in_features)
        if len(rows) > MOST_ROWS or torch.is_grad_enabled():
            return F.linear(x, self.dense(), self.bias)
        y = x.new_empty(len(rows), self.out_features)
        source = as_array(rows.contiguous())
        multiply(source, self._codes, self._scales, self._pairs, as_array(y))
        y = y.view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    def dense(self) -> Tensor:
        """Return the weight ``[out, in]``, to the bit as bitsandbytes expands it."""
        from adapterhub.kernels.loops.four_bit import expand

        weight = torch.empty(self.out_features, self.in_features)
        expand(self._codes, self._scales, self._pairs, as_array(weight))
        return weight

    def unpacked(self) -> Linear4bit:
        """Return the layer, which is as it was."""
        (layer,) = self._layer
        return layer


def can_loop_four_bit(module: Any) -> TypeGuard[Linear4bit]:
    """Return whether a layer may be computed so: 4 bits, float32, on a CPU, whole blocks a row."""
    if not isinstance(module, Linear4bit) or module.weight.device.type != "cpu":
        return False
    state = module.weight.quant_state
    return (
        module.weight.dtype == torch.uint8
        and state.dtype == torch.float32
        and state.absmax.dtype == torch.float32
        and not state.nested
        and module.in_features % state.blocksize == 0
    )
