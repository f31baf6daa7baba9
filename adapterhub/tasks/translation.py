"""Translation by instruction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.tasks.fields import text_field
from adapterhub.tasks.instructed import Instructed, Wording
from adapterhub.tasks.text_scores import translation_scores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from adapterhub.tasks.base import Example, TaskOptions


def translation(tokenizer: PreTrainedTokenizerBase, options: TaskOptions) -> Instructed:
    """Return the task: examples have ``source`` and ``target``, texts in two languages.

    The instruction names the languages. Generated translations are scored by BLEU and chrF
    (see ``translation_scores``).

    Args:
        tokenizer: a fast one, with a chat template.
        options: settings from the recipe.

    Raises:
        RecipeError: when options and tokenizer do not fit together.
    """
    return Instructed(WORDING, tokenizer, options)


def _prompt(instruction: str, example: Example, number: int) -> str:
    return f"{instruction}\n\n{text_field(example, 'source', number)}"


def _references(example: Example, number: int) -> list[str]:
    return [text_field(example, "target", number)]


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
