"""Weights of a blend found on a handful of examples, without gradients.

The optimizer is CMA-ES of the package ``cmaes``, which Optuna uses too. nevergrad, which the
paper used, asks for a bayesian-optimization of exactly 1.4.0 and for a GPL library.
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

#: Settings of the authors of LoraHub.
BUDGET = 40
BOUNDS = 1.5
L1 = 0.05


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The best weights that a search came upon.

    Args:
        weights: one an adapter.
        loss: with these weights, without the penalty.
        evaluations: how often the loss was asked for.
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
    """Return the weights with the least ``loss(w) + l1 * mean(|w|)`` that were tried.

    Args:
        loss: of a blend with these weights on the examples; what is not finite counts as the
            worst.
        count: of adapters, 2 or more.
        budget: how often ``loss`` is asked for.
        seed: of the search; the same one with the same losses gives the same weights.
        bounds: largest weight, and with a minus the smallest one.
        l1: how much large weights are disliked.

    Raises:
        RecipeError: when a setting can't be used, or no weights gave a finite loss.
        MissingExtraError: without the extra ``serve``.

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
    # a third of the bounds: what is drawn at the start lies mostly inside
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
