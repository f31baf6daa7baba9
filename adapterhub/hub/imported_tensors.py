"""Tensors of an adapter that peft saved, completed and freed of what repeats the backbone.

peft stores whole layers of the vocabulary beside LoRA on them, or when the vocabulary was resized;
and of the modules that a task adds, only those that ``modules_to_save`` names.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.adapters.peft_format import WEIGHT_KEY, in_saved_module
from adapterhub.adapters.tensor_checks import PEFT_HEADS, PROMPT_KEY
from adapterhub.backbones.architecture import read_architecture
from adapterhub.backbones.head_construction import head_config
from adapterhub.backbones.heads import head_model_class
from adapterhub.backbones.module_sharing import base_child
from adapterhub.backbones.plain_model import load_plain_model
from adapterhub.errors import ArtifactError, BackboneError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel

    from adapterhub.tasks.base import HeadKind

# peft stores a head below "base_model.model" beside LoRA, and below "base_model" beside a prompt
_HEAD_PREFIXES = ("base_model.model.", "base_model.")
_LABELING_HEADS: tuple[HeadKind, ...] = ("sequence", "token", "image", "audio")
_UNREAD = re.compile(r"\.(modules_to_save|original_module)\.|\.lora_velora_embed$")


def is_unread(key: str) -> bool:
    """Return whether peft stores a tensor without using it in the forward pass.

    Biases of ``modules_to_save`` are stored twice more under ``bias: all``, and VeLoRA's vector
    compresses activations for the backward pass.
    """
    return bool(_UNREAD.search(key))


def count_labels(path: Path, tensors: Mapping[str, Tensor]) -> int | None:
    """Return the number of outputs of the head among an adapter's tensors, if there is one.

    The outputs are the parameters of transformers' class whose shape depends on the number of
    labels.

    Args:
        path: Backbone folder, of which only the configuration is read.
    """
    for head in _LABELING_HEADS:
        try:
            few, more = (_shapes(path, head, count) for count in (3, 5))
        except BackboneError:
            continue  # the architecture has no such class
        if count := _outputs(few, more, tensors):
            return count
    return None


def _outputs(
    few: Mapping[str, tuple[int, ...]],
    more: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, Tensor],
) -> int | None:
    for name, shape in few.items():
        axes = [axis for axis, size in enumerate(shape) if size != more[name][axis]]
        stored = [tensors[p + name] for p in _HEAD_PREFIXES if p + name in tensors]
        if axes and stored and stored[0].dim() == len(shape):
            return int(stored[0].shape[axes[0]]) - (shape[axes[0]] - 3)
    return None


def _shapes(path: Path, head: HeadKind, count: int) -> dict[str, tuple[int, ...]]:
    config = head_config(read_architecture(path), head, [str(each) for each in range(count)])
    with torch.device("meta"):
        model = head_model_class(config, head, path.name)(config)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


class BackboneLayers:
    """The backbone's own layers, loaded when one is first requested.

    Args:
        path: Backbone folder.
        head: Head of the adapter's task.
        labels: Names of the head's outputs.
    """

    def __init__(self, path: Path, head: HeadKind, labels: Sequence[str]) -> None:
        self._path, self._head, self._labels = path, head, labels

    @cached_property
    def _loaded(self) -> tuple[PreTrainedModel, frozenset[str]]:
        return load_plain_model(self._path, self._head, self._labels)

    @property
    def model(self) -> PreTrainedModel:
        """transformers' class for the task, with the backbone's weights."""
        return self._loaded[0]

    @property
    def missing(self) -> frozenset[str]:
        """Names of parameters that the checkpoint lacks."""
        return self._loaded[1]

    def parameter(self, name: str) -> Tensor | None:
        """Return a parameter by its path in transformers' class, or ``None``."""
        return dict(self.model.named_parameters(remove_duplicate=False)).get(name)

    @cached_property
    def tied(self) -> tuple[str, str] | None:
        """Names of the embedding's and the output layer's weight, where they are one."""
        model = self.model
        ends = (model.get_input_embeddings(), model.get_output_embeddings())
        if None in ends or ends[0].weight is not ends[1].weight:
            return None
        paths = {id(module): path for path, module in model.named_modules()}
        names = [f"{paths[id(module)]}.weight" for module in ends]
        return names[0], names[1]


def without_copies(
    tensors: Mapping[str, Tensor], saved_modules: Sequence[str], layers: BackboneLayers
) -> tuple[dict[str, Tensor], frozenset[str]]:
    """Return the tensors without copies of the backbone's layers, and the keys of changed layers.

    A changed layer, such as an embedding of a resized vocabulary, belongs to the adapter. Where
    the backbone ties its output layer to the embedding, so does the adapter.

    Args:
        saved_modules: Names of modules stored in full (``modules_to_save``).
    """
    kept: dict[str, Tensor] = {}
    changed: set[str] = set()
    saved = (*saved_modules, *PEFT_HEADS)
    for key, tensor in tensors.items():
        if is_unread(key):
            continue
        match = None if in_saved_module(key, saved) else WEIGHT_KEY.fullmatch(key)
        if match is None or tensor.dim() != 2:
            kept[key] = tensor
            continue
        name = f"{match['module']}.weight"
        own = layers.parameter(name)
        if own is None:
            kept[key] = tensor
        elif not _equal(own, tensor):
            kept[key] = tensor
            changed.add(key)
    return _tied(kept, changed, layers), frozenset(changed | _tied_keys(changed, layers))


def _equal(own: Tensor, tensor: Tensor) -> bool:
    return own.shape == tensor.shape and torch.equal(own, tensor.to(own.dtype))


def _tied_keys(changed: set[str], layers: BackboneLayers) -> set[str]:
    """Return the keys to add for output layers that are tied to a changed embedding."""
    if not changed or layers.tied is None:
        return set()
    embedding, output = (name.removesuffix(".weight") for name in layers.tied)
    names = {match["module"] for match in map(WEIGHT_KEY.fullmatch, changed) if match}
    return {f"base_model.model.{output}.weight"} if embedding in names else set()


def _tied(
    tensors: dict[str, Tensor], changed: set[str], layers: BackboneLayers
) -> dict[str, Tensor]:
    new = _tied_keys(changed, layers)
    if not new or layers.tied is None:
        return tensors
    embedding, output = (name.removesuffix(".weight") for name in layers.tied)
    modules = {m["module"]: key for key in changed if (m := WEIGHT_KEY.fullmatch(key))}
    if output in modules:
        return tensors
    return {**tensors, next(iter(new)): tensors[modules[embedding]]}


def with_whole_head(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], layers: BackboneLayers, place: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and configuration with every module that the task adds to the base model.

    A module of the head that the adapter does not store, such as ModernBERT's ``head``,
    is that of the backbone's checkpoint.

    Raises:
        ArtifactError: If the checkpoint lacks it too, so that peft would draw another one at every
            load.
    """
    prompt = PROMPT_KEY in tensors
    prefix = _HEAD_PREFIXES[1] if prompt else _HEAD_PREFIXES[0]
    base = f"{base_child(layers.model)}."
    complete, modules = dict(tensors), list(config.get("modules_to_save") or ())
    for name, parameter in layers.model.named_parameters():
        key = prefix + name
        if key in tensors or (name.startswith(base) and name not in layers.missing):
            continue
        module = name.rpartition(".")[0]
        if name in layers.missing:
            raise ArtifactError(
                f"does not store {module!r}, which its backbone's checkpoint lacks too",
                place=place,
                hint=f"Train it again with modules_to_save=[{module!r}, ...]",
            )
        complete[key] = parameter.detach().clone()
        modules.append(module)
    return complete, {**config, "modules_to_save": sorted(set(modules)) or None}
