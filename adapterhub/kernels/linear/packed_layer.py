"""Base class of layers that replace a linear layer and compute the same product faster."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class PackedLayer(nn.Module, ABC):
    """A linear layer, quantized or not, whose weight may be held in another layout.

    Args:
        layer: Layer to replace, for which the subclass's ``supports`` is true.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        # in a tuple, so that it is no submodule
        self._layer = (layer,)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``."""

    @abstractmethod
    def dense(self) -> Tensor:
        """Return the weight ``[out, in]``."""

    @abstractmethod
    def unpack(self) -> nn.Linear:
        """Return the original layer, restored bit by bit."""
