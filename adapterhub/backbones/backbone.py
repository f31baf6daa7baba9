"""A loaded backbone: frozen, quantized, with a fingerprint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from adapterhub.backbones.catalog import BackboneKind, CatalogEntry
from adapterhub.backbones.fingerprint import full_fingerprint, weights_fingerprint
from adapterhub.backbones.freed_memory import return_freed_memory
from adapterhub.backbones.held import held_bytes, parameter_count, state_digest
from adapterhub.backbones.quantize import default_compute_dtype, quantize_linears, torch_dtype
from adapterhub.backbones.quiet import no_progress_bars
from adapterhub.backbones.sources import Source, fetch_backbone, locate
from adapterhub.errors import BackboneError
from adapterhub.specs import QuantizationSpec

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from transformers import BaseImageProcessor, PretrainedConfig, PreTrainedTokenizerBase

    from adapterhub.tasks.base import Preprocessor

__all__ = [
    "Backbone",
    "choose_device",
    "is_decoder",
    "kind_of",
    "load_backbone",
    "read_architecture",
    "read_image_processor",
    "read_preprocessor",
    "read_tokenizer",
    "state_digest",
]


@dataclass(frozen=True, slots=True, eq=False)
class Backbone:
    """A pretrained model without a task.

    Args:
        name: in the catalog, or as given.
        hub_id: ``owner/name`` on the Hub, if known.
        revision: on the Hub, if known.
        license: the Hub's identifier, if known.
        path: folder that it was loaded from.
        kind: ``decoder``, ``encoder``, or ``vision`` where it reads pictures.
        quantization: how its linear layers are held.
        fingerprint: digest of what it is, with the quantization scheme.
        config: transformers' configuration.
        preprocessor: transformers' tokenizer, or image processor.
        body: the model up to its last hidden states, frozen.
        lm_head: maps hidden states to the vocabulary; ``None`` where it is no decoder.
        device: where it is.
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
    body: nn.Module
    lm_head: nn.Module | None
    device: torch.device

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """transformers' tokenizer.

        Raises:
            BackboneError: when the backbone reads pictures.
        """
        if self.kind == "vision":
            raise BackboneError("reads pictures and has no tokenizer", place=self.name)
        tokenizer: Any = self.preprocessor
        return tokenizer

    @property
    def parameters(self) -> int:
        """Number of parameters before quantization, shared ones counted once."""
        return parameter_count(self._modules())

    @property
    def memory_bytes(self) -> int:
        """Bytes held by weights, scales and buffers, shared ones counted once."""
        return held_bytes(self._modules())

    def _modules(self) -> list[nn.Module]:
        return [self.body] if self.lm_head is None else [self.body, self.lm_head]


def load_backbone(
    name: str,
    quantization: QuantizationSpec | None = None,
    *,
    revision: str | None = None,
    source: Source = "auto",
    device: str | torch.device | None = None,
    cache: Path | None = None,
) -> Backbone:
    """Fetch a backbone if need be, quantize it and freeze it.

    Args:
        name: in the catalog, a Hub id, or a local folder.
        quantization: nf4 in the device's best compute type where not given.
        revision: of a Hub id.
        source: where to take a backbone of the catalog from.
        device: the first GPU where there is one, else the CPU.
        cache: root of the cache.

    Raises:
        BackboneError: when it can't be found, fetched, checked or loaded.
    """
    place = choose_device(device)
    spec = quantization or QuantizationSpec("nf4", default_compute_dtype(place))
    located = locate(name)
    entry = located if isinstance(located, CatalogEntry) else None
    path = fetch_backbone(name, revision=revision, source=source, cache=cache)
    body, lm_head = _load_modules(path, spec, place)
    return Backbone(
        name=entry.name if entry else name,
        hub_id=(entry.hub_id or None) if entry else (located if isinstance(located, str) else None),
        revision=revision or ((entry.revision or None) if entry else None),
        license=entry.license if entry else None,
        path=path,
        kind=kind_of(body.config) if lm_head is None else "decoder",
        quantization=spec,
        fingerprint=full_fingerprint(weights_fingerprint(path, cache=cache), spec),
        config=body.config,
        preprocessor=read_preprocessor(path),
        body=body,
        lm_head=lm_head,
        device=place,
    )


def choose_device(device: str | torch.device | None) -> torch.device:
    """Return the device asked for, or the best one there is."""
    if device is not None:
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _load_modules(
    path: Path, spec: QuantizationSpec, device: torch.device
) -> tuple[Any, nn.Module | None]:
    """Load in the type of the file, quantize, then move the rest to the compute type.

    The file is mapped into memory, and each tensor of it is let go as soon as it is
    quantized or converted: no second copy of the whole model is ever held.
    """
    whole = _pretrained(path)
    decoder = is_decoder(whole.config)
    body = whole.base_model if decoder else whole
    lm_head = whole.get_output_embeddings() if decoder else None
    quantize_linears(body, spec, device)
    for module in (body, lm_head):
        if module is not None:
            _settle(module, torch_dtype(spec.compute_dtype), device)
    del whole
    return_freed_memory()
    return body, lm_head


def _pretrained(path: Path) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoModelForCausalLM

    kind = kind_of(read_architecture(path))
    auto = AutoModelForCausalLM if kind == "decoder" else AutoModel
    settings: dict[str, Any] = {"dtype": "auto"}
    if kind != "vision":
        # convolutions know no attention; the others for pictures take this one by themselves
        settings["attn_implementation"] = "sdpa"
    settings |= {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True}
    try:
        with no_progress_bars():
            whole, report = auto.from_pretrained(path, **settings)
            if _only_pooler(report["missing_keys"]):
                # such a checkpoint would get another random pooler at every load
                settings["add_pooling_layer"] = False
                whole, report = auto.from_pretrained(path, **settings)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise BackboneError(f"can't be loaded: {error}", place=str(path)) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise BackboneError(
            f"{len(missing)} tensors of its architecture are missing, the first {missing[0]!r}",
            place=str(path),
            hint="The weights are incomplete or belong to another config.json",
        )
    return whole


def _only_pooler(missing: Iterable[str]) -> bool:
    names = list(missing)
    return bool(names) and all(name.startswith("pooler.") for name in names)


def _settle(module: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """Freeze a module on its device, what is not quantized in the compute type."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            # a copy also where nothing changes, to let go of the mapped file
            parameter.data = parameter.data.to(device, dtype, copy=True)
    for layer in module.modules():
        scale = getattr(layer, "scalar_embed_scale", None)
        if scale is not None:
            # Gemma's, which transformers rounds to the type of the file
            layer.embed_scale = torch.tensor(scale, dtype=torch.float32)
    module.to(device).requires_grad_(False).eval()


def read_architecture(path: Path) -> PretrainedConfig:
    """Return transformers' configuration of a backbone folder.

    Raises:
        BackboneError: when transformers does not know it, or adapterhub can't use it.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise BackboneError(
            f"its architecture is not known: {_first_line(error)}", place=str(path)
        ) from error
    if getattr(config, "is_encoder_decoder", False):
        raise BackboneError(
            f"{config.model_type!r} has an encoder and a decoder",
            place=str(path),
            hint="Backbones are decoders (Llama, Gemma) or encoders (BERT)",
        )
    return config


def read_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer in a backbone folder.

    Raises:
        BackboneError: when transformers can't read it.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise BackboneError(
            f"its tokenizer can't be read: {_first_line(error)}", place=str(path)
        ) from error


def read_preprocessor(path: Path) -> Preprocessor:
    """Return the tokenizer in a backbone folder, or the image processor where it reads pictures.

    Raises:
        BackboneError: when transformers can't read it.
    """
    if kind_of(read_architecture(path)) == "vision":
        return read_image_processor(path)
    return read_tokenizer(path)


def read_image_processor(path: Path) -> BaseImageProcessor:
    """Return the image processor in a backbone folder, the form of it that runs on Pillow.

    Results then do not depend on whether torchvision is installed.

    Raises:
        BackboneError: when transformers can't read it.
    """
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(path, backend="pil", trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise BackboneError(
            f"its image processor can't be read: {_first_line(error)}", place=str(path)
        ) from error


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def is_decoder(config: Any) -> bool:
    """Tell decoders from encoders, also those that could run as decoders, such as BERT."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    if type(config) not in AutoModelForCausalLM._model_mapping:
        return False
    masked = type(config) in AutoModelForMaskedLM._model_mapping
    return not masked or bool(getattr(config, "is_decoder", False))


def kind_of(config: Any) -> BackboneKind:
    """Return what an architecture is; one that reads texts too, such as CLIP, is no ``vision``."""
    from transformers import AutoModelForImageClassification

    if is_decoder(config):
        return "decoder"
    reads_pictures = type(config) in AutoModelForImageClassification._model_mapping
    return "vision" if reads_pictures and not hasattr(config, "text_config") else "encoder"
