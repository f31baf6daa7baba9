"""Do new examples come from where the old ones came from? Two-sample tests, by texts and by labels."""

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

if TYPE_CHECKING:
    from collections.abc import Mapping

    from adapterhub.tasks.predictions import Array

#: A p-value below it, shared between the tests that are made, is drift.
LEVEL = 0.05
#: Least p-value of the test of texts is one over one more than this.
PERMUTATIONS = 999
#: Of each kind; the effect is found by as many folds.
MIN_EXAMPLES = 5
#: Tables drawn for the test of labels.
_TABLES = 9999
#: Weights of shuffles held at once, in numbers of 8 bytes.
_HELD = 1_000_000


@dataclass(frozen=True, slots=True)
class DriftTest:
    """What came of one test.

    Args:
        what: ``text`` or ``labels``.
        test: by which it was tested, in words.
        effect: how large the drift is: for texts the area under the ROC curve of a classifier
            that tells new from old (0.5 is by chance, 1 without fault), for labels Cramér's V
            (0 to 1).
        p_value: how often so large an effect comes up where nothing drifts.
        old: old examples that were looked at.
        new: new examples that were looked at.
    """

    what: str
    test: str
    effect: float
    p_value: float
    old: int
    new: int


@dataclass(frozen=True, slots=True)
class Drift:
    """All tests together.

    Args:
        tests: that were made.
        level: chance of finding drift where there is none, all tests together.
    """

    tests: tuple[DriftTest, ...]
    level: float

    @property
    def found(self) -> tuple[DriftTest, ...]:
        """The tests that found drift; the level is shared between them (Bonferroni)."""
        return tuple(t for t in self.tests if t.p_value < self.level / len(self.tests))


def text_drift(old: Array, new: Array, *, seed: int = 0) -> DriftTest:
    """Test by the maximum mean discrepancy, with a p-value by shuffling old and new.

    The width of the Gaussian kernel is the median distance. Source: Gretton et al. 2012, "A
    Kernel Two-Sample Test", JMLR 13; the effect is Lopez-Paz and Oquab 2017, "Revisiting
    Classifier Two-Sample Tests", arXiv:1610.06545.

    Args:
        old: embeddings of old examples, ``[old, hidden]``.
        new: embeddings of new examples, ``[new, hidden]``.
        seed: of shuffles and folds.

    Raises:
        ValueError: when there are fewer than ``MIN_EXAMPLES`` of one kind.
    """
    if min(len(old), len(new)) < MIN_EXAMPLES:
        raise ValueError(f"the test takes {MIN_EXAMPLES} examples of each kind at least")
    both = np.concatenate([old, new])
    squares = euclidean_distances(both, squared=True)
    kernel = np.exp(-squares / max(float(np.median(squares)), np.finfo(np.float32).tiny))

    def discrepancy(x: Array, y: Array, axis: int) -> Array:
        weights = _mean_of(x, len(both)) - _mean_of(y, len(both))
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
    effect = _told_apart(both, len(old), seed)
    test = "maximum mean discrepancy"
    return DriftTest("text", test, effect, float(tested.pvalue), len(old), len(new))


def label_drift(old: Mapping[str, int], new: Mapping[str, int], *, seed: int = 0) -> DriftTest:
    """Test whether labels are as frequent as before, by chi-squared over drawn tables.

    Drawing tables instead of trusting the distribution's tail holds for rare labels too.

    Args:
        old: label to its number in old examples.
        new: label to its number in new examples.
        seed: of what is drawn.

    Raises:
        ValueError: when one has no label at all.
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


def _mean_of(indices: Array, size: int) -> Array:
    """Return ``[..., size]``: a product with it is a mean over the indices, ``[..., n]``."""
    weights = np.zeros((*indices.shape[:-1], size))
    np.put_along_axis(weights, indices.astype(int), 1.0 / indices.shape[-1], axis=-1)
    return weights


def _told_apart(both: Array, old: int, seed: int) -> float:
    """Return how well a linear classifier tells new examples from old ones that it did not see."""
    is_new = np.arange(len(both)) >= old
    scores = cross_val_predict(
        make_pipeline(StandardScaler(), RidgeClassifier()),
        both,
        is_new,
        cv=StratifiedKFold(MIN_EXAMPLES, shuffle=True, random_state=seed),
        method="decision_function",
    )
    return float(roc_auc_score(is_new, scores))
