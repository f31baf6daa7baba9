"""Accuracy, macro-F1 and a record per label, for tasks that give each example one label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from adapterhub.errors import DataError
from adapterhub.tasks.base import Evaluation
from adapterhub.tasks.fields import required

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from adapterhub.tasks.base import Example
    from adapterhub.tasks.labels import LabelIndex


def score_classes(
    index: LabelIndex, examples: Sequence[Example], decoded: Sequence[Any]
) -> Evaluation:
    """Return accuracy, macro-F1 and a record per label.

    Macro-F1 is the mean over the labels that the examples or the predictions have, as
    scikit-learn computes it; the records list every label.

    Args:
        index: of the labels.
        examples: with their ``label``.
        decoded: the probability of each label, ``[classes]`` an example.

    Raises:
        DataError: when there are no examples, or an example has no known label.
    """
    if not examples:
        raise DataError("there are no examples to score")
    expected = [
        index.index(required(example, "label", number), number, "label")
        for number, example in enumerate(examples, start=1)
    ]
    found = [int(scores.argmax()) for scores in decoded]
    return Evaluation(
        metrics={
            "accuracy": float(accuracy_score(expected, found)),
            "macro_f1": float(f1_score(expected, found, average="macro", zero_division=0)),
        },
        table=_table(index.names, expected, found),
    )


def class_prediction(labels: Sequence[str], decoded: Tensor) -> dict[str, Any]:
    """Return ``{"label", "score", "scores": {label: probability}}``."""
    values = [float(score) for score in decoded]
    best = int(decoded.argmax())
    return {
        "label": labels[best],
        "score": values[best],
        "scores": dict(zip(labels, values, strict=True)),
    }


def _table(
    labels: Sequence[str], expected: list[int], found: list[int]
) -> list[dict[str, float | str]]:
    columns = precision_recall_fscore_support(
        expected, found, labels=range(len(labels)), zero_division=0
    )
    return [
        {
            "label": label,
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "support": float(support),
        }
        for label, precision, recall, f1, support in zip(labels, *columns, strict=True)
    ]
