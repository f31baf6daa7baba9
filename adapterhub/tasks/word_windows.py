"""The words of a row, and a long row cut into shorter ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapterhub.errors import DataError
from adapterhub.tasks.rows import is_given, list_field, place_of, text_field
from adapterhub.tasks.words import Word, join_words, split_words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from adapterhub.tasks.base import Row

_SENTENCE_ENDS = frozenset(".!?。！？")


def tagged_words(row: Row, number: int) -> list[Word]:
    """Return the words of a row with their offsets.

    They are the row's ``tokens``, at their ``offsets`` where a row has them too, or its
    ``text``, split.

    Raises:
        DataError: naming row and field, when there are no words.
    """
    if not is_given(row, "tokens") and is_given(row, "text"):
        words = split_words(text_field(row, "text", number))
        if not words:
            raise DataError("the text has no words", place=place_of(number, "text"))
        return words
    tokens = list_field(row, "tokens", number)
    odd = next((token for token in tokens if not isinstance(token, str)), None)
    if odd is not None:
        raise DataError(f"a word must be text, not {odd!r}", place=place_of(number, "tokens"))
    if not is_given(row, "offsets"):
        return join_words(tokens)[1]
    pairs = zip(tokens, row["offsets"], strict=True)
    return [Word(token, start, end) for token, (start, end) in pairs]


def window_rows(row: Row, fitting: Callable[[Sequence[str]], int]) -> list[Row]:
    """Return the row cut into rows that fit, in order, no word twice and none left out.

    Args:
        row: with ``tokens`` or ``text``; ``tags`` are cut along.
        fitting: how many words of a list fit into one row, from its start.
    """
    words = tagged_words(row, 1)
    texts = [word.text for word in words]
    windows: list[Row] = []
    start = 0
    while start < len(words):
        rest = texts[start:]
        # a word longer than a whole row is a window of its own
        count = max(1, fitting(rest))
        if count < len(rest):
            count = _sentence_cut(rest, count)
        windows.append(_window(row, words, start, start + count))
        start += count
    return windows


def _window(row: Row, words: Sequence[Word], start: int, end: int) -> dict[str, Any]:
    part = {
        **row,
        "tokens": [word.text for word in words[start:end]],
        "offsets": [(word.start, word.end) for word in words[start:end]],
    }
    if is_given(row, "tags"):
        part["tags"] = list(row["tags"])[start:end]
    return part


def _sentence_cut(words: Sequence[str], limit: int) -> int:
    """Return the last sentence end in the second half of the first ``limit`` words."""
    for count in range(limit, limit // 2, -1):
        if words[count - 1] in _SENTENCE_ENDS:
            return count
    return limit
