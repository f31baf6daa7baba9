"""Which implementation computes on a device: the plain one, the CPU's or Triton's."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING

from adapterhub.kernels.lora_rows import ReferenceKernel

if TYPE_CHECKING:
    from adapterhub.kernels.lora_rows import LoraKernel
    from adapterhub.kernels.paged_attention import PagedAttention

_LOG = logging.getLogger(__name__)


def choose_kernel(device: str) -> LoraKernel:
    """Return the fastest kernel for a type of device; the log says which, and why."""
    if device == "cpu":
        from adapterhub.kernels.lora_rows_cpu import CpuKernel

        _LOG.info("adapters are added by loops compiled for this CPU")
        return CpuKernel()
    if has_triton(device):
        from adapterhub.kernels.triton.lora_rows import TritonKernel

        _LOG.info("adapters are added by Triton's programs, because the device is %s", device)
        return TritonKernel()
    why = "triton is not installed" if device == "cuda" else f"there is no kernel for {device}"
    _LOG.warning("adapters are added by plain torch, which is slow, because %s", why)
    return ReferenceKernel()


def choose_attention(device: str) -> PagedAttention | None:
    """Return what lets single tokens on a device see a paged cache; on CPUs that is another."""
    if not has_triton(device):
        return None
    from adapterhub.kernels.triton.attention import attend_pages

    return attend_pages


def has_triton(device: str) -> bool:
    """Return whether Triton's programs run on a type of device here."""
    return device == "cuda" and find_spec("triton") is not None
