"""Composition of several weighted adapters into one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from adapterhub.adapters.peft_format import LORA_KEY
from adapterhub.adapters.tensor_checks import PROMPT_KEY
from adapterhub.adapters.weights import AdapterWeights
from adapterhub.composition.lora import merge_lora
from adapterhub.errors import RecipeError
from adapterhub.specs import LoraSpec, PrefixSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from adapterhub.composition.method import MergeMethod
    from adapterhub.specs import AdapterSpec


def compose(
    adapters: Sequence[AdapterWeights],
    weights: Sequence[float],
    method: MergeMethod,
    *,
    head_from: int | None = None,
) -> AdapterWeights:
    """Merge adapters into one; the arguments are not changed.

    One adapter with weight 1 and nothing pruned or truncated is returned as it is, bit for bit.
    Everything else is computed and stored in float32. Equal arguments give equal results; what
    DARE drops depends on its seed alone.

    Args:
        adapters: Adapters that are all LoRA, or all prefixes.
        weights: Weight of each adapter; negative ones subtract.
        method: Merge method; prefixes can only be concatenated.
        head_from: Index of the adapter whose head is taken. Without it equal heads are kept, and
            ``concat``, ``linear`` and ``svd`` average different ones.

    Source: ``add_weighted_adapter`` in ``peft/tuners/lora/model.py`` of peft 0.21. Two differences:
    peft uses ``linear`` for a single adapter whatever the method, and scales a module that was
    rank-stabilised twice.
    """
    _check_arguments(adapters, weights, head_from)
    if _is_identity(adapters, weights, method):
        return adapters[0]
    spec, tensors = _merge_adapters(adapters, weights, method)
    return AdapterWeights(spec, {**tensors, **_merge_heads(adapters, weights, method, head_from)})


def _check_arguments(
    adapters: Sequence[AdapterWeights], weights: Sequence[float], head_from: int | None
) -> None:
    if not adapters or len(adapters) != len(weights):
        raise RecipeError(
            f"{len(adapters)} adapters and {len(weights)} weights were given",
            place="composition.weights",
        )
    for weight in weights:
        if not math.isfinite(weight):
            raise RecipeError(f"{weight} is not a weight", place="composition.weights")
    if head_from is not None and not 0 <= head_from < len(adapters):
        raise RecipeError(
            f"there is no adapter {head_from} among {len(adapters)}", place="composition.head_from"
        )


def _is_identity(
    adapters: Sequence[AdapterWeights], weights: Sequence[float], method: MergeMethod
) -> bool:
    if list(weights) != [1.0] or method.kept < 1.0:
        return False
    spec = adapters[0].spec
    return method.rank is None or (isinstance(spec, LoraSpec) and method.rank == spec.size)


def _merge_adapters(
    adapters: Sequence[AdapterWeights], weights: Sequence[float], method: MergeMethod
) -> tuple[AdapterSpec, dict[str, Tensor]]:
    specs = [adapter.spec for adapter in adapters]
    loras = [spec for spec in specs if isinstance(spec, LoraSpec)]
    prefixes = [spec for spec in specs if isinstance(spec, PrefixSpec)]
    if len(loras) < len(specs) and len(prefixes) < len(specs):
        raise _not_mergeable(specs)
    if prefixes:
        _check_prefixes(weights, method)
        tokens = torch.cat([adapter.tensors[PROMPT_KEY].detach().float() for adapter in adapters])
        return PrefixSpec(num_virtual_tokens=len(tokens)), {PROMPT_KEY: tokens}
    for spec in loras:
        if reason := _unmergeable(spec):
            raise RecipeError(
                f"{reason}, so it cannot be merged",
                place="composition.adapters",
                hint="It can be composed alone, with weight 1",
            )
    return merge_lora(adapters, loras, weights, method)


def _not_mergeable(specs: Sequence[AdapterSpec]) -> RecipeError:
    methods = sorted({spec.method for spec in specs})
    if len(methods) > 1:
        problem = f"adapters of the methods {' and '.join(methods)} cannot be merged"
        return RecipeError(
            problem,
            place="composition.adapters",
            hint="Merge LoRA with LoRA, or a prefix with a prefix",
        )
    reason = {
        "prompt": "prompts take places in the input, whose order no weight describes",
        "ia3": "(IA)^3 multiplies activations, and a sum of factors is not their effect",
    }[methods[0]]
    return RecipeError(reason, place="composition.adapters", hint="Use each of them alone")


def _unmergeable(spec: LoraSpec) -> str | None:
    """Return why a LoRA adapter is no sum of low-rank products, if it is not."""
    reasons = {
        "a DoRA adapter scales the backbone's own weights": spec.dora,
        "an adapter with biases replaces those of the backbone": spec.bias != "none",
        "an adapter with lora_bias adds to outputs what no factor holds": spec.lora_bias,
        "an adapter of tokens replaces their embeddings": bool(spec.trainable_token_indices),
        "an adapter of experts has stacked factors": bool(spec.target_parameters),
        "an activated adapter starts in the middle of a text": bool(spec.alora_invocation_tokens),
    }
    return next((reason for reason, found in reasons.items() if found), None)


def _check_prefixes(weights: Sequence[float], method: MergeMethod) -> None:
    if method.name != "concat":
        raise RecipeError(
            f"{method.name!r} is for LoRA, these are prefixes",
            place="composition.method",
            hint="Use concat",
        )
    if any(weight != 1.0 for weight in weights):
        raise RecipeError(
            "prefixes are concatenated, so their weight must be 1", place="composition.weights"
        )


def _merge_heads(
    adapters: Sequence[AdapterWeights],
    weights: Sequence[float],
    method: MergeMethod,
    head_from: int | None,
) -> dict[str, Tensor]:
    """Return the modules stored in full: those of one adapter, the common ones, or the average."""
    heads = [_saved_modules(adapter) for adapter in adapters]
    if head_from is not None:
        return heads[head_from]
    first = heads[0]
    for head in heads[1:]:
        if differing := _shapes(head).items() ^ _shapes(first).items():
            name = min(key for key, _ in differing)
            raise _head_error(f"the adapters do not store the same modules in full: {name}")
    if all(torch.equal(first[key], head[key]) for head in heads for key in first):
        return first
    if method.kind.rule != "sum":
        raise _head_error(f"{method.name!r} cannot merge different heads")
    if min(weights) < 0 or sum(weights) <= 0:
        raise _head_error("different heads are averaged only by weights that are not negative")
    shares = [weight / sum(weights) for weight in weights]
    return {key: _average([head[key] for head in heads], shares) for key in first}


def _saved_modules(adapter: AdapterWeights) -> dict[str, Tensor]:
    """Return the tensors of modules stored in full."""
    return {
        key: tensor
        for key, tensor in adapter.tensors.items()
        if key != PROMPT_KEY and not LORA_KEY.fullmatch(key)
    }


def _shapes(head: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in head.items()}


def _average(tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    scaled = [
        tensor.detach().float() * share for tensor, share in zip(tensors, shares, strict=True)
    ]
    return torch.stack(scaled).sum(dim=0)


def _head_error(problem: str) -> RecipeError:
    return RecipeError(
        problem,
        place="composition.head_from",
        hint="Take the head of one adapter: --head-from REF",
    )
