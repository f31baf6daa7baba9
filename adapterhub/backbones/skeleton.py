"""The shape of a backbone without its weights, to check recipes and adapters before loading."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from adapterhub.adapters.peft_format import CONFIG_NAME
from adapterhub.adapters.target_modules import resolve_target_modules
from adapterhub.backbones.heads import stock_class
from adapterhub.backbones.held import parameter_count
from adapterhub.errors import ArtifactError, RecipeError
from adapterhub.specs import PrefixSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from adapterhub.backbones.catalog import BackboneKind
    from adapterhub.specs import AdapterSpec
    from adapterhub.tasks.base import HeadKind


@dataclass(frozen=True, slots=True)
class AdapterShape:
    """What an adapter must look like on an architecture.

    Args:
        tensors: peft's key to shape.
        backbone_parameters: number of parameters below the adapter and its head.
    """

    tensors: Mapping[str, tuple[int, ...]]
    backbone_parameters: int


def adapter_shape(
    path: Path, adapter_config: Mapping[str, Any], head: HeadKind, labels: Sequence[str]
) -> AdapterShape:
    """Return what peft makes of a configuration on the architecture in a backbone folder.

    Args:
        path: folder of the backbone; only its configuration is read.
        adapter_config: of peft, as stored.
        head: which head the task reads.
        labels: in the order of the head's outputs.

    Raises:
        BackboneError: when the architecture has no such head.
        ArtifactError: when peft can't put the adapter on it.
    """
    import peft

    from adapterhub.backbones.backbone import read_architecture

    config = copy.deepcopy(read_architecture(path))
    if head != "causal_lm":
        config.num_labels = len(labels)
    with torch.device("meta"):
        stock = stock_class(config, head, path.name)(config)
        body = getattr(stock, stock.base_model_prefix)
        parameters = parameter_count([stock if head == "causal_lm" else body])
        try:
            model = peft.get_peft_model(stock, peft.PeftConfig.from_peft_type(**adapter_config))
        except (ValueError, TypeError, RuntimeError, KeyError) as error:
            raise ArtifactError(
                f"peft can't use it on {config.model_type!r}: {error}", place=CONFIG_NAME
            ) from error
    if model.active_peft_config.is_prompt_learning:
        _materialize_prompt(model)
    state = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    return AdapterShape(shapes, parameters)


def _materialize_prompt(model: Any) -> None:
    """Give a prompt's own tensors memory, because peft computes what it saves of them."""
    model.prompt_encoder.to_empty(device="cpu")
    for name, tokens in model.prompt_tokens.items():
        model.prompt_tokens[name] = torch.arange(len(tokens), device="cpu")


def backbone_kind(path: Path) -> BackboneKind:
    """Return what the folder holds, from its configuration alone."""
    from adapterhub.backbones.backbone import kind_of, read_architecture

    return kind_of(read_architecture(path))


def check_adapter_fits(path: Path, adapter: AdapterSpec) -> None:
    """Check an adapter against the architecture in a backbone folder.

    Args:
        path: folder of the backbone; only its configuration is read.
        adapter: method and hyper-parameters.

    Raises:
        RecipeError: when no linear layer has a target's name, or the method needs another
            kind of backbone.
    """
    if isinstance(adapter, PrefixSpec):
        check_prefix_fits(backbone_kind(path), str(path.name))
        return
    resolve_target_modules(_skeleton(path), adapter.target_modules, exclude=())


def check_prefix_fits(kind: BackboneKind, name: str) -> None:
    """Refuse a prefix where there are no keys and values to continue from.

    Raises:
        RecipeError: naming the backbone.
    """
    if kind != "decoder":
        is_what = "is an encoder" if kind == "encoder" else "reads pictures"
        raise RecipeError(
            f"prefix tuning needs a decoder, {name!r} {is_what}",
            place="adapter.method",
            hint="Use method: lora",
        )


def _skeleton(path: Path) -> nn.Module:
    from transformers import AutoModel

    from adapterhub.backbones.backbone import read_architecture

    with torch.device("meta"):
        return AutoModel.from_config(read_architecture(path))
