"""Names of an adapter's tensors, by the module that they belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.adapters.peft_format import EMBEDDING_PARTS, LINEAR_PARTS, LORA_BIAS_PART
from adapterhub.engine.module_overrides import BASE_LAYER

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

MAGNITUDE = "lora_magnitude_vector"
TOKEN_VECTORS = "token_adapter.trainable_tokens_delta"
IA3 = "ia3_l"
_PARTS = (*LINEAR_PARTS, LORA_BIAS_PART, MAGNITUDE, *EMBEDDING_PARTS, TOKEN_VECTORS, IA3)
#: Names of peft's own modules around a module of the backbone.
_PEFT_STEPS = frozenset({"base_layer", "token_adapter"})


def computing_keys(keys: Collection[str]) -> list[str]:
    """Return keys without those of layers that never compute, and without second keys.

    peft's modules_to_save keeps the layer that it replaces; a resized vocabulary or ``bias: all``
    stores that too, and the copy by its path in peft's module.
    """
    return [
        key
        for key in keys
        if ".original_module." not in key
        and not (".modules_to_save." in key and key.replace(".modules_to_save", "") in keys)
    ]


def keys_by_module(keys: Iterable[str], prefix: str) -> dict[str, dict[str, str]]:
    """Return keys of tensors by the path of their module below the base model and peft's part.

    A part below peft's own layer begins with ``base_layer.``, as often as layers are nested.
    """
    found: dict[str, dict[str, str]] = {}
    for key in keys:
        body = key.removeprefix("base_model.model.")
        part = next((each for each in _PARTS if body.endswith(f".{each}")), None)
        part = part or body.rpartition(".")[2]
        steps = body.removesuffix(f".{part}").split(".")
        path = ".".join(step for step in steps if step not in _PEFT_STEPS)
        depth = 0
        while depth < len(steps) and f"{steps[-1 - depth]}." == BASE_LAYER:
            depth += 1
        found.setdefault(path.removeprefix(f"{prefix}."), {})[BASE_LAYER * depth + part] = key
    return found
