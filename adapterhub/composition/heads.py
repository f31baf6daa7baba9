"""Heads and other modules that adapters hold in full, made one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from adapterhub.adapters.peft_format import LORA_KEY
from adapterhub.adapters.tensor_checks import PROMPT_KEY
from adapterhub.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from adapterhub.adapters.weights import AdapterWeights
    from adapterhub.composition.method import MergeMethod

_HINT = "Take the head of one adapter: --head-from REF"


def held_in_full(adapter: AdapterWeights) -> dict[str, Tensor]:
    """Return the tensors that do not belong to the factors or the prefix."""
    return {
        key: tensor
        for key, tensor in adapter.tensors.items()
        if key != PROMPT_KEY and not LORA_KEY.fullmatch(key)
    }


def join_heads(
    adapters: Sequence[AdapterWeights],
    weights: Sequence[float],
    method: MergeMethod,
    head_from: int | None,
) -> dict[str, Tensor]:
    """Return the head of one adapter, the one that all have, or the weighted average.

    Args:
        adapters: whose heads answer to the same labels, unless ``head_from`` is given.
        weights: of each; the average divides by their sum.
        method: that the adapters are made one with.
        head_from: index of the adapter whose head is taken as it is.

    Raises:
        RecipeError: when heads differ and can't be averaged.
    """
    heads = [held_in_full(adapter) for adapter in adapters]
    if head_from is not None:
        return heads[head_from]
    first = heads[0]
    _check_same_modules(heads)
    if all(torch.equal(first[key], head[key]) for head in heads for key in first):
        return first
    if method.kind.rule != "sum":
        raise _refused(f"{method.name!r} can't merge heads that differ")
    if min(weights) < 0 or sum(weights) <= 0:
        raise _refused("heads that differ are averaged only by weights that are not negative")
    total = sum(weights)
    return {key: _average([h[key] for h in heads], [w / total for w in weights]) for key in first}


def _check_same_modules(heads: Sequence[Mapping[str, Tensor]]) -> None:
    shapes = [{key: tuple(tensor.shape) for key, tensor in head.items()} for head in heads]
    for each in shapes[1:]:
        if each != shapes[0]:
            differing = sorted(dict(each.items() ^ shapes[0].items()))
            raise _refused(f"the adapters do not hold the same modules in full: {differing[0]}")


def _average(tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    parts = [tensor.detach().float() * share for tensor, share in zip(tensors, shares, strict=True)]
    return torch.stack(parts).sum(dim=0)


def _refused(problem: str) -> RecipeError:
    return RecipeError(problem, place="composition.head_from", hint=_HINT)
