"""Bootstrap intervals of metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from adapterhub.tasks.predictions import Array, Scores

RESAMPLES = 2000
LEVEL = 0.95
#: Drawn indices held at once.
_HELD = 4_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """Confidence interval of a metric over other examples from the same distribution."""

    low: float
    high: float
    level: float


def intervals(
    scores: Scores, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> dict[str, Interval]:
    """Return the percentile bootstrap interval of each metric.

    It reflects the choice of examples, not the randomness of training.
    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    return {
        name: interval_of(values, level)
        for name, values in resampled(scores, resamples=resamples, seed=seed).items()
    }


def resampled(scores: Scores, *, resamples: int, seed: int) -> dict[str, Array]:
    """Return metric name to its values on examples drawn with replacement, ``[resamples]``.

    Equal seeds draw equal examples, so that two sets of predictions stay paired.
    """
    count = resamples if scores.max_resamples is None else min(resamples, scores.max_resamples)
    parts = [scores.metrics(drawn) for drawn in _draws(scores.size, count, seed)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def interval_of(values: Array, level: float) -> Interval:
    """Return the percentile interval that contains ``level`` of the values."""
    outside = (1.0 - level) / 2.0
    low, high = np.nanquantile(values, [outside, 1.0 - outside])
    return Interval(float(low), float(high), level)


def _draws(examples: int, count: int, seed: int) -> Iterator[Array]:
    generator = np.random.default_rng(seed)
    each = max(1, min(count, _HELD // max(examples, 1)))
    for start in range(0, count, each):
        yield generator.integers(0, examples, size=(min(each, count - start), examples))
