"""How well probabilities tell what pleases, and rank it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: How many of a ranked list count.
RANKED = 10


def ranking_scores(
    labels: Sequence[int], gains: Sequence[float], groups: Sequence[str], chances: Sequence[float]
) -> dict[str, float]:
    """Return ``auc`` over all examples, ``ndcg_at_10`` over groups, and ``groups`` counted.

    Groups that tell nothing of a ranking (see ``group_ndcg``) are left out, and so are examples of no
    group, which nobody saw as one list; where no group is left, ``ndcg_at_10`` is left out as well.

    Args:
        labels: 0 or 1 each.
        gains: worth of each example, at least 0.
        groups: name of the group of each example, empty for one that is in none.
        chances: probability of each example.

    Raises:
        DataError: when there are no examples, or all have the same label.
    """
    from sklearn.metrics import roc_auc_score

    if len(set(labels)) < 2:
        raise DataError(
            "there are no examples to score"
            if not labels
            else f"all examples have the label {labels[0]}",
            hint="AUC needs examples of both labels",
        )
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        if group:
            members.setdefault(group, []).append(index)
    each = [
        group_ndcg([gains[i] for i in examples], [chances[i] for i in examples])
        for examples in members.values()
    ]
    told = [value for value in each if value is not None]
    scores = {"auc": float(roc_auc_score(labels, chances)), "groups": float(len(told))}
    if told:
        scores["ndcg_at_10"] = sum(told) / len(told)
    return scores


def group_ndcg(gains: Sequence[float], chances: Sequence[float]) -> float | None:
    """Return NDCG at 10 of one group's candidates; ``None`` where it tells nothing.

    It compares candidates by gains and a logarithmic discount, as scikit-learn computes it
    (equal scores share the mean of their places). A single candidate, and candidates without
    any gain, tell nothing of a ranking.

    Source: Järvelin and Kekäläinen 2002, "Cumulated gain-based evaluation of IR techniques".

    Args:
        gains: worth of each candidate, at least 0.
        chances: probability of each.
    """
    from sklearn.metrics import ndcg_score

    if len(gains) < 2 or not any(gains):
        return None
    return float(ndcg_score([list(gains)], [list(chances)], k=RANKED))
