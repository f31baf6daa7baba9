"""The words of an example, and a long example cut into shorter ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapterhub.errors import DataError
from adapterhub.tasks.fields import is_given, list_field, place_of, text_field
from adapterhub.tasks.words import Word, join_words, split_words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from adapterhub.tasks.base import Example

_SENTENCE_ENDS = frozenset(".!?。！？")


def words_of(example: Example, number: int) -> list[Word]:
    """Return the words of an example with their offsets.

    They are the example's ``tokens``, at their ``offsets`` where an example has them too, or its
    ``text``, split.

    Raises:
        DataError: naming example and field, when there are no words.
    """
    if not is_given(example, "tokens") and is_given(example, "text"):
        words = split_words(text_field(example, "text", number))
        if not words:
            raise DataError("the text has no words", place=place_of(number, "text"))
        return words
    tokens = list_field(example, "tokens", number)
    odd = next((token for token in tokens if not isinstance(token, str)), None)
    if odd is not None:
        raise DataError(f"a word must be text, not {odd!r}", place=place_of(number, "tokens"))
    if not is_given(example, "offsets"):
        return join_words(tokens)[1]
    pairs = zip(tokens, example["offsets"], strict=True)
    return [Word(token, start, end) for token, (start, end) in pairs]


def split_into_windows(example: Example, fitting: Callable[[Sequence[str]], int]) -> list[Example]:
    """Return the example cut into examples that fit, in order, no word twice and none left out.

    Args:
        example: with ``tokens`` or ``text``; ``tags`` are cut along.
        fitting: how many words of a list fit into one example, from its start.
    """
    words = words_of(example, 1)
    texts = [word.text for word in words]
    windows: list[Example] = []
    start = 0
    while start < len(words):
        rest = texts[start:]
        # a word longer than a whole example is a window of its own
        count = max(1, fitting(rest))
        if count < len(rest):
            count = _sentence_cut(rest, count)
        windows.append(_window(example, words, start, start + count))
        start += count
    return windows


def _window(example: Example, words: Sequence[Word], start: int, end: int) -> dict[str, Any]:
    part = {
        **example,
        "tokens": [word.text for word in words[start:end]],
        "offsets": [(word.start, word.end) for word in words[start:end]],
    }
    if is_given(example, "tags"):
        part["tags"] = list(example["tags"])[start:end]
    return part


def _sentence_cut(words: Sequence[str], limit: int) -> int:
    """Return the last sentence end in the second half of the first ``limit`` words."""
    for count in range(limit, limit // 2, -1):
        if words[count - 1] in _SENTENCE_ENDS:
            return count
    return limit
