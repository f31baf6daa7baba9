"""Interface of layers that replace a linear layer and compute the same product faster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn


@runtime_checkable
class PackedLayer(Protocol):
    """A linear layer, quantized or not, whose weight is held in another layout."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``."""

    def dense(self) -> Tensor:
        """Return the weight ``[out, in]``."""

    def unpack(self) -> nn.Linear:
        """Return the original layer, restored bit by bit."""
