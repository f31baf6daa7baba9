"""Checks that an adapter fits an architecture, made without loading weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.adapters.peft_format import CONFIG_NAME
from adapterhub.adapters.target_modules import resolve_target_modules
from adapterhub.backbones.adapter_config import check_prefix_fits
from adapterhub.backbones.architecture import backbone_kind, read_architecture
from adapterhub.backbones.head_model import head_config
from adapterhub.backbones.heads import head_model_class
from adapterhub.backbones.memory import parameter_count
from adapterhub.errors import ArtifactError
from adapterhub.specs import PrefixSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from adapterhub.specs import AdapterSpec
    from adapterhub.tasks.base import HeadKind


@dataclass(frozen=True, slots=True)
class AdapterShape:
    """Tensors that an adapter has on an architecture.

    Args:
        tensors: Shape of each tensor by peft's name.
        backbone_parameters: Number of parameters of the backbone, without adapter and head.
    """

    tensors: Mapping[str, tuple[int, ...]]
    backbone_parameters: int


def adapter_shape(
    path: Path, adapter_config: Mapping[str, Any], head: HeadKind, labels: Sequence[str]
) -> AdapterShape:
    """Return the tensors that peft creates for a configuration on the backbone in a folder.

    Args:
        path: Backbone folder, of which only the configuration is read.
    """
    import peft

    config = head_config(read_architecture(path), head, labels)
    with torch.device("meta"):
        head_model = head_model_class(config, head, path.name)(config)
        base_model = getattr(head_model, head_model.base_model_prefix)
        parameters = parameter_count([head_model if head == "causal_lm" else base_model])
        try:
            model = peft.get_peft_model(
                head_model, peft.PeftConfig.from_peft_type(**adapter_config)
            )
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
    """Allocate the tensors of a prompt, from which peft computes what it saves."""
    model.prompt_encoder.to_empty(device="cpu")
    for name, tokens in model.prompt_tokens.items():
        model.prompt_tokens[name] = torch.arange(len(tokens), device="cpu")


def check_adapter_fits(path: Path, adapter: AdapterSpec) -> None:
    """Check an adapter against the architecture in a backbone folder."""
    from transformers import AutoModel

    if isinstance(adapter, PrefixSpec):
        check_prefix_fits(backbone_kind(path), path.name)
        return
    with torch.device("meta"):
        base_model = AutoModel.from_config(read_architecture(path))
    resolve_target_modules(base_model, adapter.target_modules, exclude=())
