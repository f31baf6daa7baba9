"""Merges of LoRA adapters: concatenation, sums of factors, and truncated SVD of products."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from peft.utils import merge_utils

from adapterhub.adapters.peft_format import ALL_LINEAR, LORA_KEY
from adapterhub.errors import RecipeError
from adapterhub.specs import LoraSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

    from adapterhub.adapters.weights import AdapterWeights
    from adapterhub.composition.method import MergeMethod


@dataclass(frozen=True, slots=True, eq=False)
class LoraPair:
    """LoRA factors of one linear layer: ``y = W x + scale * B A x``, in float32.

    Args:
        down: ``A``.
        up: ``B``.
        scale: Factor of the product.
    """

    # [rank, in]
    down: Tensor
    # [out, rank]
    up: Tensor
    scale: float = 1.0

    def delta(self) -> Tensor:
        """Return ``scale * B A``, ``[out, in]``."""
        return self.up @ self.down * self.scale


#: Pairs of the adapters that change one module, with the weight of each.
WeightedPairs: TypeAlias = "Sequence[tuple[LoraPair, float]]"


def merge_lora(
    adapters: Sequence[AdapterWeights],
    specs: Sequence[LoraSpec],
    weights: Sequence[float],
    method: MergeMethod,
) -> tuple[LoraSpec, dict[str, Tensor]]:
    """Return spec and tensors of merged LoRA adapters, with scales and weights folded in.

    A module that an adapter does not change gets nothing from it.
    """
    rank = _merged_rank(specs, method)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(method.seed)
        merged = {
            module: _merge_module(pairs, method, rank)
            for module, pairs in _pairs_by_module(adapters, specs, weights)
        }
    return _merged_spec(specs, merged, rank), _tensors(merged, rank)


def lora_pairs(adapter: AdapterWeights, spec: LoraSpec) -> dict[str, LoraPair]:
    """Return the LoRA factors of an adapter by module."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in adapter.tensors.items():
        if match := LORA_KEY.fullmatch(key):
            if match["part"].startswith("lora_embedding"):
                raise RecipeError(
                    "LoRA on embeddings cannot be merged",
                    place=match["module"],
                    hint="The engine blends such adapters at serving time",
                )
            parts.setdefault(match["module"], {})[match["part"]] = tensor.detach().float()
    return {
        module: LoraPair(found["lora_A.weight"], found["lora_B.weight"], spec.scaling_of(module))
        for module, found in sorted(parts.items())
    }


def _merged_rank(specs: Sequence[LoraSpec], method: MergeMethod) -> int:
    ranks = [spec.size for spec in specs]
    if method.kind.on == "ranks":
        return sum(ranks)
    if method.kind.on == "delta":
        return method.rank or max(ranks)
    if len({rank for spec in specs for rank in (spec.rank, *spec.rank_pattern.values())}) > 1:
        raise RecipeError(
            f"{method.name!r} needs adapters of one rank, found {_ranks(specs)}",
            place="composition.method",
            hint="Use concat, or a method whose name ends in svd",
        )
    return ranks[0]


def _ranks(specs: Sequence[LoraSpec]) -> str:
    found = {rank for spec in specs for rank in (spec.rank, *spec.rank_pattern.values())}
    return ", ".join(map(str, sorted(found)))


def _pairs_by_module(
    adapters: Sequence[AdapterWeights], specs: Sequence[LoraSpec], weights: Sequence[float]
) -> list[tuple[str, list[tuple[LoraPair, float]]]]:
    modules: dict[str, list[tuple[LoraPair, float]]] = {}
    for adapter, spec, weight in zip(adapters, specs, weights, strict=True):
        for module, pair in lora_pairs(adapter, spec).items():
            modules.setdefault(module, []).append((pair, weight))
    for module, pairs in modules.items():
        shapes = {(pair.up.shape[0], pair.down.shape[1]) for pair, _ in pairs}
        if len(shapes) > 1:
            raise RecipeError(
                f"{module} has {len(shapes)} shapes in the adapters",
                place="composition.adapters",
                hint="They were made for different backbones",
            )
    return sorted(modules.items())


def _merge_module(pairs: WeightedPairs, method: MergeMethod, rank: int) -> tuple[Tensor, Tensor]:
    match method.kind.on:
        case "ranks":
            return _concatenate(pairs)
        case "factors":
            return _merge_factors(pairs, method)
        case "delta":
            return _merge_products(pairs, method, rank)


def _concatenate(pairs: WeightedPairs) -> tuple[Tensor, Tensor]:
    """Return factors whose product is ``sum_i w_i s_i B_i A_i``, exactly."""
    downs = [pair.down * (weight * pair.scale) for pair, weight in pairs]
    return torch.cat(downs, dim=0), torch.cat([pair.up for pair, _ in pairs], dim=1)


def _merge_factors(pairs: WeightedPairs, method: MergeMethod) -> tuple[Tensor, Tensor]:
    """Merge the ``A`` of all adapters and their ``B``, each scaled by the root of its weight.

    Source: ``_generalized_task_arithmetic_weighted_adapter`` of peft, which puts the sign of a
    negative weight on ``A`` alone.
    """
    scaled = [weight * pair.scale for pair, weight in pairs]
    roots = [math.sqrt(abs(each)) for each in scaled]
    signed = [math.copysign(root, each) for root, each in zip(roots, scaled, strict=True)]
    return (
        _combine([pair.down for pair, _ in pairs], signed, method),
        _combine([pair.up for pair, _ in pairs], roots, method),
    )


def _merge_products(pairs: WeightedPairs, method: MergeMethod, rank: int) -> tuple[Tensor, Tensor]:
    """Return the best factors of a rank for the merged products."""
    if method.kind.rule == "sum":
        return _truncate(*_concatenate(pairs), rank)
    deltas = [pair.delta() for pair, _ in pairs]
    left, values, right = torch.linalg.svd(
        _combine(deltas, [weight for _, weight in pairs], method), full_matrices=False
    )
    return right[:rank], left[:, :rank] * values[:rank]


def _truncate(down: Tensor, up: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the best factors of a smaller rank, by the SVD of ``R_B R_A^T`` alone.

    With ``B = Q_B R_B`` and ``A^T = Q_A R_A`` the small matrix has the singular values of
    ``B A``, which is never computed as a whole.

    Args:
        down: ``A``, ``[r, in]``.
        up: ``B``, ``[out, r]``.
        rank: Rank of the result, which is smaller where ``r`` or a side is.
    """
    outer, small_up = torch.linalg.qr(up)
    inner, small_down = torch.linalg.qr(down.T)
    left, values, right = torch.linalg.svd(small_up @ small_down.T, full_matrices=False)
    return right[:rank] @ inner.T, outer @ (left[:, :rank] * values[:rank])


def _combine(tensors: Sequence[Tensor], weights: Sequence[float], method: MergeMethod) -> Tensor:
    """Merge tensors of one shape by peft's own arithmetic; DARE draws from torch's generator.

    Source: ``peft/utils/merge_utils.py``; TIES, Yadav et al. 2023 (arXiv:2306.01708); DARE,
    Yu et al. 2023 (arXiv:2311.03099).
    """
    stack, factors = list(tensors), torch.tensor(weights)
    sign = method.majority_sign or "total"
    with warnings.catch_warnings():
        # peft warns about a density of 1, which is valid here
        warnings.filterwarnings("ignore", message="The density 1")
        match method.kind.rule:
            case "sum":
                return merge_utils.task_arithmetic(stack, factors)
            case "magnitude_prune":
                return merge_utils.magnitude_prune(stack, factors, method.kept)
            case "ties":
                return merge_utils.ties(stack, factors, method.kept, sign)
            case "dare_linear":
                return merge_utils.dare_linear(stack, factors, method.kept)
            case "dare_ties":
                return merge_utils.dare_ties(stack, factors, method.kept, sign)


def _tensors(modules: Mapping[str, tuple[Tensor, Tensor]], rank: int) -> dict[str, Tensor]:
    """Return factors under peft's keys, smaller ones padded by zeros to ``rank``."""
    tensors: dict[str, Tensor] = {}
    for module, (down, up) in modules.items():
        missing = rank - down.shape[0]
        prefix = f"base_model.model.{module}"
        tensors[f"{prefix}.lora_A.weight"] = torch.nn.functional.pad(down, (0, 0, 0, missing))
        tensors[f"{prefix}.lora_B.weight"] = torch.nn.functional.pad(up, (0, missing))
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


def _merged_spec(specs: Sequence[LoraSpec], modules: Iterable[str], rank: int) -> LoraSpec:
    """Return the spec of an adapter whose scales are folded into its factors."""
    named = {spec.target_modules for spec in specs}
    if len(named) == 1:
        (targets,) = named
    elif any(ALL_LINEAR in names for names in named):
        # one adapter's "all-linear" may cover fewer modules than another adapter lists
        targets = tuple(sorted(modules))
    else:
        targets = tuple(sorted({target for names in named for target in names}))
    transposed = any(spec.fan_in_fan_out for spec in specs)
    return LoraSpec(rank=rank, alpha=float(rank), target_modules=targets, fan_in_fan_out=transposed)
