"""BIO tags: repair, spans and entity scores.

A tag is ``O``, ``B-TYPE`` for the first word of a span, or ``I-TYPE`` for a later one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from adapterhub.errors import RecipeError
from adapterhub.tasks.classification import label_table
from adapterhub.tasks.predictions import ratio

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from adapterhub.tasks.predictions import Array

OUTSIDE = "O"


def check_tags(tags: Iterable[str]) -> None:
    """Require BIO tags."""
    for tag in tags:
        if tag != OUTSIDE and not (tag[:2] in ("B-", "I-") and tag[2:]):
            raise RecipeError(
                f"{tag!r} is not a BIO tag",
                place="data.fields.tags",
                hint="Tags are O, B-TYPE or I-TYPE",
            )


def repair(tags: Sequence[str]) -> list[str]:
    """Return tags in which every span starts with ``B``.

    An ``I-TYPE`` that does not follow ``B-TYPE`` or ``I-TYPE`` becomes ``B-TYPE``. conlleval
    reads such tags in the same way, so no span score changes, and it turns the older IOB1
    scheme into BIO.
    """
    repaired: list[str] = []
    for tag in tags:
        previous = repaired[-1] if repaired else OUTSIDE
        starts = tag.startswith("I-") and previous[2:] != tag[2:]
        repaired.append(f"B-{tag[2:]}" if starts else tag)
    return repaired


def spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return ``(type, first word, one past the last word)`` for each span of repaired tags."""
    found: list[tuple[str, int, int]] = []
    for index, tag in enumerate(tags):
        if tag.startswith("B-"):
            found.append((tag[2:], index, index + 1))
        elif tag.startswith("I-"):
            kind, start, _ = found[-1]
            found[-1] = (kind, start, index + 1)
    return found


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
