"""Gradient-free search of blend weights on a few examples.

The optimizer is CMA-ES of the package ``cmaes``, which Optuna uses too. nevergrad, which the
paper used, requires exactly bayesian-optimization 1.4.0 and a GPL library.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from adapterhub.errors import MissingExtraError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cmaes import CMA

#: Settings of LoraHub's authors.
BUDGET = 40
BOUNDS = 1.5
L1 = 0.05


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Best weights of a search.

    Args:
        loss: Loss with these weights, without the penalty.
    """

    weights: tuple[float, ...]
    loss: float
    evaluations: int


def optimize_weights(
    loss: Callable[[Sequence[float]], float],
    count: int,
    *,
    budget: int = BUDGET,
    seed: int = 0,
    bounds: float = BOUNDS,
    l1: float = L1,
) -> SearchResult:
    """Minimize ``loss(w) + l1 * mean(|w|)`` over the weights of a blend.

    Args:
        loss: Function from weights to the blend's loss on the examples; a value that is not
            finite counts as the worst.
        seed: Seed of the search; equal seeds and losses give equal weights.
        bounds: Largest absolute weight.
        l1: Factor of the penalty on weights.

    Source: LoraHub, Huang et al. 2023 (arXiv:2307.13269), section 3, with the mean of the
    authors' code in the penalty; CMA-ES, Hansen 2016 (arXiv:1604.00772).
    """
    _check_settings(count, budget, bounds, l1)
    optimizer = _optimizer(count, bounds, seed)
    best, least = None, math.inf
    generation: list[tuple[Any, float]] = []
    for _ in range(budget):
        point = optimizer.ask()
        weights = tuple(map(float, point))
        value = loss(weights)
        penalized = value + l1 * sum(map(abs, weights)) / count
        if penalized < least:
            best, least = SearchResult(weights, value, budget), penalized
        generation.append((point, penalized if math.isfinite(penalized) else math.inf))
        if len(generation) == optimizer.population_size:
            optimizer.tell(generation)
            generation = []
    if best is None:
        raise RecipeError("no weights gave a finite loss", place="composition.search")
    return best


def _optimizer(count: int, bounds: float, seed: int) -> CMA:
    try:
        from cmaes import CMA
    except ImportError:
        raise MissingExtraError("cmaes", "serve") from None
    box = np.array([[-bounds, bounds]] * count)
    # with a third of the bounds the first draws lie mostly inside them
    return CMA(np.zeros(count), bounds / 3, bounds=box, seed=seed)


def _check_settings(count: int, budget: int, bounds: float, l1: float) -> None:
    for name, value, least in (("adapters", count, 2), ("budget", budget, 1)):
        if value < least:
            raise RecipeError(
                f"must be {least} or more, found {value}", place=f"composition.search.{name}"
            )
    if not (bounds > 0 and math.isfinite(bounds)) or l1 < 0:
        raise RecipeError(
            f"bounds {bounds} must be above 0 and l1 {l1} not negative", place="composition.search"
        )
