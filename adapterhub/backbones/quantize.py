"""Hold a body's linear layers in 4 or 8 bits, by bitsandbytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import bitsandbytes as bnb
import torch
from torch import nn

if TYPE_CHECKING:
    from adapterhub.specs import ComputeDtype, QuantizationSpec

_TORCH_TYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def torch_dtype(name: ComputeDtype) -> torch.dtype:
    """Return torch's type of that name."""
    return _TORCH_TYPES[name]


def default_compute_dtype(device: torch.device) -> ComputeDtype:
    """Return bfloat16 where the device multiplies in it, else float32."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    if device.type == "cpu":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return "bfloat16" if native else "float32"
    return "bfloat16"


def usable_compute_dtype(wanted: ComputeDtype, device: torch.device) -> ComputeDtype:
    """Return the compute type asked for, or float32 where the device has no bfloat16."""
    return wanted if default_compute_dtype(device) == "bfloat16" else "float32"


def quantize_linears(body: nn.Module, spec: QuantizationSpec, device: torch.device) -> None:
    """Replace every linear layer of ``body``, one after the other.

    The body holds no head: heads, embeddings and norms are never quantized.

    Args:
        body: on the CPU in the compute type; changed in place and moved to ``device``.
        spec: the scheme; ``none`` only moves the body.
        device: where the layers end up.
    """
    if spec.scheme != "none":
        for parent in list(body.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear:
                    setattr(parent, name, _quantized(child, spec).to(device))
    body.to(device)


def _quantized(linear: nn.Linear, spec: QuantizationSpec) -> nn.Linear:
    layer = _int8(linear) if spec.scheme == "int8" else _four_bit(linear, spec)
    layer.bias = linear.bias
    return layer


def _four_bit(linear: nn.Linear, spec: QuantizationSpec) -> bnb.nn.Linear4bit:
    layer = bnb.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        compute_dtype=torch_dtype(spec.compute_dtype),
        compress_statistics=False,
        quant_type=spec.scheme,
        device="meta",
    )
    layer.weight = bnb.nn.Params4bit(
        linear.weight.data,
        requires_grad=False,
        compress_statistics=False,
        quant_type=spec.scheme,
        module=layer,
    )
    keep_weights_as_they_are(layer)
    return layer


def keep_weights_as_they_are(layer: bnb.nn.Linear4bit) -> None:
    """Stop a 4-bit layer from repacking its weights.

    On a CPU with AVX512-BF16, bitsandbytes 0.50 repacks the weights in place at the first
    forward pass in evaluation mode. A layer so changed passes no gradient on to its input,
    also after going back to training, and says nothing: training after an evaluation would
    stop below the first layer. It also loses the exact scales. The layer reads this
    attribute before it repacks.
    """
    layer.support_avx512bf16_for_cpu = False


def _int8(linear: nn.Linear) -> bnb.nn.Linear8bitLt:
    # threshold 0: no column is treated apart as an outlier, which would make a row's result
    # depend on the rows beside it
    layer = bnb.nn.Linear8bitLt(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        has_fp16_weights=False,
        threshold=0.0,
        device="meta",
    )
    layer.weight = bnb.nn.Int8Params(
        linear.weight.data, requires_grad=False, has_fp16_weights=False
    )
    return layer
