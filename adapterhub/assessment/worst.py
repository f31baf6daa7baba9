"""The rows that an adapter is most wrong about."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterhub.assessment.duplicates import answer_of, text_of
from adapterhub.assessment.row_statistics import gold_labels, units_of
from adapterhub.data.pictures import Picture
from adapterhub.tasks.answers import given_answers
from adapterhub.tasks.bio import spans
from adapterhub.tasks.dialogue import Dialogue
from adapterhub.tasks.image_classification import ImageClassification
from adapterhub.tasks.instructed import Instructed
from adapterhub.tasks.multi_label import MultiLabelClassification
from adapterhub.tasks.question_answering import QuestionAnswering
from adapterhub.tasks.ranking import Ranking
from adapterhub.tasks.relation_extraction import RelationExtraction
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
    if isinstance(task, RelationExtraction):
        task = task.texts
    if isinstance(task, Instructed):
        task = task.dialogue
    if isinstance(task, TextClassification | ImageClassification):
        found = _classes(task, rows, decoded)
    elif isinstance(task, MultiLabelClassification):
        found = _many_labels(task, rows, decoded)
    elif isinstance(task, Ranking):
        found = _candidates(task, rows, decoded)
    elif isinstance(task, QuestionAnswering):
        found = _answers(task, rows, decoded)
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
_NOTHING = "(none)"


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


def _many_labels(
    task: MultiLabelClassification, rows: Sequence[Row], decoded: Sequence[Any]
) -> list[Example]:
    found = []
    for number, (row, scores) in enumerate(zip(rows, decoded, strict=True), start=1):
        has = task.indices(row, number)
        said = {at for at, score in enumerate(scores) if score >= task.options.threshold}
        if said != has:
            chances = [float(score if at in has else 1 - score) for at, score in enumerate(scores)]
            badness = -sum(math.log(max(chance, _SMALLEST)) for chance in chances)
            wanted, given = (
                ", ".join(task.labels[at] for at in sorted(each)) or _NOTHING
                for each in (has, said)
            )
            found.append(Example(text_of(row), wanted, given, badness, "nats of all labels"))
    return found


def _candidates(task: Ranking, rows: Sequence[Row], decoded: Sequence[Any]) -> list[Example]:
    found = []
    for row, label, chance in zip(rows, task.judged(rows).labels, decoded, strict=True):
        if (chance >= 0.5) != bool(label):
            badness = -math.log(max(chance if label else 1 - chance, _SMALLEST))
            found.append(
                Example(text_of(row), str(label), f"{chance:.2f}", badness, "nats of the label")
            )
    return found


def _answers(task: QuestionAnswering, rows: Sequence[Row], decoded: Sequence[Any]) -> list[Example]:
    found: list[tuple[float, Example]] = []
    for places in units_of(task, rows):
        windows = [rows[place] for place in places]
        spans_found = [decoded[place] for place in places]
        missed = 100.0 - task.evaluate(windows, spans_found).metrics["f1"]
        if missed:
            row, pairs = windows[0], zip(windows, spans_found, strict=True)
            said = task.join([task.prediction(*pair) for pair in pairs])
            right = "; ".join(answer.text for answer in given_answers(row, 1)) or _NOTHING
            answer = f"{said['answer'] or _NOTHING} ({said['score']:.2f})"
            text = f"{row['question']} | {row['context']}"
            found.append(
                (said["score"], Example(text, right, answer, missed, "points of F1 missed"))
            )
    # many answers are wholly wrong: the surest of them come first
    return [example for _, example in sorted(found, key=lambda each: -each[0])]


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
    return "; ".join(f"{' '.join(words[a:b])} [{kind}]" for kind, a, b in ordered) or _NOTHING
