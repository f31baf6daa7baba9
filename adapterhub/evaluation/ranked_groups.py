"""Metrics of ranked candidates over resamples of whole groups: users are drawn, not ratings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import roc_auc_score

from adapterhub.tasks.ranking_scores import group_ndcg

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from adapterhub.tasks.ranking import Judged

#: Resamples; the area under a curve of some thousand examples takes milliseconds for each.
_MOST = 500


@dataclass(frozen=True, slots=True, eq=False)
class RankedGroups:
    """Predictions for candidates of several groups, of which whole groups are drawn.

    The ratings of one user depend on each other, and NDCG is a mean over users: examples drawn one
    by one would take a user's list apart, and give intervals that are too narrow.

    Args:
        judged: labels, gains and groups of the examples.
        chances: probability of each example.
        most: see ``Scores``.
    """

    judged: Judged
    chances: Sequence[float]
    most: int | None = _MOST
    #: [examples], which group each example belongs to
    places: NDArray[Any] = field(init=False)
    #: [groups], NDCG of each; NaN for a group that tells nothing of a ranking
    ndcg: NDArray[Any] = field(init=False)

    def __post_init__(self) -> None:
        names, places = np.unique(np.array(self.judged.groups), return_inverse=True)
        values = [self._group_ndcg(places == group) for group in range(len(names))]
        object.__setattr__(self, "places", places)
        object.__setattr__(self, "ndcg", np.array(values, dtype=float))

    @property
    def size(self) -> int:
        """Number of groups: what is drawn."""
        return len(self.ndcg)

    def metrics(self, indices: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        """Return ``auc`` and ``ndcg_at_10`` of each resample; see ``Scores``."""
        counts = np.stack([np.bincount(drawn, minlength=self.size) for drawn in indices])
        found = {"auc": np.array([self._auc(each) for each in counts])}
        told = ~np.isnan(self.ndcg)
        if told.any():
            weights = counts[:, told]
            total = weights.sum(-1)
            sums = weights @ self.ndcg[told]
            found["ndcg_at_10"] = np.divide(
                sums, total, out=np.full(len(total), np.nan), where=total > 0
            )
        return found

    def _auc(self, counts: NDArray[Any]) -> float:
        """Return the area where groups count so often each; NaN where one label is left."""
        weights = counts[self.places]
        labels = np.array(self.judged.labels)
        if len(set(labels[weights > 0])) < 2:
            return float("nan")
        return float(roc_auc_score(labels, self.chances, sample_weight=weights))

    def _group_ndcg(self, inside: NDArray[Any]) -> float:
        gains = np.array(self.judged.gains, dtype=float)[inside]
        chances = np.array(self.chances, dtype=float)[inside]
        found = group_ndcg(gains.tolist(), chances.tolist())
        return float("nan") if found is None else found
