"""Translation by instruction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.tasks.instructed import Instructed, Wording
from adapterhub.tasks.rows import text_field
from adapterhub.tasks.text_scores import translation_scores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from adapterhub.tasks.base import Row, TaskOptions


def translation(tokenizer: PreTrainedTokenizerBase, options: TaskOptions) -> Instructed:
    """Return the task: rows have ``source`` and ``target``, texts in two languages.

    The instruction names the languages. Generated translations are scored by BLEU and chrF
    (see ``translation_scores``).

    Args:
        tokenizer: a fast one, with a chat template.
        options: settings from the recipe.

    Raises:
        RecipeError: when options and tokenizer do not fit together.
    """
    return Instructed(WORDING, tokenizer, options)


def _prompt(instruction: str, row: Row, number: int) -> str:
    return f"{instruction}\n\n{text_field(row, 'source', number)}"


def _references(row: Row, number: int) -> list[str]:
    return [text_field(row, "target", number)]


WORDING = Wording(
    name="translation",
    pipeline_tag="translation",
    instruction="Translate from English to German.",
    long_field="source",
    text_field="source",
    prompt=_prompt,
    references=_references,
    score=translation_scores,
)
