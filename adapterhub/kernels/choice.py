"""Which implementation adds the adapters' products on a device."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from adapterhub.kernels.lora_rows import ReferenceKernel

if TYPE_CHECKING:
    from adapterhub.kernels.lora_rows import LoraKernel

_LOG = logging.getLogger(__name__)


def choose_kernel(device: str) -> LoraKernel:
    """Return the fastest kernel for a type of device; the log says which, and why."""
    if device == "cpu":
        from adapterhub.kernels.lora_rows_cpu import CpuKernel

        _LOG.info("adapters are added by loops compiled for this CPU")
        return CpuKernel()
    _LOG.warning("there is no kernel for %s yet; adapters are added by plain torch", device)
    return ReferenceKernel()
