"""Two-sample tests for drift of texts and labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from adapterhub.evaluation.paired_tests import chosen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from adapterhub.tasks.predictions import Array

#: Significance level, divided by the number of tests.
LEVEL = 0.05
#: Permutations of the text test; the least p-value is ``1 / (PERMUTATIONS + 1)``.
PERMUTATIONS = 999
#: Fewest examples of each kind, and number of folds of the effect size.
MIN_EXAMPLES = 5
#: Contingency tables drawn for the label test.
_TABLES = 9999
#: Weights of permutations held at once.
_HELD = 1_000_000


@dataclass(frozen=True, slots=True)
class DriftTest:
    """Result of one test.

    Args:
        what: ``text`` or ``labels``.
        test: Name of the test.
        effect: Effect size: for texts the ROC AUC of a classifier between old and new examples
            (0.5 for no drift), for labels Cramér's V (0 to 1).
        p_value: Probability of so large a statistic without drift.
        old: Number of old examples.
        new: Number of new examples.
    """

    what: str
    test: str
    effect: float
    p_value: float
    old: int
    new: int


@dataclass(frozen=True, slots=True)
class Drift:
    """Results of all tests, at a family-wise significance level."""

    tests: tuple[DriftTest, ...]
    level: float

    @property
    def found(self) -> tuple[DriftTest, ...]:
        """Significant tests, with Bonferroni correction."""
        return tuple(t for t in self.tests if t.p_value < self.level / len(self.tests))


def text_drift(old: Array, new: Array, *, seed: int = 0) -> DriftTest:
    """Test for drift of embedded texts by the maximum mean discrepancy, with a permutation p-value.

    Embeddings are ``[examples, hidden]``. The width of the Gaussian kernel is the median distance.
    Source: Gretton et al. 2012, "A Kernel Two-Sample Test", JMLR 13; the effect is Lopez-Paz and
    Oquab 2017, "Revisiting Classifier Two-Sample Tests", arXiv:1610.06545.

    Raises:
        ValueError: when there are fewer than ``MIN_EXAMPLES`` of one kind.
    """
    if min(len(old), len(new)) < MIN_EXAMPLES:
        raise ValueError(f"the test needs {MIN_EXAMPLES} examples of each kind")
    both = np.concatenate([old, new])
    squares = euclidean_distances(both, squared=True)
    kernel = np.exp(-squares / max(float(np.median(squares)), np.finfo(np.float32).tiny))

    def discrepancy(x: Array, y: Array, axis: int) -> Array:
        weights = chosen(x, len(both)) / x.shape[-1] - chosen(y, len(both)) / y.shape[-1]
        found: Array = ((weights @ kernel) * weights).sum(-1)
        return found

    tested = stats.permutation_test(
        (np.arange(len(old)), np.arange(len(old), len(both))),
        discrepancy,
        vectorized=True,
        n_resamples=PERMUTATIONS,
        batch=max(1, _HELD // len(both)),
        alternative="greater",
        rng=np.random.default_rng(seed),
    )
    effect = _separability(both, len(old), seed)
    test = "maximum mean discrepancy"
    return DriftTest("text", test, effect, float(tested.pvalue), len(old), len(new))


def label_drift(old: Mapping[str, int], new: Mapping[str, int], *, seed: int = 0) -> DriftTest:
    """Test for drift of label frequencies by chi-squared, with a Monte Carlo p-value.

    The Monte Carlo p-value is valid for rare labels too.
    """
    names = sorted(name for name in {*old, *new} if old.get(name) or new.get(name))
    table = np.array([[counts.get(name, 0) for name in names] for counts in (old, new)])
    if not table.sum(axis=1).all():
        raise ValueError("one of the two has no labels")
    effect, p_value = 0.0, 1.0
    if len(names) > 1:
        method = stats.MonteCarloMethod(n_resamples=_TABLES, rng=np.random.default_rng(seed))
        tested = stats.chi2_contingency(table, correction=False, method=method)
        p_value = float(tested.pvalue)
        effect = float(stats.contingency.association(table, method="cramer", correction=False))
    sizes = [int(size) for size in table.sum(axis=1)]
    return DriftTest("labels", "chi-squared", effect, p_value, *sizes)


def _separability(both: Array, old: int, seed: int) -> float:
    """Return the cross-validated ROC AUC of a linear classifier between old and new."""
    is_new = np.arange(len(both)) >= old
    scores = cross_val_predict(
        make_pipeline(StandardScaler(), RidgeClassifier()),
        both,
        is_new,
        cv=StratifiedKFold(MIN_EXAMPLES, shuffle=True, random_state=seed),
        method="decision_function",
    )
    return float(roc_auc_score(is_new, scores))
