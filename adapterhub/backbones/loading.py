"""Loading of the base model, and of a decoder's output layer, by transformers' auto classes."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from adapterhub.backbones.architecture import (
    kind_of,
    quiet_transformers,
    read_architecture,
    reads_audio,
    reason_of,
    transcribes,
)
from adapterhub.backbones.media_inputs import audio_shape
from adapterhub.backbones.module_sharing import AbsentModule, base_child, model_without_head
from adapterhub.errors import BackboneError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from transformers import PretrainedConfig, PreTrainedModel

    from adapterhub.backbones.catalog import BackboneKind

#: Tokens of the input that a text model is tried with.
_PROBE_TOKENS = 6
#: Side in pixels of the image that a vision model without a size of its own is tried with.
_PROBE_SIDE = 224
#: Samples of the recording that a model of waveforms is tried with: two tenths of a second.
_PROBE_SAMPLES = 3200


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model on the CPU, in the type of its file.

    Args:
        model: What transformers loads; the base model is a part of it, or all of it.
        base_name: Name of the base model inside it, empty if it is all of it.
        base_model: Model up to the last hidden states.
        lm_head: Layer of a decoder from hidden states to the vocabulary.
        config: Configuration of ``model``.
        missing: Paths of modules of the base model that the file has no weights for. Its hidden
            states do not depend on them.
    """

    kind: BackboneKind
    model: PreTrainedModel
    base_name: str
    base_model: PreTrainedModel
    lm_head: nn.Module | None
    config: PretrainedConfig
    missing: tuple[str, ...]

    @property
    def output_buffers(self) -> dict[str, Tensor]:
        """Buffers that the class of an encoder-decoder holds beside its parts, by name."""
        if self.kind != "encoder-decoder":
            return {}
        buffers = self.model.named_buffers(recurse=False)
        return {name: buffer for name, buffer in buffers if "." not in name}

    def base_model_of(self, model: PreTrainedModel) -> Any:
        """Return the base model inside another instance of the same class."""
        return model.get_submodule(self.base_name)


def load_model(path: Path) -> LoadedModel:
    """Load a backbone folder in the type of its file, with the attention that transformers picks.

    Raises:
        BackboneError: If transformers can't load it, or if weights are missing that its hidden
            states depend on.
    """
    config = read_architecture(path)
    kind = kind_of(config)
    options = _dequantization(config, path)
    writes = transcribes(config)
    model, lacking = _from_pretrained(path, kind, writes=writes, **options)
    poolerless = bool(lacking) and all(name.startswith("pooler.") for name in lacking)
    if poolerless and "add_pooling_layer" in inspect.signature(type(model).__init__).parameters:
        model, lacking = _from_pretrained(path, kind, add_pooling_layer=False, **options)
        lacking.append("pooler.")
    name = _base_name(model, kind, path)
    base_model: Any = model.get_submodule(name)
    if kind == "encoder-decoder" and not name:
        base_model = model_without_head(model)
    prefix = f"{name}." if name else ""
    generates = writes or kind in ("decoder", "encoder-decoder")
    if generates:
        # the output layer too
        _check_complete([each for each in lacking if not (name and each.startswith(prefix))], path)
    inside = [each.removeprefix(prefix) for each in lacking if each.startswith(prefix)]
    return LoadedModel(
        kind=kind,
        model=model,
        base_name=name,
        base_model=base_model,
        lm_head=model.get_output_embeddings() if generates else None,
        config=model.config,
        missing=_without_absent(base_model, inside, path),
    )


def probe_inputs(base_model: Any) -> dict[str, Tensor]:
    """Return a small input of a base model: a few tokens, one image or one recording."""
    config = base_model.config
    if reads_audio(config):
        shape = (1, *audio_shape(base_model, _PROBE_SAMPLES))
        inputs = {base_model.main_input_name: torch.zeros(shape, dtype=base_model.dtype)}
        return inputs | decoder_probe(base_model, 1)
    if base_model.main_input_name == "pixel_values":
        side = getattr(config, "image_size", None) or _PROBE_SIDE
        height, width = (side, side) if isinstance(side, int) else side
        channels = getattr(config, "num_channels", 3)
        return {"pixel_values": torch.zeros(1, channels, height, width, dtype=base_model.dtype)}
    vocabulary = getattr(config.get_text_config(), "vocab_size", None) or _PROBE_TOKENS + 1
    ids = 1 + torch.arange(_PROBE_TOKENS).unsqueeze(0) % (vocabulary - 1)
    if getattr(config, "is_encoder_decoder", False):
        return {"input_ids": ids, "decoder_input_ids": ids[:, : _PROBE_TOKENS // 2]}
    return {"input_ids": ids}


def decoder_probe(base_model: Any, count: int) -> dict[str, Tensor]:
    """Return what the decoder of an audio model, if it has one, reads beside recordings."""
    if "decoder_input_ids" not in inspect.signature(base_model.forward).parameters:
        return {}
    ids = torch.ones(count, _PROBE_TOKENS, dtype=torch.long, device=base_model.device)
    return {"decoder_input_ids": ids}


def _dequantization(config: Any, path: Path) -> dict[str, Any]:
    """Return the options to load a quantized checkpoint, such as MXFP4 or FP8, as it computes."""
    from transformers.quantizers.auto import AutoQuantizationConfig

    stored = getattr(config, "quantization_config", None)
    if not stored:
        return {}
    try:
        settings = AutoQuantizationConfig.from_dict(dict(stored))
    except (ValueError, TypeError, ImportError) as error:
        raise BackboneError(
            f"the quantization of its weights is not supported: {reason_of(error)}", place=str(path)
        ) from error
    if not hasattr(settings, "dequantize"):
        raise BackboneError(
            f"its weights are already quantized ({stored.get('quant_method')})",
            place=str(path),
            hint="Use the checkpoint from before; adapterhub quantizes it when it is loaded",
        )
    settings.dequantize = True
    return {"quantization_config": settings}


def _from_pretrained(
    path: Path, kind: BackboneKind, *, writes: bool = False, **options: Any
) -> tuple[PreTrainedModel, list[str]]:
    """Return a model and the names of the tensors that the file lacks.

    Args:
        writes: Whether an audio model is loaded with the decoder of its transcripts.
    """
    from transformers import (
        AutoModel,
        AutoModelForAudioClassification,
        AutoModelForCausalLM,
        AutoModelForImageClassification,
        AutoModelForSeq2SeqLM,
        AutoModelForSpeechSeq2Seq,
    )

    classes = {
        "decoder": AutoModelForCausalLM,
        "encoder": AutoModel,
        "encoder-decoder": AutoModelForSeq2SeqLM,
        "vision": AutoModelForImageClassification,
        "audio": AutoModelForSpeechSeq2Seq if writes else AutoModelForAudioClassification,
    }
    try:
        with quiet_transformers():
            model, report = classes[kind].from_pretrained(
                path,
                dtype="auto",
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
    except Exception as error:
        raise BackboneError(f"can't be loaded: {reason_of(error)}", place=str(path)) from error
    return model, sorted(report["missing_keys"])


def _base_name(model: Any, kind: BackboneKind, path: Path) -> str:
    """Return the name of the base model inside a model, empty if it is all of it."""
    if kind == "encoder":
        return ""
    name = base_child(model)
    if name is None and kind == "encoder-decoder":
        return ""
    if name is None:
        raise BackboneError(
            f"{type(model).__name__} is not divided into a base model and a head",
            place=str(path),
            hint="Use another backbone",
        )
    return name


def _check_complete(lacking: list[str], path: Path) -> None:
    if lacking:
        raise BackboneError(
            f"{len(lacking)} tensors of its architecture are missing, the first is {lacking[0]!r}",
            place=str(path),
            hint="The weights are incomplete or belong to another config.json",
        )


def _without_absent(base_model: Any, lacking: list[str], path: Path) -> tuple[str, ...]:
    """Replace modules without weights, of which the hidden states must not depend.

    Otherwise each load would give them other random weights.
    """
    if not lacking:
        return ()
    stored = {name for name, _ in base_model.named_parameters()} - set(lacking)
    modules = tuple(sorted({_outermost(name, stored) for name in lacking}))
    present = [name for name in modules if name and _has_module(base_model, name)]
    if "" in modules or (present and not _independent_of(base_model, lacking)):
        _check_complete(lacking, path)
    for name in present:
        parent, _, child = name.rpartition(".")
        setattr(base_model.get_submodule(parent), child, AbsentModule())
    return modules


def _outermost(name: str, stored: Iterable[str]) -> str:
    """Return the path of the largest module around a tensor that has no stored tensor."""
    parts = name.split(".")[:-1]
    for count in range(1, len(parts) + 1):
        module = ".".join(parts[:count])
        if not any(each.startswith(f"{module}.") for each in stored):
            return module
    return ""


def _has_module(base_model: nn.Module, name: str) -> bool:
    try:
        return isinstance(base_model.get_submodule(name), nn.Module)
    except AttributeError:
        return False


def _independent_of(base_model: Any, names: Iterable[str]) -> bool:
    """Return whether the hidden states do not depend on some tensors, which are overwritten."""
    tensors = dict(base_model.named_parameters())
    with torch.no_grad():
        for name in names:
            if name in tensors:
                tensors[name].fill_(math.nan)
        try:
            hidden: Tensor = base_model(**probe_inputs(base_model))[0]
        except Exception:  # noqa: BLE001 - an architecture may raise anything
            return False
    return bool(hidden.isfinite().all())
