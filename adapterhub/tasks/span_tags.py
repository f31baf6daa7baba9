"""Words and tags of a text whose spans are given by character offsets."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from adapterhub.errors import DataError
from adapterhub.tasks.words import Word, split_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

#: Start, end (one past the last character) and label of a span.
Span = tuple[int, int, str]


def tag_spans(text: Any, spans: Sequence[Sequence[Any]], place: str) -> dict[str, Any]:
    """Return the words of a text as ``tokens``, and their BIO ``tags``.

    The words are those that plain text has in predictions, and a word is cut where a span starts or
    ends inside it, so that every span is exact. Spaces at the ends of a span do not count.

    Args:
        text: Text of the example.
        spans: Start, end and label of each span.
        place: Example, for errors.

    Raises:
        DataError: when there is no text, or a span is empty, outside the text or overlaps another.
    """
    if not isinstance(text, str) or not text.strip():
        raise DataError("there is no text", place=place)
    inner = sorted(_trimmed(text, span, place) for span in spans)
    for one, two in pairwise(inner):
        if two[0] < one[1]:
            raise DataError(
                f"the spans {text[one[0] : one[1]]!r:.60} ({one[2]}) and "
                f"{text[two[0] : two[1]]!r:.60} ({two[2]}) overlap",
                place=place,
                hint="A word has one tag; keep one of the two",
            )
    words = list(_cut(split_words(text, "unspaced"), {at for span in inner for at in span[:2]}))
    if not words:
        raise DataError("the text has no words", place=place)
    return {"tokens": [word.text for word in words], "tags": _tags(words, inner, text, place)}


def _tags(words: Sequence[Word], spans: Iterable[Span], text: str, place: str) -> list[str]:
    tags = ["O"] * len(words)
    for start, end, label in spans:
        inside = [at for at, word in enumerate(words) if start <= word.start < end]
        if not inside:
            raise DataError(f"the span {text[start:end]!r:.60} has no words", place=place)
        for at in inside:
            tags[at] = f"{'B' if at == inside[0] else 'I'}-{label}"
    return tags


def _cut(words: Iterable[Word], cuts: set[int]) -> Iterator[Word]:
    for word in words:
        edges = [word.start, *sorted(at for at in cuts if word.start < at < word.end), word.end]
        for start, end in pairwise(edges):
            yield Word(word.text[start - word.start : end - word.start], start, end)


def _trimmed(text: str, span: Sequence[Any], place: str) -> Span:
    start, end, label = span
    if not 0 <= start < end <= len(text):
        raise DataError(
            f"the span {start} to {end} ({label}) is outside the text of {len(text)} characters",
            place=place,
            hint="Offsets count characters from 0, and the end is one past the last",
        )
    part = text[start:end]
    start += len(part) - len(part.lstrip())
    end -= len(part) - len(part.rstrip())
    if start >= end:
        raise DataError(f"a span ({label}) holds only spaces", place=place)
    return start, end, label
