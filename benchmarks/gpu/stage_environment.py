"""The machine: driver, card, versions, and the two rates that bound everything else."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch
from stage import StageOptions, seconds_of, stage_options

PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "peft",
    "bitsandbytes",
    "accelerate",
    "huggingface-hub",
    "safetensors",
    "numba",
    "numpy",
)


def main() -> None:
    """Record the versions and the measured rates."""
    options = stage_options()
    options.record("software", python=platform.python_version(), **versions())
    if options.device.type == "cuda":
        options.record("card", **card(options.device))
    measure_copies(options)
    measure_products(options)


def versions() -> dict[str, str | None]:
    """Return the version of each package, ``None`` where it is missing."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def card(device: torch.device) -> dict[str, object]:
    """Return the name, the size and the driver of a GPU."""
    properties = torch.cuda.get_device_properties(device)
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        driver = ""
    return {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        "driver": driver,
    }


def measure_copies(options: StageOptions) -> None:
    """Record bytes read and written a second within the device, and bytes a second to it."""
    count = 2**22 if options.tiny else 2**31
    source = torch.randint(0, 127, (count,), dtype=torch.int8, device=options.device)
    target = torch.empty_like(source)
    duration = seconds_of(lambda: target.copy_(source), options.device)
    options.record("copy within the device", bytes_per_second=2 * count / duration)
    pinned = torch.empty(count // 8, dtype=torch.int8, pin_memory=options.device.type == "cuda")
    part = target[: pinned.numel()]
    duration = seconds_of(lambda: part.copy_(pinned, non_blocking=True), options.device)
    options.record("copy to the device", bytes_per_second=pinned.numel() / duration)


def measure_products(options: StageOptions) -> None:
    """Record the rate of a large product of random bfloat16 matrices."""
    size = 256 if options.tiny else 8192
    shape = (size, size)
    a, b = (torch.randn(shape, device=options.device, dtype=torch.bfloat16) for _ in range(2))
    duration = seconds_of(lambda: a @ b, options.device, calls=10)
    options.record("bfloat16 product", flops_per_second=2 * size**3 / duration)


if __name__ == "__main__":
    main()
