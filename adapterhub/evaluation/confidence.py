"""How sure an adapter was of each of its choices, and whether it was right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from adapterhub.evaluation.example_statistics import gold_labels
from adapterhub.evaluation.joined_answers import joined_answers
from adapterhub.tasks.fields import required
from adapterhub.tasks.image_classification import ImageClassification
from adapterhub.tasks.labels import label_list
from adapterhub.tasks.multi_label import MultiLabelClassification
from adapterhub.tasks.question_answering import QuestionAnswering
from adapterhub.tasks.ranking import Ranking
from adapterhub.tasks.relation_extraction import RelationExtraction
from adapterhub.tasks.text_classification import TextClassification
from adapterhub.tasks.token_classification import TokenClassification

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.evaluation.example_statistics import Array
    from adapterhub.tasks.base import Example, Task


@dataclass(frozen=True, slots=True, eq=False)
class Confidence:
    """Choices with their probabilities.

    Args:
        unit: what was chosen for: ``examples``, ``words``, ``candidates``, ``questions``, or
            ``labels of examples``.
        # [choices]
        sure: probability of what was said.
        # [choices]
        right: whether it is right.
        # [choices, labels]
        probabilities: of all that could be said; ``None`` where each label is a question of
            its own, and where an answer is any part of a text.
        # [choices]
        gold: index of what should have been said; ``None`` without ``probabilities``.
    """

    unit: str
    sure: Array
    right: Array
    probabilities: Array | None = None
    gold: Array | None = None


def confidence_of(
    task: Task, examples: Sequence[Example], decoded: Sequence[Any]
) -> Confidence | None:
    """Return how sure each choice was; ``None`` for a task that makes none, or for no choices.

    Args:
        task: that made the predictions.
        examples: with their answers.
        decoded: raw prediction of each, as ``Task.decode`` gives it.
    """
    if isinstance(task, RelationExtraction):
        task = task.texts
    found: Confidence | None = None
    if not decoded:
        return found
    if isinstance(task, TextClassification | ImageClassification):
        table = np.array([chances.numpy() for chances in decoded], dtype=float)
        found = _chosen("examples", table, gold_labels(task, examples))
    elif isinstance(task, Ranking):
        found = _candidates(task, examples, decoded)
    elif isinstance(task, MultiLabelClassification):
        found = _yes_or_no(task, examples, decoded)
    elif isinstance(task, TokenClassification):
        found = _words(task, examples, decoded)
    elif isinstance(task, QuestionAnswering):
        found = _answers(task, examples, decoded)
    return found


def _chosen(unit: str, table: Array, gold: Array) -> Confidence:
    return Confidence(unit, table.max(-1), table.argmax(-1) == gold, table, gold)


def _candidates(task: Ranking, examples: Sequence[Example], decoded: Sequence[Any]) -> Confidence:
    likely = np.array(decoded, dtype=float)
    table = np.stack((1.0 - likely, likely), axis=-1)
    return _chosen("candidates", table, np.array(task.judged(examples).labels, dtype=int))


def _answers(
    task: QuestionAnswering, examples: Sequence[Example], decoded: Sequence[Any]
) -> Confidence:
    answers = list(joined_answers(task, examples, decoded))
    sure = np.array([each.sure for each in answers], dtype=float)
    return Confidence("questions", sure, np.array([each.right for each in answers]))


def _yes_or_no(
    task: MultiLabelClassification, examples: Sequence[Example], decoded: Sequence[Any]
) -> Confidence:
    """Return a choice for each label of each example: given, or not."""
    chances = np.array([each.numpy() for each in decoded], dtype=float)
    has = np.zeros(chances.shape, dtype=bool)
    for number, example in enumerate(examples, start=1):
        for label in label_list(required(example, "label", number), number, "label"):
            has[number - 1, task.texts.index.index(label, number, "label")] = True
    given = chances >= task.options.threshold
    sure = np.where(given, chances, 1.0 - chances)
    return Confidence("labels of examples", sure.ravel(), (given == has).ravel())


def _words(
    task: TokenClassification, examples: Sequence[Example], decoded: Sequence[Any]
) -> Confidence | None:
    """Return a choice for each word that was read; the tag counts as it was said, not repaired."""
    known = [each.probabilities for each in decoded if each.probabilities is not None]
    if len(known) < len(decoded):
        return None
    gold: list[int] = []
    for number, (example, tags) in enumerate(zip(examples, decoded, strict=True), start=1):
        named, _ = task.named_tags(example, number, tags)
        gold += [task.index.index(tag, number, "tags") for tag in named[: len(tags.labels)]]
    table = np.concatenate([chances.numpy() for chances in known]).astype(float)
    return _chosen("words", table, np.array(gold, dtype=int)) if gold else None
