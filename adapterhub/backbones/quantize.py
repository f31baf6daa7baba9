"""Hold a body's linear layers in 4 or 8 bits, by bitsandbytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import bitsandbytes as bnb
import torch
from torch import nn

from adapterhub.backbones.freed_memory import return_freed_memory
from adapterhub.errors import BackboneError

if TYPE_CHECKING:
    from torch import Tensor

    from adapterhub.specs import ComputeDtype, QuantizationSpec

#: How many layers are quantized before freed memory is handed back.
LAYERS_BETWEEN_RETURNS = 16

_TORCH_TYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def torch_dtype(name: ComputeDtype) -> torch.dtype:
    """Return torch's type of that name."""
    return _TORCH_TYPES[name]


def default_compute_dtype(device: torch.device) -> ComputeDtype:
    """Return bfloat16 where the device multiplies in it, else float32."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        native = True
    return "bfloat16" if native else "float32"


def usable_compute_dtype(wanted: ComputeDtype, device: torch.device) -> ComputeDtype:
    """Return the compute type asked for, or float32 where the device has no bfloat16."""
    return wanted if default_compute_dtype(device) == "bfloat16" else "float32"


def quantize_linears(body: nn.Module, spec: QuantizationSpec, device: torch.device) -> None:
    """Replace every linear layer of ``body``, one after the other.

    The body holds no head: heads, embeddings and norms are never quantized. The weights are
    quantized from the type that they were stored in, so that every machine holds the same
    codes, whatever its compute type.

    Args:
        body: on the CPU in the type of its file; changed in place.
        spec: the scheme; ``none`` changes nothing.
        device: where the quantized layers end up.

    Raises:
        BackboneError: when there is no linear layer to quantize.
    """
    if spec.scheme == "none":
        return
    linears = [
        (parent, name, child)
        for parent in body.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
    ]
    if not linears:
        raise BackboneError(
            f"has no linear layer that {spec.scheme} can hold",
            place=type(body).__name__,
            hint="Set the quantization to none for this architecture",
        )
    while linears:
        parent, name, linear = linears.pop()
        setattr(parent, name, _quantized(linear, spec, device))
        del linear  # lets go of its weights before those of the next layer are quantized
        if len(linears) % LAYERS_BETWEEN_RETURNS == 0:
            return_freed_memory()


def _quantized(linear: nn.Linear, spec: QuantizationSpec, device: torch.device) -> nn.Module:
    layer = _int8(linear) if spec.scheme == "int8" else _four_bit(linear, spec)
    layer.bias = linear.bias
    layer.to(device)
    if isinstance(layer, bnb.nn.Linear4bit):
        # what dequantizing gives; bitsandbytes takes the type of the stored weights
        layer.weight.quant_state.dtype = torch_dtype(spec.compute_dtype)
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


class Int8Linear(bnb.nn.Linear8bitLt):
    """A layer in 8 bits that keeps its scales when its weight is replaced by a copy.

    Where peft reads a layer's weight on a CPU, as for DoRA, it puts a copy of the weight back.
    The copy has lost the scales, which went to the layer's state at the first forward pass;
    bitsandbytes 0.50 then overwrites the state's with nothing.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``.

        bitsandbytes 0.50 fails on CPUs where there are four dimensions, as a convolutional
        backbone has them.
        """
        if x.dim() <= 3:
            return super().forward(x)
        y = super().forward(x.reshape(-1, x.shape[-1]))
        return y.view(*x.shape[:-1], -1)

    def init_8bit_state(self) -> None:
        """Move codes and scales from the weight to the state, those that there are."""
        scales = self.state.SCB if self.weight.SCB is None else self.weight.SCB
        super().init_8bit_state()
        self.state.SCB = scales


def _int8(linear: nn.Linear) -> Int8Linear:
    # threshold 0: no column is treated apart as an outlier, which would make a row's result
    # depend on the rows beside it
    layer = Int8Linear(
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
