"""An unquantized linear layer with its weight in oneDNN's own order.

torch hands a plain bfloat16 weight to oneDNN at every call, which brings it into its order each
time; at the few rows of a decoding step that costs as much as the product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Rows that the order is chosen for.
_EXPECTED_ROWS = 32


class PackedLinear(nn.Module):
    """Computes what ``linear`` computes; its weight lies here until ``unpacked``."""

    def __init__(self, linear: nn.Linear, *, keep: bool = False) -> None:
        """Take over a layer's weight; the layer itself is left without one.

        Args:
            linear: as ``can_pack`` accepts it.
            keep: leave the layer its weight, because others share it.
        """
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self._linear = (linear,)
        self.bias = linear.bias
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.data, _EXPECTED_ROWS)
        if not keep:
            linear.weight.data = torch.empty(0, dtype=linear.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return y

    def dense(self) -> Tensor:
        """Return the weight ``[out, in]``."""
        weight: Tensor = self._packed.to_dense()
        return weight

    def unpacked(self) -> nn.Linear:
        """Give the layer its weight back, to the bit, and return it."""
        (linear,) = self._linear
        linear.weight.data = self.dense()
        return linear


def can_pack(module: nn.Module) -> bool:
    """Return whether a layer may be packed: plain, on a CPU whose oneDNN packs its type."""
    return (
        type(module) is nn.Linear
        and module.weight.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and (module.weight.dtype == torch.float32 or _packs_bfloat16(module.weight.dtype))
    )


def _packs_bfloat16(dtype: torch.dtype) -> bool:
    return dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
