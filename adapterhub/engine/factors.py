"""From an artifact's tensors to what the engine's tables hold."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from adapterhub.engine.layers import dense_weight
from adapterhub.engine.slots import LoraFactors
from adapterhub.errors import EngineError, StrictLoadError
from adapterhub.peft_format import LORA_KEY
from adapterhub.specs import LoraSpec

_MAGNITUDE = "lora_magnitude_vector"

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from adapterhub.engine.layers import LoraSite
    from adapterhub.weights import AdapterWeights


def lora_scale(spec: LoraSpec) -> float:
    """Return ``s`` of ``y = W x + s B A x``; see ``LoraSpec``."""
    return spec.alpha / (math.sqrt(spec.rank) if spec.rslora else spec.rank)


def lora_factors(
    weights: AdapterWeights, sites: Mapping[str, LoraSite], prefix: str, *, name: str
) -> LoraFactors:
    """Return the matrices of a LoRA adapter by site, the scale folded into ``B``.

    Args:
        weights: as read from an artifact.
        sites: by module path below the body.
        prefix: what the body is called in transformers' class for the task, e.g. ``model``.
        name: of the adapter, for messages.

    Raises:
        EngineError: when it is of a kind that is not served.
        StrictLoadError: when a tensor has no place, or a pair is not complete.
    """
    spec = weights.spec
    if not isinstance(spec, LoraSpec):
        raise EngineError(f"{spec.method} has no low-rank factors", place=name)
    wanted = {"lora_A.weight", "lora_B.weight"} | ({_MAGNITUDE} if spec.dora else set())
    parts: dict[str, dict[str, Tensor]] = {}
    missing: list[str] = []
    unexpected: list[str] = []
    for key, tensor in weights.tensors.items():
        match = LORA_KEY.fullmatch(key)
        path = match["module"].removeprefix(f"{prefix}.") if match else ""
        if match is None or path not in sites:
            unexpected.append(key)
        else:
            parts.setdefault(path, {})[match["part"]] = tensor
    pairs: dict[int, tuple[Tensor, Tensor]] = {}
    gains: dict[int, Tensor] = {}
    for path, found in parts.items():
        site = sites[path]
        if found.keys() != wanted:
            missing += [f"{path}.{part}" for part in sorted(wanted - found.keys())]
            continue
        a, b = found["lora_A.weight"], found["lora_B.weight"]
        if (a.shape[1], b.shape[0]) != (site.in_features, site.out_features):
            unexpected.append(f"{path} of shape {list(a.shape)} and {list(b.shape)}")
            continue
        scaled = b.float() * lora_scale(spec)
        if spec.dora:
            gain = _gain(found[_MAGNITUDE], dense_weight(site.base), scaled @ a.float())
            gains[site.number] = gain
            scaled = scaled * gain.unsqueeze(1)
        # copies, because the tensors may lie in a file that is mapped into memory
        pairs[site.number] = (
            a.to(site.dtype, copy=True),
            scaled.t().to(site.dtype, memory_format=torch.contiguous_format, copy=True),
        )
    if missing or unexpected:
        raise StrictLoadError(name, missing, unexpected)
    return LoraFactors(spec.rank, pairs, gains)


def _gain(magnitude: Tensor, weight: Tensor, delta: Tensor) -> Tensor:
    """Return ``m / |W + s B A|`` by output; Liu et al. 2024 (arXiv:2402.09353), equation 5."""
    return magnitude.float() / torch.linalg.norm(weight + delta.to(weight.device), dim=1)


def prepared_size(weights: AdapterWeights, dtype: torch.dtype) -> int:
    """Return the bytes of an adapter once its tensors are in a compute type.

    DoRA's magnitudes become factors of the layer's output in float32.
    """
    return sum(
        tensor.numel() * (4 if key.endswith(_MAGNITUDE) else dtype.itemsize)
        for key, tensor in weights.tensors.items()
    )
