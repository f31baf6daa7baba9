"""LoRA tensors as factors by module, and back to peft's keys."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from adapterhub.adapters.peft_format import ALL_LINEAR, LORA_KEY
from adapterhub.errors import RecipeError
from adapterhub.specs import LoraSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

    from adapterhub.adapters.weights import AdapterWeights


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """What one adapter adds to one linear layer: ``y = W x + scale * B A x``.

    Args:
        down: ``A``, ``[rank, in]``, float32.
        up: ``B``, ``[out, rank]``, float32.
        scale: of the product.
    """

    # [rank, in]
    down: Tensor
    # [out, rank]
    up: Tensor
    scale: float = 1.0

    def delta(self) -> Tensor:
        """Return ``scale * B A``, ``[out, in]``."""
        return self.up @ self.down * self.scale


def scale_of(spec: LoraSpec) -> float:
    """Return ``alpha / rank``, or ``alpha / sqrt(rank)`` for a rank-stabilised adapter."""
    return spec.alpha / (math.sqrt(spec.rank) if spec.rslora else spec.rank)


def factors_of(adapter: AdapterWeights, spec: LoraSpec) -> dict[str, Factors]:
    """Return the factors of every module that an adapter changes, in float32.

    Raises:
        RecipeError: when it adapts an embedding.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in adapter.tensors.items():
        if match := LORA_KEY.fullmatch(key):
            if match["part"].startswith("lora_embedding"):
                raise RecipeError(
                    "LoRA on embeddings can't be composed",
                    place=match["module"],
                    hint="The engine blends such adapters while it runs",
                )
            parts.setdefault(match["module"], {})[match["part"]] = tensor.detach().float()
    scale = scale_of(spec)
    return {
        module: Factors(found["lora_A.weight"], found["lora_B.weight"], scale)
        for module, found in sorted(parts.items())
    }


def tensors_of(modules: Mapping[str, tuple[Tensor, Tensor]], rank: int) -> dict[str, Tensor]:
    """Return factors under peft's keys.

    Args:
        modules: module to ``A``, ``[r, in]``, and ``B``, ``[out, r]``, with ``r`` up to ``rank``.
        rank: of the adapter; smaller factors get rows and columns of zeros, which add nothing.
    """
    tensors: dict[str, Tensor] = {}
    for module, (down, up) in modules.items():
        missing = rank - down.shape[0]
        prefix = f"base_model.model.{module}"
        tensors[f"{prefix}.lora_A.weight"] = torch.nn.functional.pad(down, (0, 0, 0, missing))
        tensors[f"{prefix}.lora_B.weight"] = torch.nn.functional.pad(up, (0, missing))
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


def joined_spec(specs: Sequence[LoraSpec], modules: Iterable[str], rank: int) -> LoraSpec:
    """Return the spec of an adapter whose scales are folded into its factors.

    Args:
        specs: of the adapters that it was made from.
        modules: that it changes.
        rank: of its factors.
    """
    named = {spec.target_modules for spec in specs}
    if len(named) == 1:
        (targets,) = named
    elif any(ALL_LINEAR in each for each in named):
        # what one adapter means by it may be less than all modules of the others
        targets = tuple(sorted(modules))
    else:
        targets = tuple(sorted({target for each in named for target in each}))
    return LoraSpec(rank=rank, alpha=float(rank), target_modules=targets)
