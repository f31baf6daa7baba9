"""Checks of a tokenizer against a task's settings, made before any weight is loaded."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from adapterhub.errors import RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    """Check that a tokenizer tells offsets and that examples of ``max_length`` tokens can be read.

    Raises:
        RecipeError: naming the setting that does not fit.
    """
    if not tokenizer.is_fast:
        raise RecipeError(
            f"the tokenizer {type(tokenizer).__name__} can't tell where its tokens stand in a text",
            place="backbone.name",
            hint="Use a backbone that comes with a tokenizer.json",
        )
    special = tokenizer.num_special_tokens_to_add(pair=True)
    if max_length <= special:
        raise RecipeError(
            f"{max_length} tokens leave no room beside {special} special tokens",
            place="task.max_length",
        )
    if max_length > tokenizer.model_max_length:
        raise RecipeError(
            f"{max_length} tokens are more than the backbone reads",
            place="task.max_length",
            hint=f"Use {tokenizer.model_max_length} or less",
        )


def check_temperature(temperature: object) -> None:
    """Require a number that logits can be divided by; stored recipes may hold anything.

    Raises:
        RecipeError: when it is none.
    """
    number = isinstance(temperature, int | float) and not isinstance(temperature, bool)
    if not number or not 0.0 < float(str(temperature)) < math.inf:
        raise RecipeError(
            f"a temperature must be a number above 0, not {temperature!r}", place="task.temperature"
        )
