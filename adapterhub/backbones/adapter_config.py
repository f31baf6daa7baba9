"""peft's configuration of a new adapter on a task's class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from adapterhub.adapters.peft_format import peft_config
from adapterhub.adapters.target_modules import (
    check_target_parameters,
    resolve_target_modules,
    saved_module_names,
)
from adapterhub.backbones.peft_names import layers_lost_on_load
from adapterhub.errors import RecipeError
from adapterhub.specs import LoraSpec, PrefixSpec

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

    from adapterhub.backbones.catalog import BackboneKind
    from adapterhub.backbones.head_model import HeadModel
    from adapterhub.specs import AdapterSpec

#: Layers of a cache that hold keys and values and nothing else.
_ATTENTION_LAYERS = (DynamicLayer, DynamicSlidingWindowLayer)
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
    # for a task type of its own peft searches its whole model, else only the class
    prefix = "base_model." if isinstance(adapter, PrefixSpec) else "base_model.model."
    prefix = prefix if task_type else ""
    _check_storable(heads, parts, name)
    stored = saved_module_names(model, heads.head_modules, prefix)
    if parts == "adapter_and_norms":
        stored += norm_names(heads.frozen_model)
    targets: tuple[str, ...] = ()
    if isinstance(adapter, PrefixSpec):
        check_prefix_fits(kind, name, model.config)
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
            model,
            adapter.target_modules,
            exclude=[*heads.head_modules, *outputs],
            lost=layers_lost_on_load(model),
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


def _check_storable(heads: HeadModel, parts: TrainableParts, name: str) -> None:
    """Check that modules stored in full hold real numbers only, as a file of an adapter does."""
    for path in stored_modules(heads, parts):
        for key, tensor in heads.model.get_submodule(path).state_dict().items():
            if not tensor.is_floating_point():
                dtype = str(tensor.dtype).removeprefix("torch.")
                raise RecipeError(
                    f"an adapter can't store {path!r} of {name!r}: its {key} is {dtype}",
                    place="backbone.name",
                    hint="Use another backbone for this task",
                )


def check_prefix_fits(kind: BackboneKind, name: str, config: Any) -> None:
    """Check that a backbone has a KV cache that a prefix can be put into."""
    problem = None
    if kind != "decoder":
        found = {"vision": "a vision model", "audio": "an audio model"}.get(kind, f"an {kind}")
        problem = f"prefix tuning needs a decoder, {name!r} is {found}"
    elif not _keeps_keys_and_values(config):
        problem = (
            "prefix tuning needs layers that all keep keys and values of one shape, "
            f"{name!r} has layers with another state"
        )
    if problem is not None:
        raise RecipeError(problem, place="adapter.method", hint="Use method: lora")


def _keeps_keys_and_values(config: Any) -> bool:
    """Return whether every layer keeps keys and values of attention, equally wide.

    Source: ``DynamicCache`` in ``transformers/cache_utils.py``, and for latent attention
    ``_get_static_cache_init_shape`` in ``transformers/generation/utils.py``.
    """
    text = config.get_text_config(decoder=True)
    each = text.per_layer_config
    shapes = {
        (getattr(one, "num_key_value_heads", None), getattr(one, "head_dim", None)) for one in each
    }
    return (
        all(type(layer) in _ATTENTION_LAYERS for layer in DynamicCache(config=text).layers)
        and not any(getattr(one, "qk_head_dim", None) for one in each)
        and len(shapes) == 1
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
