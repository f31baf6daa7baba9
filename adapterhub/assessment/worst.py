"""The rows that an adapter is most wrong about."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterhub.assessment.duplicates import answer_of, text_of
from adapterhub.assessment.row_statistics import gold_labels
from adapterhub.data.pictures import Picture
from adapterhub.tasks.bio import spans
from adapterhub.tasks.dialogue import Dialogue
from adapterhub.tasks.image_classification import ImageClassification
from adapterhub.tasks.text_classification import TextClassification
from adapterhub.tasks.token_classification import TokenClassification

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.tasks.base import Row, Task

_SMALLEST = 1e-12


@dataclass(frozen=True, slots=True)
class Example:
    """A row and what was said of it.

    Args:
        text: of the row.
        expected: the right answer.
        found: the answer given; empty where none is made.
        badness: the more, the worse; see ``measure``.
        measure: what ``badness`` counts.
    """

    text: str
    expected: str
    found: str
    badness: float
    measure: str


def worst_examples(
    task: Task, rows: Sequence[Row], decoded: Sequence[Any], *, count: int = 10
) -> list[Example]:
    """Return the rows with the worst answers, the worst first; rows that are right are left out.

    Args:
        task: that made the predictions.
        rows: with their answers.
        decoded: raw prediction of each row.
        count: at most so many.
    """
    if isinstance(task, TextClassification | ImageClassification):
        found = _classes(task, rows, decoded)
    elif isinstance(task, TokenClassification):
        found = _tags(task, rows, decoded)
    elif isinstance(task, Dialogue):
        found = [
            Example(text_of(row), answer_of(row), "", score.loss / max(score.tokens, 1), _LOSS)
            for row, score in zip(rows, decoded, strict=True)
        ]
    else:
        return []
    return sorted(found, key=lambda each: -each.badness)[:count]


_LOSS = "nats a token"


def _classes(
    task: TextClassification | ImageClassification, rows: Sequence[Row], decoded: Sequence[Any]
) -> list[Example]:
    found = []
    for row, gold, scores in zip(rows, gold_labels(task, rows), decoded, strict=True):
        said = int(scores.argmax())
        if said != gold:
            badness = -math.log(max(float(scores[gold]), _SMALLEST))
            answer = f"{task.labels[said]} ({float(scores[said]):.2f})"
            found.append(
                Example(_shown(row), task.labels[gold], answer, badness, "nats of the label")
            )
    return found


def _shown(row: Row) -> str:
    """Return a row's text, or the name of its picture."""
    image = row.get("image")
    return image.name if isinstance(image, Picture) else text_of(row)


def _tags(task: TokenClassification, rows: Sequence[Row], decoded: Sequence[Any]) -> list[Example]:
    found = []
    for number, (row, tags) in enumerate(zip(rows, decoded, strict=True), start=1):
        words = [str(word) for word in row["tokens"]]
        gold, said = (set(spans(each)) for each in task.named_tags(row, number, tags))
        wrong = len(gold ^ said)
        if wrong:
            found.append(
                Example(
                    " ".join(words),
                    _listed(gold - said, words),
                    _listed(said - gold, words),
                    float(wrong),
                    "spans missed or made up",
                )
            )
    return found


def _listed(found: set[tuple[str, int, int]], words: Sequence[str]) -> str:
    ordered = sorted(found, key=lambda span: span[1:])
    return "; ".join(f"{' '.join(words[a:b])} [{kind}]" for kind, a, b in ordered) or "(none)"
