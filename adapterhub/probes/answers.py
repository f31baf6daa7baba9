"""Answers of tasks that label, in a form in which two of them can be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from adapterhub.tasks.multi_label import MultiLabelClassification
from adapterhub.tasks.relation_extraction import RelationExtraction
from adapterhub.tasks.text_classification import TextClassification
from adapterhub.tasks.token_classification import TokenClassification

if TYPE_CHECKING:
    from adapterhub.tasks.base import Row, Task

_LABELLING = (
    TextClassification,
    MultiLabelClassification,
    TokenClassification,
    RelationExtraction,
)


def labels_people(task: Task) -> bool:
    """Tell whether a task gives labels that should not depend on who is spoken of."""
    return isinstance(task, _LABELLING)


def reads_plain_text(task: Task) -> bool:
    """Tell whether a task can label a sentence that nobody has prepared for it."""
    return not isinstance(task, RelationExtraction)


def answer_of(task: Task, decoded: Any) -> tuple[int, ...]:
    """Return the answer: the index of the label, of each label given, or of each word's tag."""
    if isinstance(task, MultiLabelClassification):
        given = (decoded >= task.options.threshold).nonzero().flatten()
        return tuple(int(index) for index in given)
    if isinstance(decoded, Tensor):
        return (int(decoded.argmax()),)
    return tuple(decoded.labels)


def probabilities_of(decoded: Any) -> Tensor | None:
    """Return the probability of each label, ``[labels]``; ``None`` for tags of words."""
    return decoded if isinstance(decoded, Tensor) else None


def words_of(task: Task, row: Row, decoded: Any) -> str:
    """Return the answer in words, for people."""
    said = task.prediction(row, decoded)
    if "label" in said:
        return f"{said['label']} {said['score']:.2f}"
    if "labels" in said:
        return ", ".join(f"{each} {said['scores'][each]:.2f}" for each in said["labels"]) or "none"
    return ", ".join(f"{each['label']}: {each['text']}" for each in said["spans"]) or "no spans"
