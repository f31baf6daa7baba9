"""A 4-bit layer whose codes lie in the order of bitsandbytes' product for AVX-512 BF16.

The layer itself expands all of its weights at every call. This product expands them in
registers, with its scales rounded to bfloat16.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from bitsandbytes import functional as bnb_functional
from bitsandbytes.nn import Linear4bit
from torch import Tensor, nn

if TYPE_CHECKING:
    from typing import TypeGuard

#: Codes are interleaved over so many outputs.
_OUTPUTS = 32


class PackedFourBit(nn.Module):
    """Computes what a 4-bit layer computes; its codes lie here until ``unpacked``."""

    def __init__(self, layer: Linear4bit) -> None:
        """Take over a layer's codes; the layer itself is left without any.

        Args:
            layer: as ``can_pack_four_bit`` accepts it.
        """
        super().__init__()
        self.in_features = layer.in_features
        self.out_features = layer.out_features
        self.bias = layer.bias
        self._layer = (layer,)
        # packing changes the state in place, and rounds the scales
        state = copy.copy(layer.weight.quant_state)
        self._codes, self._state = bnb_functional._convert_weight_packed_for_cpu(
            layer.weight.data, state
        )
        layer.weight.data = torch.empty(0, dtype=torch.uint8)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``."""
        state = self._state
        y: Tensor = torch.ops.bitsandbytes.gemv_4bit.default(
            x, self._codes, state.shape, state.absmax, state.code, state.blocksize
        )
        return y if self.bias is None else y + self.bias

    def dense(self) -> Tensor:
        """Return the weight ``[out, in]``, by the exact scales."""
        (layer,) = self._layer
        return bnb_functional.dequantize_4bit(self._plain_codes(), layer.weight.quant_state)

    def unpacked(self) -> Linear4bit:
        """Give the layer its codes back, to the bit, and return it."""
        (layer,) = self._layer
        layer.weight.data = self._plain_codes()
        return layer

    def _plain_codes(self) -> Tensor:
        state = copy.copy(self._state)
        codes: Tensor = bnb_functional._convert_weight_packed_for_cpu_inverse(self._codes, state)[0]
        return codes


def can_pack_four_bit(module: Any) -> TypeGuard[Linear4bit]:
    """Return whether a layer may be packed: 4 bits, in bfloat16, on a CPU that multiplies in it."""
    if not isinstance(module, Linear4bit) or not bnb_functional.has_avx512bf16():
        return False
    state = module.weight.quant_state
    return (
        module.weight.device.type == "cpu"
        and module.weight.dtype == torch.uint8
        and state.dtype == torch.bfloat16
        and not state.nested
        and module.out_features % _OUTPUTS == 0
        and module.in_features % state.blocksize == 0
    )
