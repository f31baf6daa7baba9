"""Report section on time, memory and energy of a run."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapterhub.workflows.run_report.blocks import Section, Table, Text

if TYPE_CHECKING:
    import torch

    from adapterhub.training.energy import Energy
    from adapterhub.training.result import TrainResult


@dataclass(frozen=True, slots=True)
class Cost:
    """Resources that a run used; ``None`` where they are unknown."""

    seconds: float
    steps: int
    tokens_per_second: float
    trained_share: float
    artifact_bytes: int
    peak_bytes: int | None
    device_bytes: int | None
    energy: Energy | None = None


def cost_of(result: TrainResult, device: torch.device) -> Cost:
    """Return the resources that a run in this process used."""
    return Cost(
        seconds=result.seconds,
        steps=result.steps,
        tokens_per_second=result.tokens_per_second,
        trained_share=result.trained_share,
        artifact_bytes=result.artifact_bytes,
        peak_bytes=_peak_memory(),
        device_bytes=_device_memory(device),
        energy=result.evidence.energy if result.evidence else None,
    )


def cost_section(cost: Cost) -> Section:
    """Return the table of costs."""
    rows = [
        ("training", f"{cost.seconds:.0f} s in {cost.steps:,} steps"),
        ("speed", f"{cost.tokens_per_second:,.0f} tokens/s"),
        ("trained parameters", f"{cost.trained_share:.2%} of the backbone's"),
        ("artifact", f"{cost.artifact_bytes / 1e6:.2f} MB"),
    ]
    if cost.peak_bytes is not None:
        rows.append(("peak memory of the process", f"{cost.peak_bytes / 1e6:,.0f} MB"))
    if cost.device_bytes is not None:
        rows.append(("peak GPU memory", f"{cost.device_bytes / 1e6:,.0f} MB"))
    if cost.energy is not None:
        rows.append(("energy, estimated", f"{1000 * cost.energy.kwh:,.2f} Wh"))
    return Section("Cost", (Table(("", ">"), rows), Text(_energy_note(cost.energy))))


def _peak_memory() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes. Source: getrusage(2)
    return peak if sys.platform == "darwin" else peak * 1024


def _device_memory(device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    import torch

    return int(torch.cuda.max_memory_allocated(device))


def _energy_note(energy: Energy | None) -> str:
    if energy is None:
        return "Energy was not estimated; install codecarbon: pip install 'adapterhub[energy]'."
    parts = (("CPU", energy.cpu_kwh), ("GPU", energy.gpu_kwh), ("memory", energy.ram_kwh))
    named = ", ".join(f"{name} {1000 * kwh:,.2f} Wh" for name, kwh in parts)
    return (
        f"Energy is estimated by {energy.source} for the whole machine during training and "
        f"evaluation, other programs included: {named}. On a machine without power sensors the "
        "estimate is based on the hardware model and its load, and can be far off."
    )
