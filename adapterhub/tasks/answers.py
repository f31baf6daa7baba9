"""Reference answers to questions, and scores of answers as in SQuAD."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterhub.errors import DataError
from adapterhub.tasks.fields import place_of, required, text_field

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.tasks.fields import Example


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, slots=True)
class ReferenceAnswer:
    """A reference answer; ``start`` is its first character in the context, where it is given."""

    text: str
    start: int | None


def reference_answers(example: Example, number: int) -> list[ReferenceAnswer]:
    """Return the ``answers`` of an example; empty where its question has none.

    They have the form of SQuAD, ``{"text": [...], "answer_start": [...]}`` with offsets in
    characters, or are a list of texts, or one text.

    Raises:
        DataError: naming example and field, when they have another form.
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
            hint="Give the first character of the answer in the context, counted from 0",
        )
    if len(starts) != len(texts):
        raise DataError(
            f"{len(starts)} offsets for {len(texts)} answers", place=place_of(number, "answers")
        )
    return [ReferenceAnswer(text, start) for text, start in zip(texts, starts, strict=True)]


def placed_answers(example: Example, number: int) -> list[tuple[int, int]]:
    """Return start and end of each answer in the example's ``context``, in characters.

    An answer without an offset is located at its first occurrence.

    Raises:
        DataError: when an answer is not at its offset, or not in the context.
    """
    context = text_field(example, "context", number)
    placed = []
    for answer in reference_answers(example, number):
        start = context.find(answer.text) if answer.start is None else answer.start
        if start < 0 or context[start : start + len(answer.text)] != answer.text:
            where = "in the context" if answer.start is None else f"at offset {answer.start}"
            raise DataError(
                f"the answer {answer.text!r} is not {where}",
                place=place_of(number, "answers"),
            )
        placed.append((start, start + len(answer.text)))
    return placed


def squad_scores(references: Sequence[Sequence[str]], found: Sequence[str]) -> dict[str, float]:
    """Return ``exact_match`` and ``f1`` against the best reference, both from 0 to 100.

    Where some questions have answers and some have none, ``answerable_f1`` and
    ``unanswerable_f1`` are given too.

    Source: ``evaluate-v2.0.py`` of SQuAD. Version 1.1 differs only in answers of nothing but
    articles and punctuation, which it leaves out of F1.

    Args:
        references: Reference answers to each question; empty where it has none.
        found: Predicted answer to each; an empty text for none.

    Raises:
        DataError: when there are no questions, or not as many answers.
    """
    if not references or len(references) != len(found):
        raise DataError(f"{len(found)} answers can't be scored by {len(references)} questions")
    exact: list[float] = []
    overlap: list[float] = []
    for right, answer in zip(references, found, strict=True):
        wanted = [text for text in right if normalized(text)] or [""]
        exact.append(max(float(normalized(text) == normalized(answer)) for text in wanted))
        overlap.append(max(token_f1(text, answer) for text in wanted))
    scores = {"exact_match": _percent(exact), "f1": _percent(overlap)}
    have = [f1 for f1, right in zip(overlap, references, strict=True) if right]
    lack = [f1 for f1, right in zip(overlap, references, strict=True) if not right]
    if have and lack:
        scores |= {"answerable_f1": _percent(have), "unanswerable_f1": _percent(lack)}
    return scores


def normalized(text: str) -> str:
    """Return a text in lower case without ASCII punctuation, articles and extra spaces."""
    plain = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", plain).split())


def token_f1(reference: str, found: str) -> float:
    """Return the harmonic mean of precision and recall over words, from 0 to 1."""
    wanted, given = normalized(reference).split(), normalized(found).split()
    if not wanted or not given:
        return float(wanted == given)
    common = sum((Counter(wanted) & Counter(given)).values())
    return 2 * common / (len(wanted) + len(given))


def _percent(values: Sequence[float]) -> float:
    return 100.0 * sum(values) / len(values)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_offset(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))
