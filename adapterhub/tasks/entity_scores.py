"""Scores of the spans that BIO tags mark."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from adapterhub.tasks.classification import label_table
from adapterhub.tasks.predictions import ratio

if TYPE_CHECKING:
    from adapterhub.tasks.predictions import Array


def entity_scores(
    expected: list[list[str]], found: list[list[str]]
) -> tuple[dict[str, float], list[dict[str, float | str]]]:
    """Return precision, recall and F1 over all spans, and a record per span type."""
    from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support

    # seqeval returns the types in alphabetical order, without their names
    types = sorted({kind for kind, _, _ in [*get_entities(expected), *get_entities(found)]})
    micro = precision_recall_fscore_support(expected, found, average="micro", zero_division=0)
    columns = precision_recall_fscore_support(expected, found, average=None, zero_division=0)
    precision, recall, f1 = (float(value) for value in micro[:3])
    table = label_table(types, columns)
    return {"entity_precision": precision, "entity_recall": recall, "entity_f1": f1}, table


def span_metrics(sums: Array) -> dict[str, Array]:
    """Return metrics for sums of correct, predicted and expected spans, correct and all words."""
    hits, found, gold, right, words = np.moveaxis(sums, -1, 0)
    return {
        "entity_precision": ratio(hits, found),
        "entity_recall": ratio(hits, gold),
        "entity_f1": ratio(2.0 * hits, gold + found),
        "token_accuracy": ratio(right, words),
    }
