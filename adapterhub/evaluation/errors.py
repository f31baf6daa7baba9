"""Errors of an adapter: its worst examples and most confused labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.tasks.base import Task
    from adapterhub.tasks.fields import Example
    from adapterhub.tasks.predictions import Array, ErrorExample


@dataclass(frozen=True, slots=True)
class ConfusedLabels:
    """A label predicted in place of another, and its share of all choices with label ``gold``."""

    gold: str
    predicted: str
    count: int
    share: float


def worst_examples(
    task: Task, examples: Sequence[Example], decoded: Sequence[Any], *, count: int = 10
) -> list[ErrorExample]:
    """Return the wrongly predicted examples with the largest errors, the largest first."""
    found = task.errors(examples, decoded)
    return sorted(found, key=lambda each: -each.error)[:count]


def most_confused(matrix: Array, labels: Sequence[str], count: int) -> list[ConfusedLabels]:
    """Return the most frequent confusions, given counts ``[gold, predicted]``."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    totals = matrix.sum(-1)
    pairs = [(int(each) // len(labels), int(each) % len(labels)) for each in order]
    return [
        ConfusedLabels(labels[a], labels[b], int(wrong[a, b]), wrong[a, b] / totals[a])
        for a, b in pairs
        if wrong[a, b]
    ]
