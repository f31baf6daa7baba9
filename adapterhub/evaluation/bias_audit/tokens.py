"""Texts as tokens whose words can be exchanged without a change to anything else."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")
#: Words that begin with a vowel's letter and not with its sound.
_SOUNDS_LIKE_CONSONANT = ("eu", "uk", "uni", "us")


def tokens_of(text: str) -> list[str]:
    """Return words, spaces and signs, which joined are the text again."""
    return _TOKEN.findall(text)


def like(new: str, old: str) -> str:
    """Return ``new`` in the case of ``old``: all capitals, none, or as it is with a capital."""
    if old.isupper() and len(old) > 1:
        return new.upper()
    return new.lower() if old.islower() else f"{new[0].upper()}{new[1:]}"


def next_word(tokens: Sequence[str], at: int) -> str:
    """Return the word after a place; empty where a sign or the end comes first."""
    for token in tokens[at + 1 :]:
        if not token.isspace():
            return token if token[0].isalnum() else ""
    return ""


def is_part(tokens: Sequence[str], at: int) -> bool:
    """Tell whether a word is part of a longer one, such as ``Anglo-American``."""
    before = tokens[at - 1] if at else ""
    after = tokens[at + 1] if at + 1 < len(tokens) else ""
    return "-" in (before, after)


def with_articles(tokens: Sequence[str], changed: Sequence[int]) -> list[str]:
    """Return the tokens with ``a`` or ``an`` before each changed word as it sounds."""
    result = list(tokens)
    for place in changed:
        before = place - 1
        while before >= 0 and result[before].isspace():
            before -= 1
        if before >= 0 and result[before].lower() in ("a", "an"):
            article = "an" if _vowel(result[place]) else "a"
            old = result[before]
            result[before] = article.capitalize() if old[0].isupper() else article
    return result


def _vowel(word: str) -> bool:
    lower = word.lower()
    return lower[0] in "aeiou" and not lower.startswith(_SOUNDS_LIKE_CONSONANT)
