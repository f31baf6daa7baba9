"""Unquantized linear layers with their weight in oneDNN's blocked layout.

torch passes a plain bfloat16 weight to oneDNN at every call, which reorders it each time; for the
few tokens of a decoding step that costs as much as the product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Number of tokens that oneDNN chooses the layout for.
_EXPECTED_TOKENS = 32


class OneDnnLinear(nn.Module):
    """A ``PackedLayer`` that takes over the weight of an ``nn.Linear``.

    Args:
        linear: Layer for which ``supports`` is true; left without a weight until ``unpack``.
        keep: Whether the layer keeps its weight, because other modules share it.
    """

    def __init__(self, linear: nn.Linear, *, keep: bool = False) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.bias = linear.bias
        # in a tuple, so that it is no submodule
        self._linear = (linear,)
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.data, _EXPECTED_TOKENS)
        if not keep:
            linear.weight.data = torch.empty(0, dtype=linear.weight.dtype)

    @staticmethod
    def supports(module: nn.Module) -> bool:
        """Return whether a layer is a plain one on a CPU whose oneDNN has its type."""
        return (
            type(module) is nn.Linear
            and module.weight.device.type == "cpu"
            and torch.backends.mkldnn.is_available()
            and (module.weight.dtype == torch.float32 or _has_bfloat16(module.weight.dtype))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return y

    def dense(self) -> Tensor:
        """Return the weight ``[out, in]``."""
        weight: Tensor = self._packed.to_dense()
        return weight

    def unpack(self) -> nn.Linear:
        """Return the original layer with its weight, restored bit by bit."""
        (linear,) = self._linear
        linear.weight.data = self.dense()
        return linear


def _has_bfloat16(dtype: torch.dtype) -> bool:
    return dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
