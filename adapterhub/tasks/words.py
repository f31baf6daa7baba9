"""A plain word splitter that keeps character offsets."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Word:
    """A word and where it stands.

    Args:
        text: the word itself.
        start: its first character in the whole text.
        end: one past its last character.
    """

    text: str
    start: int
    end: int


# Read over a string with one letter per character of the text: w letter or mark, d digit,
# "." full stop, i punctuation that may stand inside a word, c clitic's apostrophe, z
# invisible, s space, p anything else.
_WORDS = re.compile(r"(?:w\.){2,}(?![wd])|[wd]+(?:[iz.][wd]+)*|cw|[^sz]")
# Unicode's own classes: letters, marks, numbers, control and format characters
_KINDS = {"L": "w", "M": "w", "N": "d", "C": "z"}
_INNER = frozenset("-'’,/:@&_")


def split_words(text: str) -> list[Word]:
    """Split a text at spaces and punctuation.

    Punctuation marks are words of their own, but not inside a word (``C-130``, ``O'Neil``,
    ``3.5``, ``12:30``) nor in abbreviations of single letters (``U.S.``); a final ``'s`` is
    split off. Invisible characters stay inside words and are skipped elsewhere.
    """
    kinds = "".join(_kind(text, index) for index in range(len(text)))
    return [
        Word(text[match.start() : match.end()], match.start(), match.end())
        for match in _WORDS.finditer(kinds)
    ]


def join_words(words: Sequence[str]) -> tuple[str, list[Word]]:
    """Join words by single spaces; return the text and the words with their offsets."""
    placed = []
    start = 0
    for word in words:
        placed.append(Word(word, start, start + len(word)))
        start += len(word) + 1
    return " ".join(words), placed


def _kind(text: str, index: int) -> str:
    character = text[index]
    if character.isspace():
        return "s"
    if character == ".":
        return "."
    if character in _INNER:
        return "c" if character in "'’" and _ends_in_s(text, index) else "i"
    return _KINDS.get(unicodedata.category(character)[0], "p")


def _ends_in_s(text: str, apostrophe: int) -> bool:
    after = text[apostrophe + 1 : apostrophe + 3]
    return after[:1] in ("s", "S") and not after[1:].isalnum()
