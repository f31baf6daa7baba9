"""Checks that an adapter fits an architecture, made without loading weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.utils import ModulesToSaveWrapper

from adapterhub.adapters.peft_format import CONFIG_NAME
from adapterhub.backbones.adapter_config import adapter_peft_config, stored_modules
from adapterhub.backbones.architecture import backbone_kind, read_architecture
from adapterhub.backbones.head_construction import build_meta_head
from adapterhub.backbones.memory import parameter_count
from adapterhub.backbones.peft_names import renamed_on_load
from adapterhub.errors import ArtifactError, RecipeError, first_sentence
from adapterhub.tasks.base import LANGUAGE_HEADS
from adapterhub.third_party import without_warnings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from adapterhub.backbones.adapter_config import TrainableParts
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

    heads = build_meta_head(read_architecture(path), head, labels, path.name)
    backbone = heads.model if head in LANGUAGE_HEADS else heads.frozen_model
    parameters = parameter_count([backbone])
    try:
        # peft warns of the name of the base model, which the configuration may leave out
        with torch.device("meta"), without_warnings():
            config = peft.PeftConfig.from_peft_type(**adapter_config)
            model = peft.get_peft_model(heads.model, config)
    except (ValueError, TypeError, RuntimeError, KeyError) as error:
        raise ArtifactError(
            f"peft can't use it on {heads.model.config.model_type!r}: {first_sentence(error)}",
            place=CONFIG_NAME,
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


def check_adapter_fits(
    path: Path,
    adapter: AdapterSpec,
    *,
    head: HeadKind,
    task_type: str,
    labels: Sequence[str],
    parts: TrainableParts = "adapter",
) -> None:
    """Check that a task can be trained on the architecture in a backbone folder.

    The task's class and the adapter are built on the meta device, so that nothing is refused after
    weights were loaded.

    Args:
        head: Kind of the task's head.
        task_type: peft's ``TaskType`` name; empty where it has none.
        labels: Names of the head's outputs.
        parts: What is trained.

    Raises:
        RecipeError: If the adapter does not fit.
        BackboneError: If the architecture has no class for the task.
    """
    heads = build_meta_head(read_architecture(path), head, labels, path.name)
    config = adapter_peft_config(heads, backbone_kind(path), path.name, task_type, adapter, parts)
    if isinstance(config, LoraConfig):
        # other initialisations compute with the weights
        config.init_lora_weights = True
    stored = set(stored_modules(heads, parts))
    name = heads.model.config.model_type
    try:
        with torch.device("meta"), without_warnings():
            model: Any = get_peft_model(heads.model, config)
    except (ValueError, TypeError, RuntimeError, KeyError, AttributeError) as error:
        raise RecipeError(
            f"peft can't put this adapter on the architecture {name!r}: {first_sentence(error)}",
            place="adapter",
            hint="Choose other adapter.target_modules, another adapter.method or another backbone",
        ) from error
    wrapped = {
        path
        for path, module in model.get_base_model().named_modules()
        if isinstance(module, ModulesToSaveWrapper)
    }
    if wrapped != stored:
        raise RecipeError(
            f"peft can't tell the head of {type(heads.model).__name__} from other modules: "
            f"{', '.join(sorted(wrapped ^ stored))}",
            place="backbone.name",
            hint="Use another backbone for this task",
        )
    if config.is_prompt_learning:
        _check_prefix_runs(model, name)
    elif isinstance(config, LoraConfig):
        _check_loads(model, name)


def _check_loads(model: Any, name: str) -> None:
    """Check that peft loads every tensor under the name that it is saved by."""
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    renamed = renamed_on_load(model, tensors)
    if renamed:
        raise RecipeError(
            f"peft does not load {renamed[0]!r} of the architecture {name!r} back",
            place="adapter",
            hint="Leave its module out of adapter.target_modules and adapter.target_parameters",
        )


def _check_prefix_runs(model: Any, name: str) -> None:
    """Run a prefix on the meta device, where only shapes are computed."""
    try:
        with torch.device("meta"), torch.no_grad():
            model.to("meta")
            ids = torch.ones(1, 2, dtype=torch.int64)
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
    except NotImplementedError:
        return
    except (ValueError, TypeError, RuntimeError, IndexError, AttributeError) as error:
        if "meta" in str(error):
            # a value is needed that the meta device does not have
            return
        raise RecipeError(
            f"a prefix does not fit the attention of {name!r}: {first_sentence(error)}",
            place="adapter.method",
            hint="Use method: lora",
        ) from error
