"""Generative question answering: an answer in the backbone's own words."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from adapterhub.errors import DataError
from adapterhub.tasks.answers import given_answers
from adapterhub.tasks.fields import is_given, place_of, text_field
from adapterhub.tasks.instructed import Instructed, Wording
from adapterhub.tasks.squad_scores import normalized, squad_scores
from adapterhub.tasks.text_scores import TextScores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from adapterhub.tasks.base import Example, TaskOptions

#: What is said of a question that has no answer in its context.
NO_ANSWER = "unanswerable"
_RULE = f' Say "{NO_ANSWER}" where the text does not tell.'


def generative_question_answering(
    tokenizer: PreTrainedTokenizerBase, options: TaskOptions
) -> Instructed:
    """Return the task: examples have ``question``, ``answers``, and maybe ``context``.

    The first answer is learned. Generated ones are scored by exact match and F1 against all
    answers of an example (see ``squad_scores``). With ``unanswerable`` an example may have an empty list
    of answers; the backbone then learns to say ``unanswerable``, which counts as no answer.

    Args:
        tokenizer: a fast one, with a chat template.
        options: settings from the recipe.

    Raises:
        RecipeError: when options and tokenizer do not fit together.
    """
    wording = _UNANSWERABLE if options.unanswerable else WORDING
    return Instructed(wording, tokenizer, options)


def _prompt(instruction: str, example: Example, number: int) -> str:
    question = text_field(example, "question", number)
    if not is_given(example, "context"):
        return f"{instruction}\n\nQuestion: {question}"
    context = text_field(example, "context", number)
    return f"{instruction}\n\nText: {context}\n\nQuestion: {question}"


def _references(example: Example, number: int) -> list[str]:
    texts = [answer.text for answer in given_answers(example, number)]
    if not texts:
        raise DataError(
            "the question has no answer",
            place=place_of(number, "answers"),
            hint="Set task.unanswerable: true, or leave such examples out",
        )
    return texts


def _references_or_none(example: Example, number: int) -> list[str]:
    return [answer.text for answer in given_answers(example, number)] or [NO_ANSWER]


def _score(references: Sequence[Sequence[str]], found: Sequence[str]) -> TextScores:
    metrics = squad_scores(references, found)
    return TextScores(metrics, dict.fromkeys(metrics, "SQuAD 2.0, 0 to 100"))


def _score_or_none(references: Sequence[Sequence[str]], found: Sequence[str]) -> TextScores:
    right = [[] if list(each) == [NO_ANSWER] else each for each in references]
    said = ["" if normalized(text) == NO_ANSWER else text for text in found]
    return _score(right, said)


WORDING = Wording(
    name="generative-question-answering",
    pipeline_tag="text-generation",
    instruction="Answer the question in a few words.",
    long_field="context",
    text_field="question",
    prompt=_prompt,
    references=_references,
    score=_score,
)
_UNANSWERABLE = replace(
    WORDING,
    instruction=WORDING.instruction + _RULE,
    references=_references_or_none,
    score=_score_or_none,
)
