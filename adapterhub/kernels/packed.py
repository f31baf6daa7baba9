"""What every layer is that computes in the place of a linear one and can give it back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn


@runtime_checkable
class Packed(Protocol):
    """The product of the base weight, quantized or not, computed in another way."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``."""

    def dense(self) -> Tensor:
        """Return the weight ``[out, in]``."""

    def unpacked(self) -> nn.Linear:
        """Give the layer back as it was."""
