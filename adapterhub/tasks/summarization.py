"""Summarization by instruction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.errors import DataError
from adapterhub.tasks.fields import is_given, list_field, place_of, text_field
from adapterhub.tasks.instructed import Instructed, Wording
from adapterhub.tasks.text_scores import rouge_scores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from adapterhub.tasks.base import Example, TaskOptions


def summarization(tokenizer: PreTrainedTokenizerBase, options: TaskOptions) -> Instructed:
    """Return the task: examples have ``document``, and ``summary`` or a list of ``summaries``.

    The first summary is learned. Generated ones are scored by ROUGE against all that an example
    has (see ``rouge_scores``).

    Args:
        tokenizer: a fast one, with a chat template.
        options: settings from the recipe.

    Raises:
        RecipeError: when options and tokenizer do not fit together.
    """
    return Instructed(WORDING, tokenizer, options)


def _prompt(instruction: str, example: Example, number: int) -> str:
    return f"{instruction}\n\n{text_field(example, 'document', number)}"


def _references(example: Example, number: int) -> list[str]:
    if not is_given(example, "summaries"):
        return [text_field(example, "summary", number)]
    summaries = list_field(example, "summaries", number)
    if not all(isinstance(summary, str) and summary.strip() for summary in summaries):
        raise DataError("a summary must be text", place=place_of(number, "summaries"))
    return summaries


WORDING = Wording(
    name="summarization",
    pipeline_tag="summarization",
    instruction="Summarize the following text in one or two sentences.",
    long_field="document",
    text_field="document",
    prompt=_prompt,
    references=_references,
    score=rouge_scores,
)
