"""Which answers to explain: one that is right and sure, one that is wrong and sure, one unsure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterhub.tasks.answers import given_answers
from adapterhub.tasks.bio import spans
from adapterhub.tasks.fields import required
from adapterhub.tasks.labels import label_list
from adapterhub.tasks.multi_label import MultiLabelClassification
from adapterhub.tasks.question_answering import QuestionAnswering
from adapterhub.tasks.ranking import Ranking
from adapterhub.tasks.relation_extraction import RelationExtraction
from adapterhub.tasks.squad_scores import normalized
from adapterhub.tasks.text_classification import TextClassification
from adapterhub.tasks.token_classification import TokenClassification
from adapterhub.tasks.word_windows import words_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from adapterhub.tasks.base import Example, Task
    from adapterhub.tasks.dialogue import AnswerScore

#: Answers of each kind that are looked at until one is found that is short enough.
_LOOKED_AT = 50
#: What a ranking says of a candidate, by its labels 0 and 1.
RANKED = ("does not please", "pleases")


@dataclass(frozen=True, slots=True)
class CheckedAnswer:
    """An answer that an adapter gave, beside the right one.

    Args:
        place: of its row.
        expected: the right answer, in words.
        right: whether that was said.
        confidence: probability of what was said.
        label: that was said, where one of several is to be explained.
        span: that was said, in characters of the row's text.
    """

    place: int
    expected: str
    right: bool
    confidence: float
    label: str | None = None
    span: tuple[int, int] | None = None


def judge(task: Task, rows: Sequence[Example], decoded: Sequence[Any]) -> list[CheckedAnswer]:
    """Return the answers that can be explained; none for a task that only generates.

    Args:
        task: that made the predictions.
        rows: with their answers, or the windows of rows.
        decoded: raw prediction of each, as ``Task.decode`` gives it.
    """
    pairs = enumerate(zip(rows, decoded, strict=True))
    return [judged for place, (row, found) in pairs for judged in _judged(task, place, row, found)]


def choose(
    answers: Sequence[CheckedAnswer], fits: Callable[[CheckedAnswer], bool]
) -> dict[str, CheckedAnswer]:
    """Return answers by why they were chosen; fewer where there are none of a kind.

    Args:
        answers: of an adapter.
        fits: tells whether an answer is cheap enough to explain; asked of the first ones.
    """
    surest = sorted(answers, key=lambda each: -each.confidence)
    orders = {
        "wrong and sure": [each for each in surest if not each.right],
        "right and sure": [each for each in surest if each.right],
        "unsure": surest[::-1],
    }
    chosen: dict[str, CheckedAnswer] = {}
    for why, order in orders.items():
        left = (each for each in order[:_LOOKED_AT] if each not in chosen.values())
        found = next(filter(fits, left), None)
        if found is not None:
            chosen[why] = found
    return chosen


def by_loss(scores: Sequence[AnswerScore]) -> dict[str, Sequence[int]]:
    """Return the places of rows whose answers were foretold best and worst, the first ones first.

    Args:
        scores: of each row's own answer.
    """
    order = sorted(range(len(scores)), key=lambda at: scores[at].loss / max(scores[at].tokens, 1))
    half = (len(order) + 1) // 2
    return {
        "foretold worst": order[half:][::-1][:_LOOKED_AT],
        "foretold best": order[:half][:_LOOKED_AT],
    }


def _judged(task: Task, place: int, row: Example, found: Any) -> Iterator[CheckedAnswer]:
    if isinstance(task, TextClassification | RelationExtraction):
        yield _of_label(task, place, row, found)
    elif isinstance(task, MultiLabelClassification):
        yield _of_labels(task, place, row, found)
    elif isinstance(task, Ranking):
        gold = task.texts.index.index(required(row, "label", 1), 1, "label")
        said = int(found >= 0.5)
        yield CheckedAnswer(
            place, RANKED[gold], gold == said, max(found, 1 - found), task.labels[said]
        )
    elif isinstance(task, TokenClassification):
        yield from _of_spans(task, place, row, found)
    elif isinstance(task, QuestionAnswering):
        yield from _of_answer(task, place, row, found)


def _of_label(
    task: TextClassification | RelationExtraction, place: int, row: Example, found: Any
) -> CheckedAnswer:
    texts = task if isinstance(task, TextClassification) else task.texts
    gold = texts.index.index(required(row, "label", 1), 1, "label")
    said = int(found.argmax())
    return CheckedAnswer(place, task.labels[gold], gold == said, float(found[said]))


def _of_labels(
    task: MultiLabelClassification, place: int, row: Example, found: Any
) -> CheckedAnswer:
    """Judge a row by its likeliest label, which is what is explained."""
    given_labels = label_list(required(row, "label", 1), 1, "label")
    has = {task.texts.index.name(each, 1, "label") for each in given_labels}
    best = int(found.argmax())
    given = float(found[best]) >= task.options.threshold
    return CheckedAnswer(
        place,
        ", ".join(sorted(has)) or "(none)",
        given == (task.labels[best] in has),
        max(float(found[best]), 1 - float(found[best])),
        task.labels[best],
    )


def _of_spans(
    task: TokenClassification, place: int, row: Example, found: Any
) -> Iterator[CheckedAnswer]:
    gold, _ = task.named_tags(row, 1, found)
    words = words_of(row, 1)
    there = {(words[a].start, words[b - 1].end): kind for kind, a, b in spans(gold)}
    for said in task.prediction(row, found)["spans"]:
        at = said["start"], said["end"]
        kind = there.get(at)
        yield CheckedAnswer(
            place, kind or "no span there", kind == said["label"], said["score"], said["label"], at
        )


def _of_answer(
    task: QuestionAnswering, place: int, row: Example, found: Any
) -> Iterator[CheckedAnswer]:
    if found.no_answer > found.score:
        # most windows of a long context hold no answer, and there is little to see in them
        return
    said = normalized(task.prediction(row, found)["answer"])
    answers = [answer.text for answer in given_answers(row, 1)]
    right = said in {normalized(answer) for answer in answers}
    yield CheckedAnswer(place, answers[0] if answers else "(no answer)", right, found.score)
