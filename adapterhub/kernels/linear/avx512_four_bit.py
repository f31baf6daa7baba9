"""4-bit linear layers in the layout of bitsandbytes' AVX-512 BF16 product.

bitsandbytes' own layer dequantizes its whole weight at every call. This product dequantizes in
registers, with scales rounded to bfloat16.
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

#: Number of outputs whose codes are interleaved.
_INTERLEAVED_OUTPUTS = 32


class Avx512Linear4bit(nn.Module):
    """A ``PackedLayer`` that takes over the codes of a 4-bit layer.

    Args:
        layer: Layer for which ``supports`` is true; left without codes until ``unpack``.
    """

    def __init__(self, layer: Linear4bit) -> None:
        super().__init__()
        self.in_features = layer.in_features
        self.out_features = layer.out_features
        self.bias = layer.bias
        self._layer = (layer,)
        # packing changes the state in place and rounds its scales
        state = copy.copy(layer.weight.quant_state)
        self._codes, self._state = bnb_functional._convert_weight_packed_for_cpu(
            layer.weight.data, state
        )
        layer.weight.data = torch.empty(0, dtype=torch.uint8)

    @staticmethod
    def supports(module: Any) -> TypeGuard[Linear4bit]:
        """Return whether a layer is a bfloat16 4-bit one on a CPU with AVX-512 BF16."""
        if not isinstance(module, Linear4bit) or not bnb_functional.has_avx512bf16():
            return False
        state = module.weight.quant_state
        return (
            module.weight.device.type == "cpu"
            and module.weight.dtype == torch.uint8
            and state.dtype == torch.bfloat16
            and not state.nested
            and module.out_features % _INTERLEAVED_OUTPUTS == 0
            and module.in_features % state.blocksize == 0
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``."""
        state = self._state
        y: Tensor = torch.ops.bitsandbytes.gemv_4bit.default(
            x, self._codes, state.shape, state.absmax, state.code, state.blocksize
        )
        return y if self.bias is None else y + self.bias

    def dense(self) -> Tensor:
        """Return the weight ``[out, in]``, dequantized by the exact scales."""
        (layer,) = self._layer
        return bnb_functional.dequantize_4bit(self._plain_codes(), layer.weight.quant_state)

    def unpack(self) -> Linear4bit:
        """Return the original layer with its codes, restored bit by bit."""
        (layer,) = self._layer
        layer.weight.data = self._plain_codes()
        return layer

    def _plain_codes(self) -> Tensor:
        state = copy.copy(self._state)
        codes: Tensor = bnb_functional._convert_weight_packed_for_cpu_inverse(self._codes, state)[0]
        return codes
