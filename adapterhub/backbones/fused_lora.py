"""Replacement of the forward pass of peft's LoRA layers by ``LoraLinearFunction``.

peft creates, initialises, names and saves the layers. Only the forward pass of plain LoRA on a
4-bit or unquantized linear layer is replaced; other layers (DoRA, int8, embeddings) keep peft's
own. A layer may have several adapters, of which at most one is active.
"""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from bitsandbytes import functional as bnb_functional
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from torch import Tensor, nn

from adapterhub.kernels.dequantize_cpu import dequantize_4bit
from adapterhub.kernels.lora.autograd import LoraLinearFunction

if TYPE_CHECKING:
    from collections.abc import Callable


def fuse_lora_layers(model: nn.Module) -> int:
    """Replace the forward pass of supported layers in place and return their number."""
    layers = [module for module in model.modules() if _is_supported(module)]
    for layer in layers:
        layer.forward = MethodType(_forward, layer)
    return len(layers)


def _is_supported(module: nn.Module) -> bool:
    # peft adds LoRA on a parameter to the parameter itself
    if not isinstance(module, LoraLayer) or isinstance(module, ParamWrapper):
        return False
    base = module.get_base_layer()
    return isinstance(base, nn.Linear) and not isinstance(base, Linear8bitLt)


def _forward(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Return ``base(x) + s B A dropout(x)`` of the active adapter, or ``base(x)`` without one."""
    base = layer.get_base_layer()
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if layer.disable_adapters or not active:
        return base(x, *args, **kwargs)
    (name,) = active
    if name in layer.lora_variant:
        return type(layer).forward(layer, x, *args, **kwargs)
    weight, dtype = _frozen_weight(base)
    flat = x.reshape(-1, x.shape[-1]).to(dtype)
    y = LoraLinearFunction.apply(
        flat,
        layer.lora_A[name].weight,
        layer.lora_B[name].weight,
        layer.scaling[name],
        weight,
        None if base.bias is None else base.bias.to(dtype),
        _dropout_mask(layer.lora_dropout[name], flat),
    )
    return y.view(*x.shape[:-1], -1).to(x.dtype)


def _frozen_weight(base: nn.Linear) -> tuple[Callable[[], Tensor], torch.dtype]:
    """Return a function for the weight ``[out, in]`` in the compute type, and that type."""
    if not isinstance(base, Linear4bit):
        return lambda: base.weight, base.weight.dtype
    codes, state = base.weight.data, base.weight.quant_state
    dtype = base.compute_dtype or state.dtype

    def dequantized() -> Tensor:
        weight = dequantize_4bit(codes, state)
        if weight is None:
            weight = bnb_functional.dequantize_4bit(codes, state)
        return weight.to(dtype)

    return dequantized, dtype


def _dropout_mask(dropout: nn.Module, x: Tensor) -> Tensor | None:
    """Return the mask of inverted dropout, shaped as ``x``, or ``None`` without dropout."""
    if not isinstance(dropout, nn.Dropout) or not dropout.training or not dropout.p:
        return None
    return torch.empty_like(x).bernoulli_(1.0 - dropout.p).div_(1.0 - dropout.p)
