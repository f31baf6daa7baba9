"""Tensors of an adapter that peft does not load under the names that it saved them by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig
from peft.utils.transformers_weight_conversion import (
    convert_peft_adapter_state_dict_for_transformers,
)

from adapterhub.adapters.target_modules import is_linear_layer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_PREFIX, _SUFFIX = "base_model.model.", ".lora_A.weight"


def renamed_on_load(model: Any, tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of LoRA tensors that peft changes on load, sorted.

    peft applies the patterns that map old checkpoints of an architecture to transformers' names.
    Some also match new names: ``mlp.shared_expert.`` of Laguna matches ``mlp.shared_experts``. peft
    then finds no layer by the changed name, warns, and leaves the layer's adapter at random values.

    Args:
        model: Class for the task, with or without an adapter of peft.
        tensors: Tensors by peft's name, on any device; they are not read.

    Source: ``set_peft_model_state_dict`` in ``peft/utils/save_and_load.py``.
    """
    empty = {name: torch.empty(tensor.shape, device="meta") for name, tensor in tensors.items()}
    loaded = convert_peft_adapter_state_dict_for_transformers(model, LoraConfig(), empty)
    return sorted(tensors.keys() - loaded.keys())


def layers_lost_on_load(model: Any) -> tuple[str, ...]:
    """Return the paths of linear layers whose LoRA adapter peft does not load, sorted.

    Args:
        model: Class for the task, which no adapter has changed yet.
    """
    paths = [path for path, module in model.named_modules() if is_linear_layer(module)]
    names = {f"{_PREFIX}{path}{_SUFFIX}": torch.empty(1, 1, device="meta") for path in paths}
    lost = renamed_on_load(model, names)
    return tuple(name.removeprefix(_PREFIX).removesuffix(_SUFFIX) for name in lost)
