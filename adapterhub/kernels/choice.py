"""Choice of the kernels for a device: ``cpu``, ``triton`` or ``reference``."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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


def has_triton(device: str) -> bool:
    """Return whether Triton kernels run on a device type."""
    return device == "cuda" and find_spec("triton") is not None
