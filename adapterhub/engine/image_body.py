"""What heads read of pictures whose adapters differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.backbones.heads import build_head_model, image_feature_width, image_features
from adapterhub.backbones.quantize import torch_dtype
from adapterhub.engine.forward_context import ImageForwardContext, set_forward_context

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.engine.adapter_slots import Blend


class ImageBody:
    """A backbone's body inside transformers' own class for pictures.

    The class knows what its architecture gives a head. The head that stands in it here has no
    part in the result.

    Args:
        backbone: that reads pictures, with its sites in place.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._stock = build_head_model(backbone, "image", ("stands", "in"))
        self._dtype = torch_dtype(backbone.quantization.compute_dtype)
        #: features of a picture, as heads read them
        self.width = image_feature_width(self._stock)

    def features(self, pixels: Tensor, blends: Sequence[Blend]) -> Tensor:
        """Return what the architecture gives a head, ``[rows, features]``.

        Args:
            pixels: ``[rows, channels, height, width]``.
            blends: the adapters of each row.
        """
        with set_forward_context(ImageForwardContext(blends)):
            return image_features(self._stock, pixels.to(self._dtype))
