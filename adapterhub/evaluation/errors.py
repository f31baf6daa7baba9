"""Errors of an adapter: its worst examples and most confused labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.tasks.base import Task
    from adapterhub.tasks.fields import Example
    from adapterhub.tasks.predictions import ErrorExample, LabelChoices


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


def most_confused(choices: LabelChoices, count: int) -> list[ConfusedLabels]:
    """Return the most frequent confusions; of equally frequent ones those of the first labels."""
    labels = choices.labels
    wrong = ~choices.correct
    # counts of the pairs that occur: a table of all pairs would grow with the square of the labels
    pairs, counts = np.unique(
        np.stack([choices.gold[wrong], choices.predicted[wrong]], axis=-1).astype(int),
        axis=0,
        return_counts=True,
    )
    totals = np.bincount(choices.gold.astype(int), minlength=len(labels))
    order = np.argsort(-counts, kind="stable")[:count]
    return [
        ConfusedLabels(labels[a], labels[b], int(counts[place]), counts[place] / totals[a])
        for place in order
        for a, b in [pairs[place]]
    ]
