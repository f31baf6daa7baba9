"""Scores of directed relations, as the official scorer of SemEval-2010 task 8 counts them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: A relation with its direction, e.g. ``Cause-Effect(e2,e1)``.
DIRECTED = re.compile(r"(?P<relation>.+)\((?P<first>e[12]),(?P<second>(?!(?P=first))e[12])\)")


def relation_scores(
    expected: Sequence[str], found: Sequence[str]
) -> tuple[dict[str, float], list[dict[str, float | str]]]:
    """Return macro-averaged scores over relations, and a record a relation.

    The two directions of a relation count as one class, in which an answer in the wrong
    direction is wrong: it lowers precision and recall of the relation. Labels without a
    direction (``Other``) have no part in the means, but answering a relation where there is
    none lowers its precision. The means are over the relations that ``expected`` has.

    Source: ``semeval2010_task8_scorer-v1.2.pl``, "(9+1)-way evaluation taking directionality
    into account", which its README calls official; Hendrickx et al. 2010.

    Args:
        expected: labels with direction.
        found: as many.

    Returns:
        ``relation_f1``, ``relation_precision``, ``relation_recall``; and records of
        ``label``, ``precision``, ``recall``, ``f1`` and ``support``.
    """
    table: list[dict[str, float | str]] = []
    for relation in sorted({relation_of(label) for label in expected if DIRECTED.fullmatch(label)}):
        support = sum(relation_of(label) == relation for label in expected)
        answered = sum(relation_of(label) == relation for label in found)
        right = sum(
            wanted == label and relation_of(label) == relation
            for wanted, label in zip(expected, found, strict=True)
        )
        precision = right / answered if answered else 0.0
        recall = right / support
        total = precision + recall
        table.append(
            {
                "label": relation,
                "precision": precision,
                "recall": recall,
                "f1": 2 * precision * recall / total if total else 0.0,
                "support": float(support),
            }
        )
    metrics = {f"relation_{name}": _mean(table, name) for name in ("f1", "precision", "recall")}
    return metrics, table


def relation_of(label: str) -> str:
    """Return a label without its direction."""
    match = DIRECTED.fullmatch(label)
    return match["relation"] if match else label


def _mean(table: Sequence[dict[str, float | str]], name: str) -> float:
    values = [float(record[name]) for record in table]
    return sum(values) / len(values) if values else 0.0
