"""Checks of an adapter before vLLM loads it: what vLLM cannot serve is refused with a reason.

vLLM reads peft's files and ignores what it does not know, so a head or a prefix would be dropped.
Source: ``vllm/lora/peft_helper.py`` of vLLM 0.32.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterhub.adapters.manifest import MANIFEST_NAME, Manifest
from adapterhub.adapters.peft_format import CONFIG_NAME, modules_to_save, spec_of
from adapterhub.adapters.strict_json import read_object
from adapterhub.errors import ArtifactError, BackboneError, FingerprintMismatch
from adapterhub.specs import LoraSpec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_LOG = logging.getLogger(__name__)
_ELSEWHERE = "Serve it with adapterhub serve"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What a running vLLM serves.

    Args:
        name: Hub id or folder of the base model, as given to vLLM.
        is_hub_id: Whether the name is an id on the Hub.
        weights: Fingerprint of the base model without a quantization; ``None`` if unknown.
        max_lora_rank: Largest rank that vLLM allows; ``None`` if LoRA is not enabled.
    """

    name: str
    is_hub_id: bool
    weights: str | None
    max_lora_rank: int | None


def check_servable(folder: Path, served: ServedModel, ref: str) -> None:
    """Check that vLLM can serve an adapter on the model that it has loaded.

    Args:
        folder: Verified artifact folder.
        served: What vLLM serves.
        ref: Reference of the adapter, for messages.

    Raises:
        ArtifactError: When it is of a kind that vLLM does not serve.
        BackboneError: When it was trained on another base model.
        FingerprintMismatch: When the base model has other weights.
    """
    manifest = Manifest.from_json((folder / MANIFEST_NAME).read_bytes())
    config = read_object(folder / CONFIG_NAME)
    _check_kind(manifest, config, ref)
    _check_rank(manifest, served, ref)
    _check_base(manifest, served, ref)


def _check_kind(manifest: Manifest, config: Mapping[str, Any], ref: str) -> None:
    method = manifest.adapter.method
    spec = spec_of(config)
    if not isinstance(spec, LoraSpec):
        raise ArtifactError(
            f"is a {method} adapter, and vLLM serves LoRA alone", place=ref, hint=_ELSEWHERE
        )
    if manifest.labels or modules_to_save(config):
        raise ArtifactError(
            f"has a head for {manifest.task}, and vLLM would generate text without it",
            place=ref,
            hint=_ELSEWHERE,
        )
    used = [name for name, present in _unsupported(spec).items() if present]
    if used:
        raise ArtifactError(
            f"uses {' and '.join(used)}, which vLLM does not support", place=ref, hint=_ELSEWHERE
        )


def _unsupported(spec: LoraSpec) -> dict[str, bool]:
    """Return each feature that vLLM does not support, and whether an adapter uses it."""
    return {
        "DoRA": spec.dora,
        "biases": spec.bias != "none" or spec.lora_bias,
        "trained tokens": bool(spec.trainable_token_indices),
        "an activation sequence": bool(spec.alora_invocation_tokens),
    }


def _check_rank(manifest: Manifest, served: ServedModel, ref: str) -> None:
    rank = manifest.adapter.size
    if served.max_lora_rank is None:
        raise ArtifactError(
            "is an adapter, and vLLM was started without LoRA",
            place=ref,
            hint="Start it with --enable-lora",
        )
    if rank > served.max_lora_rank:
        raise ArtifactError(
            f"has rank {rank}, and vLLM allows {served.max_lora_rank}",
            place=ref,
            hint=f"Start vLLM with --max-lora-rank {_allowed_rank(rank)}",
        )


def _allowed_rank(rank: int) -> int:
    """Return the smallest value of ``--max-lora-rank`` for a rank, or the rank itself."""
    # source: MaxLoRARanks in vllm/config/lora.py
    allowed = (1, 8, 16, 32, 64, 128, 256, 320, 512)
    return next((each for each in allowed if each >= rank), rank)


def _check_base(manifest: Manifest, served: ServedModel, ref: str) -> None:
    backbone = manifest.backbone
    weights, _, scheme = backbone.fingerprint.partition("+")
    if served.weights is not None:
        if weights != served.weights:
            raise FingerprintMismatch(ref, weights, served.weights)
    elif served.is_hub_id and backbone.hub_id is not None:
        if backbone.hub_id.lower() != served.name.lower():
            raise BackboneError(
                f"was trained on {backbone.hub_id}, and vLLM serves {served.name}",
                place=ref,
                hint="Send the request to a server of that model",
            )
    else:
        _LOG.warning("%s: its base model cannot be compared with %s", ref, served.name)
    if scheme not in ("", "none"):
        _LOG.warning(
            "%s was trained on weights quantized as %s, whose rounding vLLM's do not have",
            ref,
            scheme,
        )
