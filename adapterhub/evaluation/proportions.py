"""Shares, how sure they are, and differences of two shares on the same things."""

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
    """A share of things.

    Args:
        value: from 0 to 1.
        interval: of it.
    """

    value: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Delta:
    """How far two shares of the same things are apart.

    Args:
        value: the second less the first.
        interval: of it, for pairs.
    """

    value: float
    interval: Interval

    @property
    def shown(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.interval.low > 0 or self.interval.high < 0


def proportion(hits: ArrayLike, *, units: int | None = None, level: float = LEVEL) -> Proportion:
    """Return a share with Wilson's score interval, which also holds where all or none hit.

    Source: Wilson 1927, Journal of the American Statistical Association 22 (158).

    Args:
        hits: whether each thing hits, ``[things]``, one at least.
        units: how many of them are independent; all where not given.
        level: confidence.

    Raises:
        ValueError: when there are none.
    """
    found = np.asarray(hits, dtype=float)
    if not found.size:
        raise ValueError("there is no share of nothing")
    value, count = float(found.mean()), units or found.size
    z = float(norm.ppf((1 + level) / 2))
    middle = (value + z * z / (2 * count)) / (1 + z * z / count)
    spread = math.sqrt(value * (1 - value) / count + z * z / (4 * count * count))
    half = z * spread / (1 + z * z / count)
    # at both ends the formula gives the value itself, but for rounding
    low, high = min(value, max(0.0, middle - half)), max(value, min(1.0, middle + half))
    return Proportion(value, Interval(low, high, level))


def paired_delta(
    first: ArrayLike, second: ArrayLike, *, units: int | None = None, level: float = LEVEL
) -> Delta:
    """Return the difference of two shares of the same things, with an interval for pairs.

    The ends of both Wilson intervals are put together by squares, less what the two have in
    common; so it has a width also where nothing differs.
    Source: Newcombe 1998, Statistics in Medicine 17 (22), for paired data, method 10.

    Args:
        first: whether each thing hits, ``[things]``.
        second: the same things.
        units: how many of them are independent; all where not given.
        level: confidence.

    Raises:
        ValueError: when there are none, or not as many of both.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"{a.size} and {b.size} things can't be paired")
    one, two = (proportion(each, units=units, level=level) for each in (a, b))
    common = _correlation(a, b, units or a.size)
    value = two.value - one.value
    below = _joined(two.value - two.interval.low, one.interval.high - one.value, common)
    above = _joined(two.interval.high - two.value, one.value - one.interval.low, common)
    return Delta(value, Interval(value - below, value + above, level))


def _joined(one: float, other: float, common: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * common * one * other + other * other))


def _correlation(a: np.ndarray, b: np.ndarray, units: int) -> float:
    """Return the coefficient phi, corrected as in the source; 0 where one is always the same.

    The correction keeps two shares that agree in everything seen from being sure to agree. The
    numbers of pairs of each kind are those of the independent ones.
    """
    share = units / a.size
    both, none = share * float((a * b).sum()), share * float(((1 - a) * (1 - b)).sum())
    only_a, only_b = share * float((a * (1 - b)).sum()), share * float(((1 - a) * b).sum())
    above = both * none - only_a * only_b
    if above > 0:
        above = max(0.0, above - units / 2)
    below = math.sqrt((both + only_a) * (none + only_b) * (both + only_b) * (none + only_a))
    return above / below if below else 0.0
