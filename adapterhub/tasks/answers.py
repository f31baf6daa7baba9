"""The answers of an example to its question, and where they stand in its context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterhub.errors import DataError
from adapterhub.tasks.fields import place_of, required, text_field

if TYPE_CHECKING:
    from adapterhub.tasks.base import Example


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    """An answer that an example gives.

    Args:
        text: of the answer.
        start: of its first character in the context, ``None`` where the example does not say.
    """

    text: str
    start: int | None


def given_answers(example: Example, number: int) -> list[GivenAnswer]:
    """Return an example's ``answers``; none where the question has no answer in its context.

    They are in the form of SQuAD, ``{"text": [...], "answer_start": [...]}``, where offsets
    count characters; or a list of texts; or one text.

    Raises:
        DataError: naming example and field, when they are in another form.
    """
    value = required(example, "answers", number)
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start")
    else:
        texts, starts = [value] if isinstance(value, str) else value, None
    if not isinstance(texts, list | tuple) or not all(_is_text(text) for text in texts):
        raise DataError(
            "answers must be texts, or an object with text and answer_start",
            place=place_of(number, "answers"),
        )
    if starts is None:
        starts = [None] * len(texts)
    if not isinstance(starts, list | tuple) or not all(_is_offset(start) for start in starts):
        raise DataError(
            "answer_start must be a list with a whole number for each answer",
            place=place_of(number, "answers"),
            hint="Write the character of the context that the answer begins at, from 0",
        )
    if len(starts) != len(texts):
        raise DataError(
            f"{len(starts)} offsets for {len(texts)} answers", place=place_of(number, "answers")
        )
    return [GivenAnswer(text, start) for text, start in zip(texts, starts, strict=True)]


def placed_answers(example: Example, number: int) -> list[tuple[int, int]]:
    """Return start and end of each answer in the example's ``context``, in characters.

    An answer without an offset is taken where it stands first.

    Raises:
        DataError: when an answer does not stand where the example says, or nowhere.
    """
    context = text_field(example, "context", number)
    placed = []
    for answer in given_answers(example, number):
        start = context.find(answer.text) if answer.start is None else answer.start
        if start < 0 or context[start : start + len(answer.text)] != answer.text:
            where = "in the context" if answer.start is None else f"at offset {answer.start}"
            raise DataError(
                f"the answer {answer.text!r} does not stand {where}",
                place=place_of(number, "answers"),
            )
        placed.append((start, start + len(answer.text)))
    return placed


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_offset(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))
