"""One adapter out of several, each with a weight."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from adapterhub.adapters.tensor_checks import PROMPT_KEY
from adapterhub.adapters.weights import AdapterWeights
from adapterhub.composition.heads import join_heads
from adapterhub.composition.lora import compose_lora
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
    """Return what a method makes of adapters; nothing that is passed in is changed.

    One adapter with weight 1, of which nothing is pruned or cut off, is returned as it is, to
    the bit. Everything else is computed and held in float32. Equal arguments give equal
    results; what DARE drops depends on its seed alone.

    Args:
        adapters: all LoRA, or all prefixes.
        weights: of each; negative ones subtract.
        method: how; prefixes follow one another with ``concat`` and no other.
        head_from: index of the adapter whose head is taken; without it equal heads are kept,
            and ``concat``, ``linear`` and ``svd`` average those that differ.

    Raises:
        RecipeError: when these adapters can't be made one in this way.

    Source: ``add_weighted_adapter`` in ``peft/tuners/lora/model.py`` of peft 0.21. Where peft
    takes ``linear`` for one adapter alone, this takes the method that was asked for; and a
    module that was rank-stabilised is not scaled twice.
    """
    _check_arguments(adapters, weights, head_from)
    if _changes_nothing(adapters, weights, method):
        return adapters[0]
    spec, tensors = _body(adapters, weights, method)
    return AdapterWeights(spec, {**tensors, **join_heads(adapters, weights, method, head_from)})


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


def _changes_nothing(
    adapters: Sequence[AdapterWeights], weights: Sequence[float], method: MergeMethod
) -> bool:
    if list(weights) != [1.0] or method.kept < 1.0:
        return False
    spec = adapters[0].spec
    return method.rank is None or (isinstance(spec, LoraSpec) and method.rank == spec.rank)


def _body(
    adapters: Sequence[AdapterWeights], weights: Sequence[float], method: MergeMethod
) -> tuple[AdapterSpec, dict[str, Tensor]]:
    specs = [adapter.spec for adapter in adapters]
    loras = [spec for spec in specs if isinstance(spec, LoraSpec)]
    prefixes = [spec for spec in specs if isinstance(spec, PrefixSpec)]
    if loras and prefixes:
        raise RecipeError("LoRA and prefixes can't be made one", place="composition.adapters")
    if prefixes:
        _check_prefixes(weights, method)
        tokens = torch.cat([adapter.tensors[PROMPT_KEY].detach().float() for adapter in adapters])
        return PrefixSpec(num_virtual_tokens=len(tokens)), {PROMPT_KEY: tokens}
    if any(spec.dora for spec in loras):
        raise RecipeError(
            "a DoRA adapter scales the backbone's own weights, so that it can't be blended",
            place="composition.adapters",
            hint="It can be composed alone, with weight 1",
        )
    return compose_lora(adapters, loras, weights, method)


def _check_prefixes(weights: Sequence[float], method: MergeMethod) -> None:
    if method.name != "concat":
        raise RecipeError(
            f"{method.name!r} is for LoRA, these are prefixes",
            place="composition.method",
            hint="Use concat",
        )
    if any(weight != 1.0 for weight in weights):
        raise RecipeError(
            "a prefix is there or not, its weight must be 1", place="composition.weights"
        )
