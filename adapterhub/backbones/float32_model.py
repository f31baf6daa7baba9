"""A base model that computes in float32 for a moment, whatever it is loaded in.

Rounding to bfloat16 or int8 would hide small differences between two ways to compute the same.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from bitsandbytes import functional as bnb_functional
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from torch.nn import functional as F

from adapterhub.kernels.linear.packed_layer import PackedLayer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

#: Parameters up to which there is a copy in float32, 2 GiB.
MOST_PARAMETERS = 2**29
#: Of int8 layers, which scale each token to 127 steps.
_INT8_ROUNDING = 2.0**-7


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Use float32 copies of all weights inside the block, dequantized where needed.

    Large models keep their type.
    """
    if _num_parameters(model) > MOST_PARAMETERS:
        yield
        return
    quantized = _quantized_layers(model)
    before: list[tuple[Tensor, Tensor]] = []
    try:
        for layer in quantized:
            layer.__dict__["forward"] = _float32_forward(layer)
        for tensor in _narrow_tensors(model):
            before.append((tensor, tensor.data))
            tensor.data = tensor.data.float()
        yield
    finally:
        for layer in quantized:
            layer.__dict__.pop("forward", None)
        for tensor, own in before:
            tensor.data = own


def rounding_error(model: nn.Module) -> float:
    """Return the largest relative rounding error of a product of the model's layers."""
    types = {p.dtype for p in model.parameters() if p.is_floating_point()}
    errors = [torch.finfo(dtype).eps / 2 for dtype in types]
    if any(isinstance(m, Linear8bitLt) and "forward" not in vars(m) for m in model.modules()):
        errors.append(_INT8_ROUNDING)
    return max(errors)


def _quantized_layers(model: nn.Module) -> list[Any]:
    """Return the layers whose weight is no plain tensor: quantized, or in a kernel's layout."""
    kinds = (Linear4bit, Linear8bitLt, PackedLayer)
    return [module for module in model.modules() if isinstance(module, kinds)]


def _num_parameters(model: nn.Module) -> int:
    quantized = _quantized_layers(model)
    own = sum(p.numel() for p in model.parameters() if p.is_floating_point())
    return own + sum(m.in_features * m.out_features for m in quantized)


def _narrow_tensors(model: nn.Module) -> Iterator[Tensor]:
    seen: set[int] = set()
    for module in model.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            narrow = tensor is not None and tensor.dtype in (torch.bfloat16, torch.float16)
            if tensor is not None and narrow and id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor


def _float32_forward(layer: Any) -> Callable[[Tensor], Tensor]:
    weight = _weight(layer)
    # the bias is converted in place later
    return lambda x: F.linear(x, weight, layer.bias)


def _weight(layer: Any) -> Tensor:
    """Return the weight ``[out_features, in_features]`` of a quantized layer."""
    if isinstance(layer, PackedLayer):
        return layer.dense().float()
    if isinstance(layer, Linear4bit):
        state: Any = layer.weight.quant_state
        return bnb_functional.dequantize_4bit(layer.weight.data, state).float()
    scale = layer.state.SCB if layer.state.SCB is not None else layer.weight.SCB
    return layer.weight.data.float() * (scale.float() / 127)[:, None]
