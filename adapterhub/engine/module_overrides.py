"""Parameters of adapters on modules that are neither linear layers, embeddings nor norm layers.

Sources: ``_ConvNd``, ``MultiheadAttention`` and ``ParamWrapper`` in ``peft/tuners/lora/layer.py``,
``_ConvNd`` in ``peft/tuners/ia3/layer.py``, and ``_inject_parameters`` in
``peft/tuners/tuners_utils.py`` of peft 0.21.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from adapterhub.engine.parameter_overrides import LowRankDelta

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

#: The layer inside peft's own.
BASE_LAYER = "base_layer."


def low_rank_product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Return ``s B A`` as a linear layer or a convolution stores its weight, in float32."""
    if a.dim() == 2:
        return b.float() @ a.float() * scale
    # the second convolution has a kernel of one pixel
    flat = b.float().flatten(1) @ a.float().flatten(1) * scale
    return flat.view(len(b), *a.shape[1:])


def with_magnitude(weight: Tensor, magnitude: Tensor) -> Tensor:
    """Return a weight whose outputs have the given norms (DoRA), float32."""
    norms = torch.linalg.vector_norm(weight.flatten(1), dim=1)
    return weight * (magnitude.float().flatten() / norms).view(-1, *[1] * (weight.dim() - 1))


def convolution(
    module: nn.Module, parts: Mapping[str, Tensor], scale: float
) -> dict[str, Tensor] | None:
    """Return weight and bias of a convolution with LoRA or IA³ on it.

    Args:
        module: Convolution of the backbone.
        parts: Tensors of the adapter by peft's part.
        scale: LoRA scale.

    Returns:
        ``None`` if the tensors are not those of LoRA or IA³ on this layer.
    """
    weight: Tensor = module.get_parameter("weight").detach().float()
    bias: Tensor | None = getattr(module, "bias", None)
    found = {} if bias is None else {"bias": bias.detach().float()}
    if parts.keys() == {"ia3_l"}:
        return _scaled_convolution(module, weight, found, parts["ia3_l"].float())
    if not {"lora_A.weight", "lora_B.weight"} <= parts.keys():
        return None
    delta = low_rank_product(parts["lora_A.weight"], parts["lora_B.weight"], scale)
    if delta.shape != weight.shape:
        return None
    found["weight"] = weight + delta
    if "lora_magnitude_vector" in parts:
        found["weight"] = with_magnitude(found["weight"], parts["lora_magnitude_vector"])
    if f"{BASE_LAYER}bias" in parts:
        found["bias"] = parts[f"{BASE_LAYER}bias"].float()
    if "lora_B.bias" in parts:
        found["bias"] = found["bias"] + scale * parts["lora_B.bias"].float()
    return found


def _scaled_convolution(
    module: nn.Module, weight: Tensor, found: dict[str, Tensor], scales: Tensor
) -> dict[str, Tensor] | None:
    flat = scales.flatten()
    inputs, outputs = int(module.in_channels), int(module.out_channels)
    ones = [1] * (weight.dim() - 2)
    if scales.shape[0] != 1 or len(flat) not in (inputs, outputs) or inputs == outputs:
        return None
    if len(flat) == outputs:
        bias = {name: tensor * flat for name, tensor in found.items()}
        return {"weight": weight * flat.view(-1, 1, *ones), **bias}
    return {"weight": weight * flat.view(1, -1, *ones), **found}


def attention_projections(
    module: nn.MultiheadAttention, parts: Mapping[str, Tensor], scale: float
) -> dict[str, Tensor] | None:
    """Return the joint projection of queries, keys and values of attention with LoRA on it."""
    if parts.keys() != {"lora_A.weight", "lora_B.weight"} or module.in_proj_weight is None:
        return None
    delta = low_rank_product(parts["lora_A.weight"], parts["lora_B.weight"], scale)
    weight = module.in_proj_weight.detach().float()
    return {"in_proj_weight": weight + delta} if delta.shape == weight.shape else None


def parameter_deltas(
    module: nn.Module,
    parts: Mapping[str, Tensor],
    is_targeted: Callable[[str], bool],
    scale_of: Callable[[str], float],
) -> dict[str, LowRankDelta] | None:
    """Return the products that LoRA adds to parameters of a module, such as its experts.

    peft wraps the module once for each parameter, in their order, so the last one is outermost.

    Args:
        module: Module of the backbone.
        parts: Tensors of the adapter by peft's part.
        is_targeted: Tells whether a parameter is one of ``target_parameters``.
        scale_of: Returns the LoRA scale of a parameter.

    Returns:
        ``None`` if the tensors are not those of LoRA on these parameters.
    """
    names = [name for name, _ in module.named_parameters(recurse=False) if is_targeted(name)]
    found: dict[str, LowRankDelta] = {}
    for depth, name in enumerate(reversed(names)):
        pair = [parts.get(f"{BASE_LAYER * depth}{part}") for part in _PAIR]
        if pair[0] is None or pair[1] is None:
            return None
        delta = _delta(module, module.get_parameter(name), pair[0], pair[1], scale_of(name))
        if delta is None:
            return None
        found[name] = delta
    return found if found and len(parts) == 2 * len(found) else None


_PAIR: Sequence[str] = ("lora_A.weight", "lora_B.weight")


def _delta(
    module: nn.Module, parameter: Tensor, a: Tensor, b: Tensor, scale: float
) -> LowRankDelta | None:
    """Return the product of a parameter ``[out, in]`` or one for each expert."""
    dtype = parameter.dtype
    if parameter.dim() == 2:
        if (b.shape[0], a.shape[1]) != tuple(parameter.shape):
            return None
        return LowRankDelta((b.float() * scale).to(dtype), a.to(dtype))
    experts = parameter.shape[0]
    if parameter.dim() != 3 or a.shape[0] % experts:
        return None
    down = a.float().reshape(experts, -1, a.shape[1])
    up = b.float().reshape(b.shape[0], -1, experts).permute(2, 0, 1) * scale
    # [num_experts, in_features, out_features]
    transposed = bool(getattr(module, "is_transposed", False))
    left, right = (down.mT, up.mT) if transposed else (up, down)
    if (left.shape[1], right.shape[2]) != tuple(parameter.shape[1:]):
        return None
    return LowRankDelta(left.to(dtype).contiguous(), right.to(dtype).contiguous())
