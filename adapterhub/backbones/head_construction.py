"""Construction of heads: transformers' classes for tasks that share a loaded base model."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSeq2SeqLM,
    AutoModelForSpeechSeq2Seq,
    PreTrainedModel,
)

from adapterhub.backbones.architecture import kind_of, transcribes
from adapterhub.backbones.head_model import HeadModel
from adapterhub.backbones.heads import head_model_class
from adapterhub.backbones.module_sharing import (
    base_child,
    initialize_modules,
    model_without_head,
    new_modules,
    share_modules,
    tensor_ids,
)
from adapterhub.errors import BackboneError, first_sentence
from adapterhub.tasks.base import LANGUAGE_HEADS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from transformers import PretrainedConfig

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.backbones.catalog import BackboneKind
    from adapterhub.tasks.base import HeadKind

#: Ends of the names of modules that peft stores in any case, by kind of head.
#: Source: ``PeftModelForSequenceClassification`` and its siblings in ``peft/peft_model.py``, 0.21.
_STORED_BY_PEFT: dict[HeadKind, tuple[str, ...]] = {
    "sequence": ("classifier", "score"),
    "token": ("classifier", "score"),
    "span": ("qa_outputs",),
}
#: Classes that backbones are loaded by.
_LOADED_BY: dict[str, Any] = {
    "decoder": AutoModelForCausalLM,
    "encoder": AutoModel,
    "encoder-decoder": AutoModelForSeq2SeqLM,
    "vision": AutoModelForImageClassification,
    "audio": AutoModelForAudioClassification,
}
#: Of these, classes with an output layer.
_GENERATING = (AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSpeechSeq2Seq)


def language_head(backbone: Backbone) -> HeadKind | None:
    """Return the head that generates text on a backbone; ``None`` where none does."""
    if backbone.transcribes:
        return "speech_seq2seq"
    heads: dict[BackboneKind, HeadKind] = {"decoder": "causal_lm", "encoder-decoder": "seq2seq_lm"}
    return heads.get(backbone.kind)


def build_head(backbone: Backbone, kind: HeadKind, labels: Sequence[str]) -> HeadModel:
    """Build transformers' class for a task around a backbone's base model, which is shared.

    A new head is float32, in the class's own initialisation from torch's global generator. A
    causal LM keeps the backbone's output layer.

    Args:
        labels: Names of the outputs; not used by a causal LM.

    Raises:
        BackboneError: If the architecture has no such class, or one that can't be built.
    """
    config = head_config(backbone.config, kind, labels)
    output = (backbone.lm_head, backbone.output_buffers)
    base_model = backbone.base_model if kind in LANGUAGE_HEADS else backbone.classified_model
    model, shared = _assemble(config, kind, backbone.name, base_model, output)
    paths = new_modules(model, shared, backbone.name, _STORED_BY_PEFT.get(kind, ()))
    if kind in LANGUAGE_HEADS and paths:
        raise BackboneError(
            f"{type(model).__name__} has layers that were not loaded: {', '.join(paths)}",
            place=backbone.name,
        )
    initialize_modules(model, shared, backbone.device, backbone.name)
    for path in paths:
        for module in model.get_submodule(path).modules():
            if any(True for _ in module.parameters(recurse=False)):
                module.register_forward_pre_hook(_to_own_type, with_kwargs=True)
    # peft writes this name into the adapter's configuration
    model.name_or_path = backbone.hub_id or backbone.public_name
    return HeadModel(model.eval(), kind, paths)


def build_meta_head(
    config: PretrainedConfig, kind: HeadKind, labels: Sequence[str], name: str
) -> HeadModel:
    """Build transformers' class for a task without weights, on the meta device.

    Args:
        config: Configuration of a backbone.
        name: Name of the backbone, for messages.

    Raises:
        BackboneError: If the architecture has no such class, or one that can't be built.
    """
    auto = AutoModelForSpeechSeq2Seq if transcribes(config) else _LOADED_BY[kind_of(config)]
    with torch.device("meta"):
        loaded = _built(lambda: auto.from_config(copy.deepcopy(config)), config, name)
    base_name = "" if auto is AutoModel else base_child(loaded) or ""
    base_model = loaded.get_submodule(base_name)
    if auto is AutoModelForSeq2SeqLM and not base_name:
        base_model = model_without_head(loaded)
    if auto is AutoModelForSpeechSeq2Seq and kind not in LANGUAGE_HEADS:
        base_model = base_model.get_submodule("encoder")
    lm_head = loaded.get_output_embeddings() if auto in _GENERATING else None
    copied = head_config(loaded.config, kind, labels)
    output = (lm_head, dict(loaded.named_buffers(recurse=False)))
    model, shared = _assemble(copied, kind, name, base_model, output)
    paths = new_modules(model, shared, name, _STORED_BY_PEFT.get(kind, ()))
    return HeadModel(model.eval(), kind, paths)


def _assemble(
    config: PretrainedConfig,
    kind: HeadKind,
    name: str,
    base_model: nn.Module,
    output: tuple[nn.Module | None, Mapping[str, Tensor]],
) -> tuple[PreTrainedModel, set[int]]:
    """Return a class that shares loaded modules, and the identities of what it shares.

    Args:
        output: Output layer of a model that generates, and the buffers beside it.
    """
    chosen = head_model_class(config, kind, name)
    with torch.device("meta"):
        model: PreTrainedModel = _built(lambda: chosen(config), config, name)
    share_modules(model, base_model)
    lm_head, buffers = output
    if kind in LANGUAGE_HEADS and lm_head is not None:
        _share_output_layer(model, lm_head)
        model._buffers |= {each: buffers[each] for each in model._buffers if each in buffers}
        return model, tensor_ids([base_model, lm_head]) | {*map(id, buffers.values())}
    return model, tensor_ids([base_model])


def _built(build: Callable[[], Any], config: PretrainedConfig, name: str) -> Any:
    try:
        return build()
    except (ValueError, TypeError, AttributeError, LookupError, ImportError, RuntimeError) as error:
        raise BackboneError(
            f"the architecture {config.model_type!r} can't be built: {first_sentence(error)}",
            place=name,
        ) from error


def head_config(
    config: PretrainedConfig, kind: HeadKind, labels: Sequence[str]
) -> PretrainedConfig:
    """Return a copy of a backbone's configuration with the labels of a head."""
    copied = copy.deepcopy(config)
    if kind not in {*LANGUAGE_HEADS, "span"}:
        # a field of its own in some configurations, else a property that names the labels anew
        copied.num_labels = len(labels)
        copied.id2label = dict(enumerate(labels))
        copied.label2id = {label: index for index, label in enumerate(labels)}
    elif kind == "span":
        copied.num_labels = 2
    if kind == "ctc":
        copied.vocab_size = len(labels)
        # the blank
        copied.pad_token_id = 0
    return copied


def _share_output_layer(model: Any, lm_head: nn.Module) -> None:
    output = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if module is output:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, lm_head)


def _to_own_type(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Convert the input of a new module, which has a type of its own."""
    dtype = next(module.parameters(recurse=False)).dtype

    def convert(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    return tuple(map(convert, args)), {name: convert(value) for name, value in kwargs.items()}
