"""LoRA adapters made one: side by side, factor by factor, or by their products."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import torch

from adapterhub.composition.factors import Factors, factors_of, joined_spec, tensors_of
from adapterhub.composition.rules import combine
from adapterhub.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from adapterhub.adapters.weights import AdapterWeights
    from adapterhub.composition.method import MergeMethod
    from adapterhub.specs import LoraSpec

#: The adapters that change one module, each with its weight.
Share: TypeAlias = "tuple[Factors, float]"


def compose_lora(
    adapters: Sequence[AdapterWeights],
    specs: Sequence[LoraSpec],
    weights: Sequence[float],
    method: MergeMethod,
) -> tuple[LoraSpec, dict[str, Tensor]]:
    """Return spec and factors of what a method makes of LoRA adapters.

    A module that one adapter does not change gets nothing from it. Scales and weights are
    folded into the factors, whose own scale is 1.

    Args:
        adapters: the adapters.
        specs: of each.
        weights: of each.
        method: how.

    Raises:
        RecipeError: when the ranks differ and the method needs the same.
    """
    rank = _rank(specs, method)
    modules = _by_module(adapters, specs, weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(method.seed)
        joined = {module: _JOIN[method.kind.where](of, method, rank) for module, of in modules}
    return joined_spec(specs, joined, rank), tensors_of(joined, rank)


def _rank(specs: Sequence[LoraSpec], method: MergeMethod) -> int:
    ranks = [spec.rank for spec in specs]
    if method.kind.where == "ranks":
        return sum(ranks)
    if method.kind.where == "delta":
        return method.rank or max(ranks)
    if len(set(ranks)) > 1:
        raise RecipeError(
            f"{method.name!r} needs adapters of one rank, found {', '.join(map(str, ranks))}",
            place="composition.method",
            hint="Use concat, or a method whose name ends in svd",
        )
    return ranks[0]


def _by_module(
    adapters: Sequence[AdapterWeights], specs: Sequence[LoraSpec], weights: Sequence[float]
) -> list[tuple[str, list[Share]]]:
    modules: dict[str, list[Share]] = {}
    for adapter, spec, weight in zip(adapters, specs, weights, strict=True):
        for module, factors in factors_of(adapter, spec).items():
            modules.setdefault(module, []).append((factors, weight))
    for module, of in modules.items():
        shapes = {(factors.up.shape[0], factors.down.shape[1]) for factors, _ in of}
        if len(shapes) > 1:
            raise RecipeError(
                f"{module} has {len(shapes)} shapes in the adapters",
                place="composition.adapters",
                hint="They were made for different backbones",
            )
    return sorted(modules.items())


def _side_by_side(of: Sequence[Share], _method: MergeMethod, _rank: int) -> tuple[Tensor, Tensor]:
    """Return factors whose product is ``sum_i w_i s_i B_i A_i``, exactly."""
    downs = [factors.down * (weight * factors.scale) for factors, weight in of]
    return torch.cat(downs, dim=0), torch.cat([factors.up for factors, _ in of], dim=1)


def _by_factor(of: Sequence[Share], method: MergeMethod, _rank: int) -> tuple[Tensor, Tensor]:
    """Return every A with every A and every B with every B, each by the root of its weight.

    Source: ``_generalized_task_arithmetic_weighted_adapter`` of peft, which puts the sign of a
    negative weight on A alone.
    """
    scaled = [weight * factors.scale for factors, weight in of]
    roots = [math.sqrt(abs(each)) for each in scaled]
    signed = [math.copysign(root, each) for root, each in zip(roots, scaled, strict=True)]
    return (
        combine([factors.down for factors, _ in of], signed, method),
        combine([factors.up for factors, _ in of], roots, method),
    )


def _by_delta(of: Sequence[Share], method: MergeMethod, rank: int) -> tuple[Tensor, Tensor]:
    """Return the nearest factors of a rank to what a method makes of the products."""
    if method.kind.rule == "sum":
        return _cut(*_side_by_side(of, method, rank), rank)
    deltas = [factors.delta() for factors, _ in of]
    left, values, right = torch.linalg.svd(
        combine(deltas, [weight for _, weight in of], method), full_matrices=False
    )
    return right[:rank], left[:, :rank] * values[:rank]


def _cut(down: Tensor, up: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the nearest factors of a smaller rank, by the SVD of ``R_B R_A^T`` alone.

    With ``B = Q_B R_B`` and ``A^T = Q_A R_A`` the small matrix has the singular values of
    ``B A``, which as a whole is never built.

    Args:
        down: ``A``, ``[r, in]``.
        up: ``B``, ``[out, r]``.
        rank: of the result, which is smaller where ``r`` or a side is.
    """
    outer, small_up = torch.linalg.qr(up)
    inner, small_down = torch.linalg.qr(down.T)
    left, values, right = torch.linalg.svd(small_up @ small_down.T, full_matrices=False)
    return right[:rank] @ inner.T, outer @ (left[:, :rank] * values[:rank])


_JOIN: Mapping[str, Callable[[Sequence[Share], MergeMethod, int], tuple[Tensor, Tensor]]] = {
    "ranks": _side_by_side,
    "factors": _by_factor,
    "delta": _by_delta,
}
