"""Exact match and F1 of answers, as the official script of SQuAD counts them."""

from __future__ import annotations

import re
import string
from collections import Counter
from typing import TYPE_CHECKING

from adapterhub.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def squad_scores(references: Sequence[Sequence[str]], found: Sequence[str]) -> dict[str, float]:
    """Return ``exact_match`` and ``f1``, both from 0 to 100, the best reference counting.

    Where some questions have answers and some have none, there are also ``answerable_f1`` and
    ``unanswerable_f1`` over either kind.

    Source: ``evaluate-v2.0.py`` of SQuAD. Version 1.1 gives the same, but for answers that
    are nothing but articles and punctuation, which it never counts into F1.

    Args:
        references: right answers to each question; none where it has no answer.
        found: an answer to each, empty for none.

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
    """Return a text in lower case, without ASCII punctuation, articles and extra spaces."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def token_f1(reference: str, found: str) -> float:
    """Return the harmonic mean of precision and recall over words, from 0 to 1."""
    wanted, given = normalized(reference).split(), normalized(found).split()
    if not wanted or not given:
        return float(wanted == given)
    common = sum((Counter(wanted) & Counter(given)).values())
    return 2 * common / (len(wanted) + len(given))


def _percent(values: Sequence[float]) -> float:
    return 100.0 * sum(values) / len(values)
