"""Loading of a backbone: quantized, frozen and fingerprinted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from adapterhub.backbones.architecture import (
    backbone_kind,
    is_decoder,
    kind_of,
    no_progress_bars,
    read_preprocessor,
)
from adapterhub.backbones.catalog import CatalogEntry
from adapterhub.backbones.fingerprint import full_fingerprint, weights_fingerprint
from adapterhub.backbones.memory import memory_bytes, parameter_count, return_freed_memory
from adapterhub.backbones.quantize import default_compute_dtype, quantize_linears, torch_dtype
from adapterhub.backbones.sources import Source, fetch_backbone, locate
from adapterhub.errors import BackboneError
from adapterhub.specs import QuantizationSpec

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from adapterhub.backbones.catalog import BackboneKind
    from adapterhub.tasks.base import Preprocessor


@dataclass(frozen=True, slots=True, eq=False)
class Backbone:
    """A pretrained model without a task.

    Args:
        name: Name in the catalog, or as given.
        hub_id: ``owner/name`` on the Hub, if known.
        revision: Revision on the Hub, if known.
        license: License identifier of the Hub, if known.
        path: Folder that it was loaded from.
        kind: ``decoder``, ``encoder`` or ``vision``.
        quantization: Quantization of its linear layers.
        fingerprint: Digest of architecture, tokenizer and weights, with the quantization scheme.
        config: transformers' configuration.
        preprocessor: transformers' tokenizer or image processor.
        base_model: Frozen model up to its last hidden states.
        lm_head: Layer from hidden states to the vocabulary; ``None`` if it is not a decoder.
        device: Device of the weights.
        verdicts: Verdicts on its forward paths, once checked; see ``forward_paths``.
    """

    name: str
    hub_id: str | None
    revision: str | None
    license: str | None
    path: Path
    kind: BackboneKind
    quantization: QuantizationSpec
    fingerprint: str
    config: PretrainedConfig
    preprocessor: Preprocessor
    base_model: nn.Module
    lm_head: nn.Module | None
    device: torch.device
    verdicts: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """transformers' tokenizer.

        Raises:
            BackboneError: If it is a vision backbone.
        """
        if self.kind == "vision":
            raise BackboneError("is a vision model without a tokenizer", place=self.name)
        tokenizer: Any = self.preprocessor
        return tokenizer

    @property
    def parameters(self) -> int:
        """Number of parameters before quantization, shared ones counted once."""
        return parameter_count(self._modules())

    @property
    def memory_bytes(self) -> int:
        """Size of weights, scales and buffers in bytes, shared ones counted once."""
        return memory_bytes(self._modules())

    def _modules(self) -> list[nn.Module]:
        return [self.base_model] if self.lm_head is None else [self.base_model, self.lm_head]


def load_backbone(
    name: str,
    quantization: QuantizationSpec | None = None,
    *,
    revision: str | None = None,
    source: Source = "auto",
    device: str | torch.device | None = None,
    cache: Path | None = None,
) -> Backbone:
    """Load a backbone, quantized and frozen, and download it first if it is not cached.

    Args:
        name: Catalog name, Hub id or local folder.
        quantization: Scheme and compute type; nf4 in the device's best compute type if ``None``.
        revision: Revision of a Hub id.
        source: Where a catalog backbone is downloaded from.
        device: Device of the weights; the first GPU, or the CPU without one, if ``None``.
        cache: Root of the cache.

    Raises:
        BackboneError: If it can't be found, downloaded, checked or loaded.
    """
    target = choose_device(device)
    spec = quantization or QuantizationSpec("nf4", default_compute_dtype(target))
    located = locate(name)
    entry = located if isinstance(located, CatalogEntry) else None
    path = fetch_backbone(name, revision=revision, source=source, cache=cache)
    base_model, lm_head = _load_modules(path, spec, target)
    return Backbone(
        name=entry.name if entry else name,
        hub_id=(entry.hub_id or None) if entry else (located if isinstance(located, str) else None),
        revision=revision or ((entry.revision or None) if entry else None),
        license=entry.license if entry else None,
        path=path,
        kind=kind_of(base_model.config) if lm_head is None else "decoder",
        quantization=spec,
        fingerprint=full_fingerprint(weights_fingerprint(path, cache=cache), spec),
        config=base_model.config,
        preprocessor=read_preprocessor(path),
        base_model=base_model,
        lm_head=lm_head,
        device=target,
    )


def choose_device(device: str | torch.device | None) -> torch.device:
    """Return the requested device, or the best available one."""
    if device is not None:
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _load_modules(
    path: Path, spec: QuantizationSpec, device: torch.device
) -> tuple[Any, nn.Module | None]:
    """Load in the file's type, quantize, then convert the rest to the compute type.

    The file is memory-mapped, and each tensor is released as soon as it is quantized or converted,
    so there is never a second copy of the whole model.
    """
    model = _from_pretrained(path)
    decoder = is_decoder(model.config)
    base_model = model.base_model if decoder else model
    lm_head = model.get_output_embeddings() if decoder else None
    quantize_linears(base_model, spec, device)
    for module in (base_model, lm_head):
        if module is not None:
            _freeze(module, torch_dtype(spec.compute_dtype), device)
    del model
    return_freed_memory()
    return base_model, lm_head


def _from_pretrained(path: Path) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoModelForCausalLM

    kind = backbone_kind(path)
    auto = AutoModelForCausalLM if kind == "decoder" else AutoModel
    options: dict[str, Any] = {"dtype": "auto"}
    if kind != "vision":
        # vision transformers choose SDPA themselves, and convolutional models have no attention
        options["attn_implementation"] = "sdpa"
    options |= {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True}
    try:
        with no_progress_bars():
            model, report = auto.from_pretrained(path, **options)
            missing = sorted(report["missing_keys"])
            if missing and all(name.startswith("pooler.") for name in missing):
                # such a checkpoint would get another random pooler at every load
                options["add_pooling_layer"] = False
                model, report = auto.from_pretrained(path, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise BackboneError(f"can't be loaded: {error}", place=str(path)) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise BackboneError(
            f"{len(missing)} tensors of its architecture are missing, the first is {missing[0]!r}",
            place=str(path),
            hint="The weights are incomplete or belong to another config.json",
        )
    return model


def _freeze(module: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """Freeze a module on its device, with unquantized weights in the compute type."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            # a copy even if nothing changes, to release the mapped file
            parameter.data = parameter.data.to(device, dtype, copy=True)
    for layer in module.modules():
        scale = getattr(layer, "scalar_embed_scale", None)
        if scale is not None:
            # Gemma's, which transformers rounds to the type of the file
            layer.embed_scale = torch.tensor(scale, dtype=torch.float32)
    module.to(device).requires_grad_(False).eval()
