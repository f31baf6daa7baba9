"""Random adapters, subprocesses, memory readings and percentiles shared by the benchmarks."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.adapters.artifact import write_artifact
from adapterhub.adapters.manifest import BackboneRef, Manifest, Metrics
from adapterhub.adapters.peft_format import config_document, peft_config
from adapterhub.adapters.weights import AdapterWeights
from adapterhub.specs import LoraSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.registry import Registry
    from adapterhub.registry.version import Version

RANK = 16
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MEGABYTE = 1e6


def random_adapter(
    backbone: Backbone,
    seed: int,
    *,
    targets: tuple[str, ...] = LINEARS,
    dtype: torch.dtype | None = None,
) -> AdapterWeights:
    """Return a LoRA adapter of rank 16 with random values, on the target modules of a decoder."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for path, module in backbone.base_model.named_modules():
        if path.rpartition(".")[2] in targets:
            key = f"base_model.model.model.{path}"
            a = torch.randn(RANK, module.in_features, generator=generator) * 0.02
            b = torch.randn(module.out_features, RANK, generator=generator) * 0.02
            tensors[f"{key}.lora_A.weight"] = a.to(dtype)
            tensors[f"{key}.lora_B.weight"] = b.to(dtype)
    spec = LoraSpec(rank=RANK, alpha=float(RANK), target_modules=targets)
    return AdapterWeights(spec, tensors)


def register(registry: Registry, backbone: Backbone, name: str, weights: AdapterWeights) -> Version:
    """Add weights to a registry as a dialogue adapter, without a trained run behind them."""
    config = peft_config(
        weights.spec,
        task_type="CAUSAL_LM",
        target_modules=weights.spec.target_modules,
        base_model=backbone.name,
        modules_to_save=None,
        revision=None,
    )
    task = {"name": "dialogue", "max_length": 512, "max_new_tokens": 64, "system_prompt": ""}
    manifest = Manifest(
        task="dialogue",
        labels=(),
        backbone=BackboneRef(name=backbone.name, fingerprint=backbone.fingerprint),
        quantization=backbone.quantization,
        adapter=weights.spec,
        trained_parameters=weights.num_parameters,
        backbone_parameters=backbone.parameters,
        recipe={"task": task, "backbone": {"name": backbone.name, "revision": None}},
        data={},
        metrics=Metrics(),
        seed=0,
        libraries={},
    )
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "artifact"
        write_artifact(
            folder,
            tensors=weights.tensors,
            adapter_config=config_document(config),
            manifest=manifest,
            card="# Random values\n",
        )
        return registry.put(folder, name)


def run_script(script: str, *arguments: str) -> dict[str, Any]:
    """Run a benchmark in a process of its own and return the JSON of its last line.

    Raises:
        SystemExit: If the process fails, with the end of its standard error.
    """
    command = [sys.executable, script, *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{result.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    return found


@dataclass(frozen=True)
class Memory:
    """Resident memory of this process, in megabytes.

    Args:
        total: All resident pages.
        anonymous: Pages that belong to no file, so they cannot be dropped.
    """

    total: float
    anonymous: float

    @property
    def mapped_files(self) -> float:
        """Resident pages of mapped files."""
        return self.total - self.anonymous


def resident_memory() -> Memory:
    """Return the resident memory of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    total, anonymous = (
        int(fields[name].split()[0]) * 1024 / MEGABYTE for name in ("Rss", "Anonymous")
    )
    return Memory(total, anonymous)


def percentile_99(values: Sequence[float]) -> float:
    """Return the 99th percentile; the largest of up to 100 values."""
    return sorted(values)[int(0.99 * len(values))]
