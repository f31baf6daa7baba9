"""Answers found in contexts, the windows of an example put together, beside the right ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterhub.evaluation.example_statistics import units_of
from adapterhub.tasks.answers import given_answers
from adapterhub.tasks.squad_scores import normalized

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from adapterhub.tasks.base import Example
    from adapterhub.tasks.question_answering import QuestionAnswering


@dataclass(frozen=True, slots=True)
class JoinedAnswer:
    """The answer to one example.

    Args:
        example: its first window.
        said: answer, empty for none.
        sure: its probability.
        expected: right answers; none where the question has no answer.
    """

    example: Example
    said: str
    sure: float
    expected: Sequence[str]

    @property
    def right(self) -> bool:
        """Whether it is one of the right answers, as SQuAD compares them."""
        return normalized(self.said) in {normalized(text) for text in self.expected or [""]}


def joined_answers(
    task: QuestionAnswering, examples: Sequence[Example], decoded: Sequence[Any]
) -> Iterator[JoinedAnswer]:
    """Yield the answer to each example.

    Args:
        task: that made the predictions.
        examples: windows of examples, with their answers.
        decoded: raw prediction of each window.
    """
    for places in units_of(task, examples):
        said = task.join([task.prediction(examples[at], decoded[at]) for at in places])
        expected = [answer.text for answer in given_answers(examples[places[0]], places[0] + 1)]
        yield JoinedAnswer(examples[places[0]], said["answer"], float(said["score"]), expected)
