"""Answers in a context: they should stay at their place, whoever the context speaks of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapterhub.evaluation.bias_audit.audited_task import AnswerChange
from adapterhub.evaluation.bias_audit.counterfactuals import (
    OWN_PASSAGES,
    ROWS,
    Form,
    filled,
    sentence,
    sentences_in,
)
from adapterhub.evaluation.bias_audit.swaps import KINDS
from adapterhub.evaluation.bias_audit.templates import read_passages
from adapterhub.evaluation.bias_audit.tokens import tokens_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from adapterhub.evaluation.bias_audit.counterfactuals import Sentence
    from adapterhub.evaluation.bias_audit.swaps import Swapper
    from adapterhub.evaluation.bias_audit.templates import Passage, Words
    from adapterhub.tasks.base import Task
    from adapterhub.tasks.fields import Example
    from adapterhub.tasks.question_answering import FoundSpan

#: Given rows for each kind; a context is much longer than a sentence.
_MOST = 12


class AnswerAudit:
    """A task that finds the answer to a question in a context.

    An answer is the words at its place. An exchange keeps the number of words, so an answer
    that is the exchanged word itself, or has it inside, is the same answer in the
    counterfactual.
    """

    moved: tuple[str, ...] = ()
    counted = (
        "Counted are questions whose answer moves to another place in the context, or that have an "
        "answer in one of the two texts alone. An answer that only follows the exchanged word is "
        "the same one."
    )
    fitted_rows: int = 100
    scored_rows: int = 50

    def __init__(self, task: Task) -> None:
        """Ask ``task``."""
        self.task = task

    def own(self, swapper: Swapper, words: Words) -> list[Sentence]:
        """Return the package's passages with their counterfactuals, once for each question."""
        passages = read_passages()
        return [
            each
            for kind in KINDS
            for place, row in enumerate(_own_rows(passages[kind], kind, words))
            for each in sentence(swapper, Form(OWN_PASSAGES, row), kind, place)
        ]

    def given(self, rows: Sequence[Example], swapper: Swapper) -> list[Sentence]:
        """Return some of the rows, without their answers."""

        def forms(row: Example) -> list[Form]:
            return [Form(ROWS, {field: row.get(field) for field in ("question", "context")})]

        return sentences_in(rows, swapper, forms=forms, most=_MOST)

    def rows(self, row: Example) -> list[Example]:
        """Return the windows of the context."""
        return self.task.windows(row)

    def compare(
        self, row: Example, found: Sequence[Any], other: Example, others: Sequence[Any]
    ) -> AnswerChange:
        """Tell whether the answer stands at other words."""
        one, two = self._answer(row, found), self._answer(other, others)
        return AnswerChange(_words_of(row["context"], one) != _words_of(other["context"], two))

    def words(self, row: Example, found: Sequence[Any]) -> str:
        """Return the answer with its probability."""
        said = self._answer(row, found)
        return f"{said['answer'] or '(no answer)'} {said['score']:.2f}"

    def text(self, row: Example) -> str:
        """Return question and context."""
        return f"{row['question']} | {row['context']}"

    def _answer(self, row: Example, found: Sequence[FoundSpan]) -> dict[str, Any]:
        windows = self.rows(row)
        return self.task.join(
            [self.task.prediction(*each) for each in zip(windows, found, strict=True)]
        )


def _own_rows(passages: Sequence[Passage], kind: str, words: Words) -> Iterator[dict[str, Any]]:
    for place, passage in enumerate(passages):
        # one of the two genders in turn: there are questions enough
        texts = list(filled(passage.context, kind, words, place))
        for question in passage.questions:
            yield {"question": question, "context": texts[place % len(texts)]}


def _words_of(context: str, answer: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the numbers of the words and signs that an answer touches; none for no answer."""
    found, end = [], 0
    for number, token in enumerate(tokens_of(context)):
        start, end = end, end + len(token)
        if start < answer["end"] and end > answer["start"] and not token.isspace():
            found.append(number)
    return tuple(found)
