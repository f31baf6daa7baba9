"""peft's configuration of a new adapter on a task's class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from transformers import DynamicCache
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from adapterhub.adapters.peft_format import peft_config
from adapterhub.adapters.target_modules import (
    check_target_parameters,
    resolve_target_modules,
    saved_module_names,
)
from adapterhub.errors import RecipeError
from adapterhub.specs import LoraSpec, PrefixSpec

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

    from adapterhub.backbones.catalog import BackboneKind
    from adapterhub.backbones.head_model import HeadModel
    from adapterhub.specs import AdapterSpec

#: What is trained: adapter and head; the head alone; adapter, head and norm layers.
TrainableParts = Literal["adapter", "head", "adapter_and_norms"]


def adapter_peft_config(
    heads: HeadModel,
    kind: BackboneKind,
    name: str,
    task_type: str,
    adapter: AdapterSpec,
    parts: TrainableParts,
) -> PeftConfig:
    """Return peft's configuration of an adapter, without the backbone's origin.

    Args:
        heads: Class for the task, which no adapter has changed yet.
        kind: Kind of the backbone.
        name: Name of the backbone, for messages.

    Raises:
        RecipeError: If the adapter does not fit the class.
    """
    model: Any = heads.model
    if parts == "head" and not heads.head_modules:
        raise RecipeError("this task has no head of its own to train", place="train.parts")
    prefix = "base_model" if isinstance(adapter, PrefixSpec) else "base_model.model"
    stored = saved_module_names(model, heads.head_modules, prefix)
    if parts == "adapter_and_norms":
        stored += norm_names(heads.frozen_model)
    targets: tuple[str, ...] = ()
    if isinstance(adapter, PrefixSpec):
        check_prefix_fits(kind, name)
        _check_key_value_layers(model.config, name)
        if parts != "adapter":
            raise RecipeError(
                f"parts {parts!r} can't be combined with a prefix",
                place="train.parts",
                hint="Use parts: adapter, or adapter.method: lora",
            )
    elif isinstance(adapter, LoraSpec):
        output = model.get_output_embeddings()
        outputs = [path for path, module in model.named_modules() if module is output]
        targets = resolve_target_modules(
            model, adapter.target_modules, exclude=[*heads.head_modules, *outputs]
        )
        check_target_parameters(model, adapter.target_parameters)
    return peft_config(
        adapter,
        task_type=task_type,
        base_model=name,
        target_modules=targets,
        modules_to_save=stored or None,
        revision=None,
    )


def check_prefix_fits(kind: BackboneKind, name: str) -> None:
    """Check that a backbone has a KV cache that a prefix can be put into."""
    if kind != "decoder":
        found = "an encoder" if kind == "encoder" else "a vision model"
        raise RecipeError(
            f"prefix tuning needs a decoder, {name!r} is {found}",
            place="adapter.method",
            hint="Use method: lora",
        )


def _check_key_value_layers(config: Any, name: str) -> None:
    """Check that every layer keeps keys and values, and no recurrent state."""
    layers = DynamicCache(config=config.get_text_config()).layers
    if any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers):
        raise RecipeError(
            f"prefix tuning needs attention in every layer, {name!r} has layers with another state",
            place="adapter.method",
            hint="Use method: lora",
        )


def stored_modules(heads: HeadModel, parts: TrainableParts) -> list[str]:
    """Return the paths of the modules that an adapter stores in full."""
    found = list(heads.head_modules)
    if parts == "adapter_and_norms":
        names = norm_names(heads.frozen_model)
        modules = [name for name, _ in heads.model.named_modules()]
        found += [name for name in modules if name.endswith(tuple(names))]
    return found


def norm_names(base_model: nn.Module) -> list[str]:
    """Return the last components of the names of the norm layers, sorted."""
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in base_model.named_modules()
            if "Norm" in type(module).__name__
        }
    )
