"""Loading of a backbone: quantized, frozen and fingerprinted."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from adapterhub.backbones.architecture import read_preprocessor, reason_of
from adapterhub.backbones.catalog import CatalogEntry
from adapterhub.backbones.compute_types import (
    ComputeTypes,
    convert_tensors,
    failure_of,
    set_config_type,
    template_of,
)
from adapterhub.backbones.device import check_device
from adapterhub.backbones.direct_reads import directly_read
from adapterhub.backbones.fingerprint import full_fingerprint, weights_fingerprint
from adapterhub.backbones.loading import load_model
from adapterhub.backbones.local_folders import is_fingerprint, remember_folder
from adapterhub.backbones.memory import memory_bytes, parameter_count, return_freed_memory
from adapterhub.backbones.quantize import default_compute_dtype, quantize_linears, torch_dtype
from adapterhub.backbones.sources import Source, fetch_backbone, locate
from adapterhub.errors import BackboneError
from adapterhub.specs import QuantizationSpec
from adapterhub.tasks.base import MEDIA_KINDS
from adapterhub.tasks.preprocessors import SpeechProcessor
from adapterhub.tasks.table import reads

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from adapterhub.backbones.catalog import BackboneKind
    from adapterhub.backbones.loading import LoadedModel
    from adapterhub.tasks.base import Preprocessor

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Backbone:
    """A pretrained model without a task.

    Args:
        name: Name in the catalog, or as given.
        hub_id: ``owner/name`` on the Hub, if known.
        revision: Revision on the Hub, if known.
        license: License identifier of the Hub, if known.
        path: Folder that it was loaded from.
        kind: ``decoder``, ``encoder``, ``encoder-decoder``, ``vision`` or ``audio``.
        quantization: Quantization of its linear layers.
        fingerprint: Digest of architecture, tokenizer and weights, with the quantization scheme.
        config: transformers' configuration.
        preprocessor: transformers' tokenizer, image processor or feature extractor; feature
            extractor and tokenizer of a model that writes transcripts.
        base_model: Frozen model up to its last hidden states.
        lm_head: Layer from hidden states to the vocabulary; ``None`` if it generates no text.
        device: Device of the weights.
        attn_implementation: Attention that transformers picked for the base model.
        missing: Paths of modules of the base model that its file has no weights for, such as a
            pooler. Its hidden states do not depend on them.
        output_buffers: Buffers beside the output layer of an encoder-decoder by name, such as the
            bias of Marian's logits.
        is_local: Whether it is a folder of this machine, which has no name elsewhere.
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
    attn_implementation: str
    missing: tuple[str, ...] = ()
    output_buffers: Mapping[str, torch.Tensor] = field(default_factory=dict)
    is_local: bool = False
    verdicts: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """transformers' tokenizer.

        Raises:
            BackboneError: If it reads no texts.
        """
        if isinstance(self.preprocessor, SpeechProcessor):
            return self.preprocessor.tokenizer
        if self.kind in MEDIA_KINDS:
            raise BackboneError(f"reads {reads(self.kind)} and has no tokenizer", place=self.name)
        tokenizer: Any = self.preprocessor
        return tokenizer

    @property
    def transcribes(self) -> bool:
        """Whether it is an encoder-decoder that reads recordings and writes transcripts."""
        return self.kind == "audio" and self.lm_head is not None

    @property
    def classified_model(self) -> nn.Module:
        """Part of the base model that classes with a new head read: the encoder of a Whisper."""
        return self.base_model.get_submodule("encoder") if self.transcribes else self.base_model

    @property
    def token_embedding(self) -> nn.Module | None:
        """Embedding of tokens; ``None`` where several make up one, as of characters' hashes."""
        base_model: Any = self.base_model
        try:
            found: nn.Module | None = base_model.get_input_embeddings()
        except NotImplementedError:
            # an encoder-decoder's decoder that stands alone is inside a wrapper
            decoder = getattr(base_model, "decoder", None)
            return None if decoder is None else decoder.get_input_embeddings()
        return found

    @property
    def public_name(self) -> str:
        """Name that also identifies it elsewhere: the fingerprint of a local folder."""
        return self.fingerprint if self.is_local else self.name

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
    loaded, spec = _load_prepared(path, spec, target)
    weights = weights_fingerprint(path, cache=cache)
    if isinstance(located, Path):
        remember_folder(weights, path)
    return Backbone(
        name=entry.name if entry else (str(path) if is_fingerprint(name) else name),
        hub_id=(entry.hub_id or None) if entry else (located if isinstance(located, str) else None),
        revision=revision or ((entry.revision or None) if entry else None),
        license=entry.license if entry else None,
        path=path,
        kind=loaded.kind,
        quantization=spec,
        fingerprint=full_fingerprint(weights, spec),
        config=loaded.config,
        preprocessor=read_preprocessor(path),
        base_model=loaded.base_model,
        lm_head=loaded.lm_head,
        device=target,
        attn_implementation=loaded.base_model.config._attn_implementation,
        missing=loaded.missing,
        output_buffers={name: each.to(target) for name, each in loaded.output_buffers.items()},
        is_local=isinstance(located, Path),
    )


def choose_device(device: str | torch.device | None) -> torch.device:
    """Return the requested device, or the best available one.

    Raises:
        BackboneError: If the machine does not have it.
    """
    if device is not None:
        chosen = torch.device(check_device(device) if isinstance(device, str) else device)
        count = torch.cuda.device_count() if chosen.type == "cuda" else 0
        if chosen.type == "cuda" and (chosen.index or 0) >= count:
            raise BackboneError(f"torch finds {count} GPUs", place=f"device {str(device)!r}")
        return chosen
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _load_prepared(
    path: Path, spec: QuantizationSpec, device: torch.device
) -> tuple[LoadedModel, QuantizationSpec]:
    """Load and prepare a model, in float32 if its architecture does not run in the compute type."""
    loaded = load_model(path)
    error = _prepare(loaded, spec, device)
    if error is None:
        return loaded, spec
    if spec.compute_dtype == "float32":
        what = {"vision": "an image", "audio": "a recording"}.get(loaded.kind, "tokens")
        raise BackboneError(
            f"{type(loaded.base_model).__name__} does not run on {what} alone: {reason_of(error)}",
            place=str(path),
            hint="Use another backbone",
        ) from error
    del loaded
    prepared = _load_prepared(path, replace(spec, compute_dtype="float32"), device)
    _LOG.warning("computing in float32, because in %s: %s", spec.compute_dtype, reason_of(error))
    return prepared


def _prepare(loaded: LoadedModel, spec: QuantizationSpec, device: torch.device) -> Exception | None:
    """Quantize, convert the rest to the compute type, freeze, and move to the device.

    The file is memory-mapped, and each tensor is released as soon as it is quantized or converted,
    so there is never a second copy of the whole model.

    Returns:
        What the base model raises on a small input.
    """
    model, compute = loaded.model, torch_dtype(spec.compute_dtype)
    template = template_of(model, compute)
    types = ComputeTypes(template, compute)
    if spec.scheme != "none":
        skip = types.kept_modules(model) | directly_read(loaded.base_model)
        quantize_linears(loaded.base_model, spec, device, skip=skip)
        _report_unquantized(loaded.base_model, spec)
    convert_tensors(model, types)
    set_config_type(model.config, compute)
    for part in (loaded.base_model, loaded.lm_head):
        if part is not None:
            part.to(device).requires_grad_(False).eval()
    return_freed_memory()
    # the meta device costs nothing, but not every architecture runs there
    return failure_of(loaded.base_model_of(template)) and failure_of(loaded.base_model)


def _report_unquantized(base_model: nn.Module, spec: QuantizationSpec) -> None:
    """Log the size of matrices that stay in the compute type, such as fused experts."""
    left = [
        parameter
        for module in base_model.modules()
        if not isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
        if parameter.is_floating_point() and parameter.dim() > 1
    ]
    size = sum(parameter.numel() for parameter in left)
    if size:
        _LOG.info(
            "%d matrices with %.1f M parameters are not quantized to %s: experts that share one "
            "tensor, convolutions, tables, and layers whose weight is read by others",
            len(left),
            size / 1e6,
            spec.scheme,
        )
