"""Check of a device's name and presence, without importing torch."""

from __future__ import annotations

import ctypes
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from adapterhub.errors import BackboneError, did_you_mean

_NAME = re.compile(r"cpu|mps|cuda(?::(0|[1-9][0-9]{0,3}))?")
#: What people write for a name of torch.
_SYNONYMS = {"gpu": "cuda", "nvidia": "cuda", "rocm": "cuda", "amd": "cuda", "metal": "mps"}
_NAMES = "Devices are cpu, cuda, cuda:1, …, and mps"
#: Present where AMD's driver is, whose GPUs torch calls cuda too.
_AMD_DRIVER = Path("/dev/kfd")


def check_device(name: str | None) -> str | None:
    """Return the name of a device that this machine seems to have; ``None`` is any.

    Raises:
        BackboneError: If the name is none of torch's, or its GPU or driver is missing.
    """
    if name is None:
        return None
    found = _NAME.fullmatch(name)
    if found is None:
        word = name.partition(":")[0].lower()
        near = _SYNONYMS.get(word) or word
        hint = did_you_mean(near, ("cpu", "cuda", "mps")) if near in ("cpu", "cuda", "mps") else ""
        raise BackboneError("is not a device", place=f"device {name!r:.40}", hint=hint or _NAMES)
    if name == "mps" and sys.platform != "darwin":
        _missing(name, "only a Mac has it")
    if name.startswith("cuda"):
        _check_gpu(name, int(found[1] or 0))
    return name


def _check_gpu(name: str, index: int) -> None:
    if _torch_version().endswith("+cpu"):
        _missing(name, "the installed torch computes on CPUs only")
    count = _num_nvidia_gpus()
    if count is None and not _AMD_DRIVER.exists():
        _missing(name, "this machine has no GPU driver")
    elif count is not None and index >= count:
        _missing(name, f"{count} GPUs are visible" if count else "no GPU is visible")


def _missing(name: str, problem: str) -> None:
    raise BackboneError(
        problem, place=f"device {name!r}", hint="Use --device cpu, or leave --device out"
    )


def _torch_version() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:
        return ""


def _num_nvidia_gpus() -> int | None:
    """Return the number of GPUs that CUDA's driver offers this process; ``None`` without one."""
    for library in ("libcuda.so.1", "nvcuda.dll"):
        try:
            driver = ctypes.CDLL(library)
        except OSError:
            continue
        count = ctypes.c_int(0)
        failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
        return 0 if failed else count.value
    return None
