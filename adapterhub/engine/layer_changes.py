"""What a resident adapter changes in a linear layer beside its LoRA pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from adapterhub.engine.adapter_slots import Blend
    from adapterhub.engine.prepared_adapter import LoraFactors, OwnWeight, TokenRows


@dataclass(frozen=True, slots=True, eq=False)
class LayerChange:
    """Tensors of one adapter in one linear layer, on the device.

    A layer with all of them would compute, with IA³'s scales ``u`` and ``v``, DoRA's ``m`` and the
    added bias ``d``,

        y = v * (m * W (u * x) + b + s B A (u * x) + d)

    An own weight takes the place of all that. Rows are outputs with their own vectors.
    """

    #: float32 [in_features]
    input_scale: Tensor | None = None
    #: float32 [out_features]
    magnitude_scale: Tensor | None = None
    #: float32 [out_features]
    bias: Tensor | None = None
    #: float32 [out_features]
    output_scale: Tensor | None = None
    weight: OwnWeight | None = None
    rows: TokenRows | None = None

    def scale_input(self, x: Tensor) -> None:
        """Multiply inputs ``[n, in_features]`` in place."""
        if self.input_scale is not None:
            x.copy_(x.float() * self.input_scale)

    def scale_base(self, y: Tensor, bias: Tensor | None) -> None:
        """Multiply the layer's own output ``[n, out_features]`` without its bias, in place."""
        if self.magnitude_scale is None:
            return
        own = y.float()
        if bias is None:
            own = own * self.magnitude_scale
        else:
            own = (own - bias.float()) * self.magnitude_scale + bias.float()
        y.copy_(own)

    def finish(self, x: Tensor, y: Tensor, bias: Tensor | None) -> None:
        """Change outputs after LoRA, in place.

        Args:
            x: Inputs ``[n, in_features]``.
            y: Outputs ``[n, at least out_features]``.
            bias: Bias of the layer itself.
        """
        if self.output_scale is not None:
            y.copy_(y.float() * self.output_scale)
        if self.weight is not None:
            own = F.linear(x, self.weight.weight, self.weight.bias)
            y[:, : own.shape[-1]] = own
        if self.rows is not None:
            if bias is not None:
                # peft leaves out the bias of a layer that is tied to such an embedding
                y[:, : len(bias)] -= bias
            y[:, self.rows.ids] = F.linear(x, self.rows.vectors)


def mask_unknown_tokens(logits: Tensor, blends: Sequence[Blend], vocab_size: int) -> None:
    """Exclude the tokens that only other adapters of a batch have, in place.

    Args:
        logits: Logits ``[n, at least vocab_size]``.
        blends: Blend of each.
        vocab_size: Number of outputs of the backbone's own layer.
    """
    if logits.shape[-1] == vocab_size and not any(blend.vocab_size for blend in blends):
        return
    for own, blend in zip(logits, blends, strict=True):
        own[blend.vocab_size or vocab_size :] = -torch.inf


def layer_change(
    factors: LoraFactors, layer: int, device: torch.device, dtype: torch.dtype
) -> LayerChange | None:
    """Return what an adapter changes in a linear layer beside its pair, if anything."""
    if layer not in factors.changed:
        return None
    weight, rows = factors.weights.get(layer), factors.rows.get(layer)

    def scale(tensors: Mapping[int, Tensor]) -> Tensor | None:
        return tensors[layer].to(device, torch.float32) if layer in tensors else None

    if weight is not None:
        bias = None if weight.bias is None else weight.bias.to(device, dtype)
        weight = type(weight)(weight.weight.to(device, dtype), bias)
    if rows is not None:
        rows = type(rows)(rows.ids.to(device), rows.vectors.to(device, dtype))
    return LayerChange(
        scale(factors.input_scales),
        scale(factors.magnitude_scales),
        scale(factors.biases),
        scale(factors.output_scales),
        weight,
        rows,
    )
