"""What was right and what was said, for tasks that choose among labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import confusion_matrix

from adapterhub.evaluation.example_statistics import gold_labels
from adapterhub.tasks.bio import OUTSIDE
from adapterhub.tasks.image_classification import ImageClassification
from adapterhub.tasks.relation_extraction import RelationExtraction
from adapterhub.tasks.text_classification import TextClassification
from adapterhub.tasks.token_classification import TokenClassification

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.evaluation.example_statistics import Array
    from adapterhub.tasks.base import Example, Task


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Choices among labels: one an example, or one a word.

    Args:
        unit: ``examples`` or ``words``.
        labels: names.
        # [choices]
        gold: index of the right label.
        # [choices]
        found: index of the label said.
    """

    unit: str
    labels: tuple[str, ...]
    gold: Array
    found: Array

    @property
    def correct(self) -> Array:
        """Whether each choice is right, ``[choices]``."""
        return self.gold == self.found

    def confusion(self) -> Array:
        """Return how often each label was said for each right one, ``[gold, found]``."""
        matrix: Array = confusion_matrix(self.gold, self.found, labels=np.arange(len(self.labels)))
        return matrix


@dataclass(frozen=True, slots=True)
class Confused:
    """A label said in place of another one.

    Args:
        gold: the right label.
        found: the label said.
        count: how often.
        share: of all choices with the right label ``gold``.
    """

    gold: str
    found: str
    count: int
    share: float


def labelled(task: Task, examples: Sequence[Example], decoded: Sequence[Any]) -> Labelled | None:
    """Return the choices among labels; ``None`` for a task that makes none.

    For tags the type counts and not whether a span begins; words beyond the cut are left out.
    """
    if isinstance(task, RelationExtraction):
        task = task.texts
    if isinstance(task, TextClassification | ImageClassification):
        found = np.array([int(scores.argmax()) for scores in decoded], dtype=int)
        return Labelled("examples", task.labels, gold_labels(task, examples), found)
    if isinstance(task, TokenClassification):
        return _words(task, examples, decoded)
    return None


def most_confused(matrix: Array, labels: Sequence[str], count: int) -> list[Confused]:
    """Return the pairs of labels that are taken for each other most often."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    totals = matrix.sum(-1)
    pairs = [(int(each) // len(labels), int(each) % len(labels)) for each in order]
    return [
        Confused(
            labels[gold], labels[found], int(wrong[gold, found]), wrong[gold, found] / totals[gold]
        )
        for gold, found in pairs
        if wrong[gold, found]
    ]


def _words(
    task: TokenClassification, examples: Sequence[Example], decoded: Sequence[Any]
) -> Labelled:
    kinds = sorted({tag[2:] for tag in task.labels if tag != OUTSIDE})
    names = (OUTSIDE, *kinds)
    index = {name: place for place, name in enumerate(names)}
    gold: list[int] = []
    found: list[int] = []
    for number, (example, tags) in enumerate(zip(examples, decoded, strict=True), start=1):
        read = len(tags.labels)
        for target, named in zip(
            (gold, found), task.named_tags(example, number, tags), strict=True
        ):
            target += [index[tag[2:] or OUTSIDE] for tag in named[:read]]
    return Labelled("words", names, np.array(gold), np.array(found))
