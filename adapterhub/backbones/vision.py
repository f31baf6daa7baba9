"""Pictures through transformers' own classes: what they give their head, and the head itself."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from adapterhub.backbones.heads import head_name

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


def head_inputs(stock: PreTrainedModel, pixels: Tensor) -> Tensor:
    """Return what a class for images gives its head, ``[rows, features]``.

    The class's own ``forward`` runs, and what comes to the head is read there: each
    architecture makes it in another way (class token, mean of the patches, both, pooled maps).

    Args:
        stock: transformers' class for images.
        pixels: ``[rows, channels, height, width]`` in the type that the body computes in.
    """
    head = _head(stock)
    inputs: list[Tensor] = []

    def note(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        inputs.append(args[0])
        # heads are in a type of their own
        return (args[0].to(next(module.parameters()).dtype),)

    handle = head.register_forward_pre_hook(note)
    try:
        stock(pixel_values=pixels, **_for_other_sizes(stock))
    finally:
        handle.remove()
    return inputs[0]


class VisionHead:
    """The linear layer of a class for images, in its own type, float32."""

    #: a head for images always learns
    frozen_weight: nn.Parameter | None = None

    def __init__(self, stock: PreTrainedModel) -> None:
        self._stock = stock

    def __call__(self, features: Tensor) -> Tensor:
        """Map what the body gave the head, ``[n, features]``, to logits ``[n, classes]``."""
        linear = _head(self._stock)
        return linear(features.to(next(linear.parameters()).dtype))


def feature_width(stock: PreTrainedModel) -> int:
    """Return the number of features that a class for images gives its head for a picture."""
    return int(_head(stock).get_parameter("weight").shape[1])


def _head(stock: PreTrainedModel) -> nn.Module:
    found: nn.Module = getattr(stock, str(head_name(stock)))
    return found


def _for_other_sizes(stock: PreTrainedModel) -> dict[str, Any]:
    """Let a ViT stretch its position embeddings over pictures of another size, if it can.

    Some architectures always do; at the size of training nothing is changed.
    """
    known = inspect.signature(stock.forward).parameters
    return {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in known else {}
