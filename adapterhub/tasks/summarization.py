"""Summarization by instruction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.errors import DataError
from adapterhub.tasks.instructed import Instructed, Wording
from adapterhub.tasks.rows import is_given, list_field, place_of, text_field
from adapterhub.tasks.text_scores import rouge_scores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from adapterhub.tasks.base import Row, TaskOptions


def summarization(tokenizer: PreTrainedTokenizerBase, options: TaskOptions) -> Instructed:
    """Return the task: rows have ``document``, and ``summary`` or a list of ``summaries``.

    The first summary is learned. Generated ones are scored by ROUGE against all that a row
    has (see ``rouge_scores``).

    Args:
        tokenizer: a fast one, with a chat template.
        options: settings from the recipe.

    Raises:
        RecipeError: when options and tokenizer do not fit together.
    """
    return Instructed(WORDING, tokenizer, options)


def _prompt(instruction: str, row: Row, number: int) -> str:
    return f"{instruction}\n\n{text_field(row, 'document', number)}"


def _references(row: Row, number: int) -> list[str]:
    if not is_given(row, "summaries"):
        return [text_field(row, "summary", number)]
    summaries = list_field(row, "summaries", number)
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
