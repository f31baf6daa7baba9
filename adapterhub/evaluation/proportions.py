"""Proportions with confidence intervals, and differences of paired proportions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import norm

from adapterhub.evaluation.bootstrap import LEVEL, Interval

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True)
class Proportion:
    """A proportion with its confidence interval."""

    value: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Delta:
    """Second minus first of two paired proportions, with its interval."""

    value: float
    interval: Interval

    @property
    def shown(self) -> bool:
        """Whether the interval excludes 0."""
        return self.interval.low > 0 or self.interval.high < 0


def proportion(hits: ArrayLike, *, units: int | None = None, level: float = LEVEL) -> Proportion:
    """Return a proportion with Wilson's score interval, which is valid near 0 and 1 too.

    Source: Wilson 1927, Journal of the American Statistical Association 22 (158).

    Args:
        hits: Outcome of each trial, ``[trials]``, at least one.
        units: Number of independent trials; all where ``None``.
        level: Confidence level.

    Raises:
        ValueError: when there are no trials.
    """
    found = np.asarray(hits, dtype=float)
    if not found.size:
        raise ValueError("a proportion needs at least one trial")
    value, count = float(found.mean()), units or found.size
    z = float(norm.ppf((1 + level) / 2))
    middle = (value + z * z / (2 * count)) / (1 + z * z / count)
    spread = math.sqrt(value * (1 - value) / count + z * z / (4 * count * count))
    half = z * spread / (1 + z * z / count)
    # at 0 and 1 the formula gives the value itself, up to rounding
    low, high = min(value, max(0.0, middle - half)), max(value, min(1.0, middle + half))
    return Proportion(value, Interval(low, high, level))


def paired_delta(
    first: ArrayLike, second: ArrayLike, *, units: int | None = None, level: float = LEVEL
) -> Delta:
    """Return the difference of two proportions over the same trials, with a paired interval.

    The Wilson intervals are combined as squares, corrected by their correlation, so that the
    interval has a width even where the outcomes are equal. ``units`` is as in ``proportion``.
    Source: Newcombe 1998, Statistics in Medicine 17 (22), for paired data, method 10.

    Raises:
        ValueError: when there are no trials, or their numbers differ.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"{a.size} and {b.size} trials can't be paired")
    one, two = (proportion(each, units=units, level=level) for each in (a, b))
    common = _correlation(a, b, units or a.size)
    value = two.value - one.value
    below = _joined(two.value - two.interval.low, one.interval.high - one.value, common)
    above = _joined(two.interval.high - two.value, one.value - one.interval.low, common)
    return Delta(value, Interval(value - below, value + above, level))


def _joined(one: float, other: float, common: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * common * one * other + other * other))


def _correlation(a: np.ndarray, b: np.ndarray, units: int) -> float:
    """Return the phi coefficient, corrected as in the source; 0 where one side is constant.

    The correction avoids an interval of zero width for equal outcomes. Counts are scaled to the
    number of independent trials.
    """
    share = units / a.size
    both, none = share * float((a * b).sum()), share * float(((1 - a) * (1 - b)).sum())
    only_a, only_b = share * float((a * (1 - b)).sum()), share * float(((1 - a) * b).sum())
    above = both * none - only_a * only_b
    if above > 0:
        above = max(0.0, above - units / 2)
    below = math.sqrt((both + only_a) * (none + only_b) * (both + only_b) * (none + only_a))
    return above / below if below else 0.0
