"""Paired significance tests of two adapters on the same examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from adapterhub.evaluation.bootstrap import LEVEL, RESAMPLES, Interval, interval_of, resampled
from adapterhub.tasks.predictions import ExampleStatistics

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from adapterhub.tasks.predictions import Array, Scores

#: Permutations of the paired permutation test.
PERMUTATIONS = 9999
_HELD = 4_000_000


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric of two adapters on the same examples.

    Args:
        metric: Name of the metric.
        first: Value of the first adapter.
        second: Value of the second adapter.
        interval: Interval of ``second - first`` by a paired bootstrap.
        p_value: Probability of so large a difference if the adapters do not differ.
        test: Test of ``p_value``: ``permutation`` or ``bootstrap``.
    """

    metric: str
    first: float
    second: float
    interval: Interval
    p_value: float
    test: str

    @property
    def value(self) -> float:
        """``second - first``."""
        return self.second - self.first


@dataclass(frozen=True, slots=True)
class McNemar:
    """Number of examples that two adapters predict correctly, and the exact two-sided p-value."""

    both: int
    first_only: int
    second_only: int
    neither: int
    p_value: float


def differences(
    first: Scores,
    second: Scores,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> list[Difference]:
    """Compare each common metric of two adapters on the same examples in the same order.

    Raises:
        ValueError: when their numbers of examples differ.
    """
    if first.size != second.size:
        raise ValueError(f"{first.size} and {second.size} examples can't be paired")
    drawn = [resampled(each, resamples=resamples, seed=seed) for each in (first, second)]
    whole = np.arange(first.size)[None, :]
    points = [each.metrics(whole) for each in (first, second)]
    found = []
    for metric in points[0]:
        if metric not in points[1]:
            continue
        a, b = (float(point[metric][0]) for point in points)
        spread = drawn[1][metric] - drawn[0][metric]
        p_value, test = _p_value(first, second, metric, spread, seed)
        found.append(Difference(metric, a, b, interval_of(spread, level), p_value, test))
    return found


def mcnemar(first: ArrayLike, second: ArrayLike) -> McNemar:
    """Return the exact McNemar test of two adapters.

    Only examples on which the two differ count: under the null hypothesis each adapter is as
    likely correct on them, so the count is binomial with probability one half.
    Source: McNemar 1947; the exact form as in Dietterich 1998, Neural Computation 10 (7).
    """
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    differing = only_a + only_b
    p_value = float(stats.binomtest(only_a, differing).pvalue) if differing else 1.0
    return McNemar(int((a & b).sum()), only_a, only_b, int((~a & ~b).sum()), p_value)


def _p_value(
    first: Scores, second: Scores, metric: str, spread: Array, seed: int
) -> tuple[float, str]:
    if (
        isinstance(first, ExampleStatistics)
        and isinstance(second, ExampleStatistics)
        and first.meaning == second.meaning
    ):
        return _permuted(first, second, metric, seed), "permutation"
    # share of the bootstrap distribution beyond no difference; the observed value counts as one
    # more draw, and resamples with an undefined metric do not count
    known = spread[~np.isnan(spread)]
    beyond = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2.0 * (beyond + 1) / (len(known) + 1)), "bootstrap"


def _permuted(first: ExampleStatistics, second: ExampleStatistics, metric: str, seed: int) -> float:
    """Return the p-value of swapping the adapters' predictions on random examples.

    Source: Yeh 2000, "More accurate tests for the statistical significance of result
    differences", arXiv:cs/0008005.
    """
    examples = first.size
    if examples < 2:
        # both permutations of one example are as extreme as the observed value
        return 1.0
    values = np.concatenate([first.values, second.values])

    def difference(x: Array, y: Array, axis: int) -> Any:
        a, b = (first.formula(chosen(each, 2 * examples) @ values)[metric] for each in (x, y))
        return b - a

    test = stats.permutation_test(
        (np.arange(examples), np.arange(examples, 2 * examples)),
        difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=PERMUTATIONS,
        batch=max(1, _HELD // (2 * examples)),
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


def chosen(indices: Array, size: int) -> Array:
    """Return a mask ``[..., size]`` of the indices in the last axis."""
    chosen = np.zeros((*indices.shape[:-1], size))
    np.put_along_axis(chosen, indices.astype(int), 1.0, axis=-1)
    return chosen
