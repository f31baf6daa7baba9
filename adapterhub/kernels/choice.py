"""Choice of the kernels for a device: ``cpu``, ``triton`` or ``reference``."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bitsandbytes.nn import Linear4bit
    from torch import nn

    from adapterhub.kernels.attention.paged import PagedAttention
    from adapterhub.kernels.lora.plan import LoraKernel

_LOG = logging.getLogger(__name__)


def choose_lora_kernel(device: str) -> LoraKernel:
    """Return the fastest LoRA kernel for a device type and log the choice of kernels once."""
    if device == "cpu":
        from adapterhub.kernels.lora.cpu import CpuLoraKernel

        _LOG.info("kernels: cpu (numba), because the device is cpu")
        return CpuLoraKernel()
    if has_triton(device):
        from adapterhub.kernels.lora.triton import TritonLoraKernel

        _LOG.info("kernels: triton, because the device is %s", device)
        return TritonLoraKernel()
    from adapterhub.kernels.lora.reference import ReferenceLoraKernel

    why = "triton is not installed" if device == "cuda" else f"there are none for {device}"
    _LOG.warning("kernels: reference (plain torch), which is slow, because %s", why)
    return ReferenceLoraKernel()


def choose_paged_attention(device: str) -> PagedAttention:
    """Return the fastest attention kernel for single tokens on a device type."""
    if device == "cpu":
        from adapterhub.kernels.attention.cpu import attend_pages
    elif has_triton(device):
        from adapterhub.kernels.attention.triton import attend_pages
    else:
        from adapterhub.kernels.attention.reference import attend_pages
    return attend_pages


def choose_linears(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """Return the fastest equivalent of each linear layer, which may be the layer itself.

    A warning reports 4-bit layers on a GPU that Triton does not compute.
    """
    from bitsandbytes.nn import Linear4bit

    chosen = [_fastest_linear(layer) for layer in layers]
    unfused = sum(isinstance(each, Linear4bit) and _on_triton(each) for each in chosen)
    if unfused:
        _LOG.warning(
            "%d of %d layers use bitsandbytes' own 4-bit product, because their scales are "
            "quantized or their width is no multiple of the block size",
            unfused,
            len(chosen),
        )
    return chosen


def choose_output_layer(layer: nn.Module) -> nn.Module:
    """Return the fastest equivalent of an output layer, whose weight other modules may share."""
    from adapterhub.kernels.linear.avx512 import AmxRows
    from adapterhub.kernels.linear.cpu import OneDnnLinear

    if AmxRows.supports(layer):
        return AmxRows(layer)
    return OneDnnLinear(layer, keep=True) if OneDnnLinear.supports(layer) else layer


def _fastest_linear(layer: nn.Module) -> nn.Module:
    from bitsandbytes.nn import Linear4bit

    if isinstance(layer, Linear4bit) and _on_triton(layer):
        from adapterhub.kernels.linear.triton import TritonLinear4bit

        return TritonLinear4bit(layer) if TritonLinear4bit.supports(layer) else layer
    from adapterhub.kernels.linear.avx512 import Avx512Linear, Avx512Linear4bit
    from adapterhub.kernels.linear.cpu import CpuLinear4bit, OneDnnLinear

    kinds = (Avx512Linear, OneDnnLinear, Avx512Linear4bit, CpuLinear4bit)
    return next((kind(layer) for kind in kinds if kind.supports(layer)), layer)


def _on_triton(layer: Linear4bit) -> bool:
    return has_triton(layer.weight.device.type)


def has_triton(device: str) -> bool:
    """Return whether Triton kernels run on a device type."""
    return device == "cuda" and find_spec("triton") is not None
