"""What a run took."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapterhub.workflows.run_report.blocks import Section, Table, Text

if TYPE_CHECKING:
    import torch

    from adapterhub.training.energy import Energy


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run took.

    Args:
        seconds: in training steps, without evaluations.
        steps: optimizer steps.
        tokens_per_second: in training steps.
        trained_share: trained parameters as a share of the backbone's.
        artifact_bytes: of all files of the artifact.
        peak_bytes: most memory that the process had at once; ``None`` where the system does
            not tell.
        device_bytes: most memory of a GPU; ``None`` on a CPU.
        energy: estimated, evaluations included; ``None`` where it was not.
    """

    seconds: float
    steps: int
    tokens_per_second: float
    trained_share: float
    artifact_bytes: int
    peak_bytes: int | None
    device_bytes: int | None
    energy: Energy | None = None


def peak_memory() -> int | None:
    """Return the most memory that this process had at once, in bytes."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes. Source: getrusage(2)
    return peak if sys.platform == "darwin" else peak * 1024


def device_memory(device: torch.device) -> int | None:
    """Return the most memory that tensors took on a GPU at once, in bytes."""
    if device.type != "cuda":
        return None
    import torch

    return int(torch.cuda.max_memory_allocated(device))


def cost_section(cost: Cost) -> Section:
    """Return the table of costs."""
    rows = [
        ("training", f"{cost.seconds:.0f} s in {cost.steps:,} steps"),
        ("speed", f"{cost.tokens_per_second:,.0f} tokens/s"),
        ("trained parameters", f"{cost.trained_share:.2%} of the backbone's"),
        ("artifact", f"{cost.artifact_bytes / 1e6:.2f} MB"),
    ]
    if cost.peak_bytes is not None:
        rows.append(("memory of the process, at most", f"{cost.peak_bytes / 1e6:,.0f} MB"))
    if cost.device_bytes is not None:
        rows.append(("memory on the GPU, at most", f"{cost.device_bytes / 1e6:,.0f} MB"))
    if cost.energy is not None:
        rows.append(("energy, estimated", f"{1000 * cost.energy.kwh:,.2f} Wh"))
    return Section("Cost", (Table(("", ">"), rows), Text(_on_energy(cost.energy))))


def _on_energy(energy: Energy | None) -> str:
    if energy is None:
        return (
            "The energy was not estimated; that needs codecarbon: pip install 'adapterhub[energy]'."
        )
    parts = (("CPU", energy.cpu_kwh), ("GPU", energy.gpu_kwh), ("memory", energy.ram_kwh))
    named = ", ".join(f"{name} {1000 * kwh:,.2f} Wh" for name, kwh in parts)
    return (
        f"The energy is what {energy.source} estimates for the whole machine while it trained and "
        f"evaluated, other programs included: {named}. Where the machine does not measure its "
        "power, the estimate goes by a model's name and its load, and may be off by a lot."
    )
