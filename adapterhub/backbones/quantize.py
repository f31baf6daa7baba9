"""Quantization of linear layers to 4 or 8 bits with bitsandbytes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import bitsandbytes as bnb
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from adapterhub.backbones.memory import return_freed_memory
from adapterhub.errors import BackboneError
from adapterhub.kernels.quantize_cpu import quantize_4bit

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import Tensor

    from adapterhub.specs import ComputeDtype, QuantizationSpec

#: Number of layers after which freed memory is returned to the operating system.
_LAYERS_PER_RETURN = 16


def torch_dtype(name: ComputeDtype) -> torch.dtype:
    """Return the torch type of a compute type."""
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[name]


def default_compute_dtype(device: torch.device) -> ComputeDtype:
    """Return bfloat16 if the device has native products in it, else float32."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        native = True
    return "bfloat16" if native else "float32"


def supported_compute_dtype(requested: ComputeDtype, device: torch.device) -> ComputeDtype:
    """Return the requested compute type, or float32 if the device has no native bfloat16."""
    return requested if default_compute_dtype(device) == "bfloat16" else "float32"


def quantize_linears(
    base_model: nn.Module,
    spec: QuantizationSpec,
    device: torch.device,
    *,
    skip: Collection[int] = (),
) -> None:
    """Quantize the linear layers of a base model in place.

    A base model has no head: heads, embeddings and norms are never quantized. Weights are quantized
    from their stored type, so that all machines have the same codes, whatever their compute type.

    Args:
        base_model: Model on the CPU in the type of its file.
        spec: Quantization scheme; ``none`` changes nothing.
        skip: Ids of linear layers that stay as they are.
    """
    if spec.scheme == "none":
        return
    linears = [
        (parent, name, child)
        for parent in base_model.modules()
        for name, child in parent.named_children()
        if id(child) not in skip and _is_linear(child)
    ]
    if not linears:
        raise BackboneError(
            f"has no linear layer to quantize to {spec.scheme}",
            place=type(base_model).__name__,
            hint="Set the quantization to none for this architecture",
        )
    # a layer may have several places
    quantized: dict[int, nn.Module] = {}
    places = Counter(id(child) for _, _, child in linears)
    while linears:
        parent, name, linear = linears.pop()
        layer = quantized.pop(id(linear), None) or _quantized(linear, spec, device)
        setattr(parent, name, layer)
        places[id(linear)] -= 1
        if places[id(linear)]:
            quantized[id(linear)] = layer
        del linear  # releases its weights before the next layer is quantized
        if len(linears) % _LAYERS_PER_RETURN == 0:
            return_freed_memory()


def _is_linear(layer: nn.Module) -> bool:
    """Return whether a layer computes what ``nn.Linear`` does; subclasses may do something else."""
    if type(layer) in (nn.Linear, Conv1D):
        return True
    if not isinstance(layer, nn.Linear) or isinstance(
        layer, bnb.nn.Linear4bit | bnb.nn.Linear8bitLt
    ):
        return False
    x = torch.linspace(-1, 1, layer.in_features, dtype=layer.weight.dtype).unsqueeze(0)
    with torch.no_grad():
        try:
            y = layer(x)
        except Exception:  # noqa: BLE001 - a class may want other inputs
            return False
        expected = nn.functional.linear(x, layer.weight, layer.bias)
    return isinstance(y, torch.Tensor) and bool(torch.allclose(y, expected, rtol=1e-2, atol=1e-4))


def _quantized(linear: Any, spec: QuantizationSpec, device: torch.device) -> nn.Module:
    # GPT-2's layers store the transposed weight
    weight = linear.weight.data.t().contiguous() if type(linear) is Conv1D else linear.weight.data
    make = _int8 if spec.scheme == "int8" else _four_bit
    layer = make(weight, linear.bias is not None, spec, device)
    layer.bias = linear.bias
    layer.to(device)
    if isinstance(layer, bnb.nn.Linear4bit):
        # type of dequantized weights; bitsandbytes uses that of the stored weights
        layer.weight.quant_state.dtype = torch_dtype(spec.compute_dtype)
    return layer


def _four_bit(
    weight: Tensor, bias: bool, spec: QuantizationSpec, device: torch.device
) -> bnb.nn.Linear4bit:
    layer = bnb.nn.Linear4bit(
        weight.shape[1],
        weight.shape[0],
        bias=bias,
        compute_dtype=torch_dtype(spec.compute_dtype),
        compress_statistics=False,
        quant_type=spec.scheme,
        device="meta",
    )
    layer.weight = bnb.nn.Params4bit(
        weight,
        requires_grad=False,
        compress_statistics=False,
        quant_type=spec.scheme,
        module=layer,
    )
    if device.type == "cpu":
        _quantize_on_cpu(layer)
    disable_weight_repacking(layer)
    return layer


def _quantize_on_cpu(layer: bnb.nn.Linear4bit) -> None:
    """Quantize the weight of a layer, which bitsandbytes does on its move to the device, slower."""
    weight = layer.weight
    values = bnb.functional.get_4bit_type(weight.quant_type, device="cpu")
    found = quantize_4bit(weight.data, values, weight.blocksize)
    if found is None:
        return
    shape, dtype = weight.data.shape, weight.data.dtype
    weight.data, scales = found
    weight.quant_state = layer.quant_state = bnb.functional.QuantState(
        absmax=scales,
        shape=shape,
        dtype=dtype,
        blocksize=weight.blocksize,
        code=values,
        quant_type=weight.quant_type,
    )
    weight.bnb_quantized = True


def disable_weight_repacking(layer: bnb.nn.Linear4bit) -> None:
    """Prevent a 4-bit layer from repacking its weights.

    On CPUs with AVX512-BF16, bitsandbytes 0.50 repacks the weights in place at the first forward
    pass in evaluation mode. A repacked layer silently passes no gradient to its input, even back
    in training mode: training after an evaluation would not reach below the first layer. It also
    loses the exact scales. The layer reads this attribute before it repacks.
    """
    layer.support_avx512bf16_for_cpu = False


class Int8Linear(bnb.nn.Linear8bitLt):
    """An 8-bit layer that keeps its scales when its weight is replaced by a copy.

    When peft reads a layer's weight on a CPU, as for DoRA, it puts a copy of the weight back. The
    copy has no scales, which moved to the layer's state at the first forward pass; bitsandbytes
    0.50 then overwrites the state's scales with ``None``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``.

        bitsandbytes 0.50 fails on CPUs for four dimensions, as in convolutional backbones.
        """
        if x.dim() <= 3:
            return super().forward(x)
        y = super().forward(x.reshape(-1, x.shape[-1]))
        return y.view(*x.shape[:-1], -1)

    def init_8bit_state(self) -> None:
        """Move codes, and scales if there are any, from the weight to the state."""
        scales = self.state.SCB if self.weight.SCB is None else self.weight.SCB
        super().init_8bit_state()
        self.state.SCB = scales


def _int8(weight: Tensor, bias: bool, _: QuantizationSpec, __: torch.device) -> Int8Linear:
    # threshold 0: no column is treated as an outlier, which would make the result of a token depend
    # on the other tokens of the batch
    layer = Int8Linear(
        weight.shape[1],
        weight.shape[0],
        bias=bias,
        has_fp16_weights=False,
        threshold=0.0,
        device="meta",
    )
    layer.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    return layer
