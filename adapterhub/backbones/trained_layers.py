"""Replacement of the forward pass of Llama-style decoder layers while gradients are computed.

transformers' modules keep the weights, peft's the adapters: every linear layer is called as before.
Norms, rotation, gate and attention in between become compiled functions with a backward pass of
their own. Without gradients, or for anything but packed sequences, a layer computes as before.
"""

from __future__ import annotations

import logging
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.backbones.fast_decoder import KNOWN_LAYERS
from adapterhub.kernels.attention.layout import AttentionParams, PackedSequences
from adapterhub.kernels.attention.packed import attend_packed
from adapterhub.kernels.decoder_layer_autograd import (
    AddAndNormalizeFunction,
    GateFunction,
    RotateFunction,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

_LOG = logging.getLogger(__name__)
#: Norms whose weight is multiplied as it is.
_KNOWN_NORMS = frozenset({"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm"})
#: Tokens of the comparison with transformers' own forward pass.
_CHECKED_TOKENS = 6
#: Largest difference to it, in rounding errors of the largest value.
_ROUNDINGS = 8


def fuse_decoder_layers(base_model: Any) -> int:
    """Replace the forward pass of supported layers in place and return their number.

    One layer is computed both ways first, without gradients.
    """
    layers = [each for each in getattr(base_model, "layers", ()) if _is_supported(each, base_model)]
    if layers and "forward" in vars(layers[0]):
        return len(layers)
    if not layers or not _computes_the_same(layers[0], base_model):
        return 0
    for layer in layers:
        layer.forward = MethodType(_forward, layer)
    return len(layers)


def restore_decoder_layers(base_model: Any) -> None:
    """Give layers their own forward pass back."""
    for layer in getattr(base_model, "layers", ()):
        vars(layer).pop("forward", None)


def _is_supported(layer: Any, base_model: Any) -> bool:
    config = base_model.config
    return (
        type(layer).__name__ in KNOWN_LAYERS
        and base_model.device.type == "cpu"
        and base_model.dtype in (torch.float32, torch.bfloat16)
        and getattr(config, "hidden_act", "") == "silu"
        and not getattr(config, "sliding_window", None)
    )


def _computes_the_same(layer: Any, base_model: Any) -> bool:
    """Return whether a layer's output is transformers' own, up to rounding."""
    width, dtype = base_model.config.hidden_size, base_model.dtype
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, _CHECKED_TOKENS, width, generator=generator).to(dtype)
    positions = torch.arange(_CHECKED_TOKENS).unsqueeze(0)
    with torch.no_grad():
        rotation = base_model.rotary_emb(x, positions)
        own = type(layer).forward(layer, x, position_embeddings=rotation)
        ours = _fused(layer, x, rotation, PackedSequences((_CHECKED_TOKENS,)))
    expected = (own[0] if isinstance(own, tuple) else own).float()
    error = float((ours.float() - expected).abs().max())
    bound = _ROUNDINGS * torch.finfo(dtype).eps * float(expected.abs().max())
    if not error <= bound:
        _LOG.warning(
            "%s: compiled layer differs by %.2g (bound %.2g), not used",
            type(layer).__name__,
            error,
            bound,
        )
    return error <= bound


def _forward(
    layer: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    past_key_values: Any = None,
    use_cache: bool | None = False,
    position_embeddings: Any = None,
    *,
    packed: PackedSequences | None = None,
    **kwargs: Any,
) -> Any:
    """Compute a decoder layer; see transformers' ``LlamaDecoderLayer.forward``."""
    trains = torch.is_grad_enabled() and past_key_values is None and _norms_are_frozen(layer)
    if trains and packed is not None:
        return _fused(layer, hidden_states, position_embeddings, packed)
    return type(layer).forward(
        layer,
        hidden_states,
        attention_mask,
        position_ids,
        past_key_values,
        use_cache,
        position_embeddings,
        **kwargs if packed is None else {**kwargs, "packed": packed},
    )


def _norms_are_frozen(layer: Any) -> bool:
    return all(
        type(norm).__name__ in _KNOWN_NORMS and not norm.weight.requires_grad
        for norm in (layer.input_layernorm, layer.post_attention_layernorm)
    )


def _fused(
    layer: Any, x: Tensor, rotation: tuple[Tensor, Tensor], packed: PackedSequences
) -> Tensor:
    """Return the layer's output ``[1, num_tokens, hidden]``."""
    total, normal = _add_and_normalize(x, None, layer.input_layernorm)
    attended = _attend(layer.self_attn, normal, rotation, packed)
    total, normal = _add_and_normalize(total, attended, layer.post_attention_layernorm)
    mlp = layer.mlp
    out: Tensor = total + mlp.down_proj(
        GateFunction.apply(mlp.gate_proj(normal), mlp.up_proj(normal))
    )
    return out


def _add_and_normalize(x: Tensor, added: Tensor | None, norm: nn.Module) -> tuple[Tensor, Tensor]:
    epsilon: Any = norm.variance_epsilon
    found: tuple[Tensor, Tensor] = AddAndNormalizeFunction.apply(
        x, added, norm.weight, float(epsilon)
    )
    return found


def _attend(
    module: Any, x: Tensor, rotation: tuple[Tensor, Tensor], packed: PackedSequences
) -> Tensor:
    shape = (x.shape[1], -1, module.head_dim)
    cosine, sine = (each[0].contiguous() for each in rotation)
    query = RotateFunction.apply(module.q_proj(x).view(shape), cosine, sine).transpose(0, 1)
    key = RotateFunction.apply(module.k_proj(x).view(shape), cosine, sine).transpose(0, 1)
    value = module.v_proj(x).view(shape).transpose(0, 1)
    params = AttentionParams(module.layer_idx, causal=True, window=None, scale=module.scaling)
    attended = attend_packed(query, key, value, packed, params)
    found: Tensor = module.o_proj(attended.flatten(1).unsqueeze(0))
    return found
