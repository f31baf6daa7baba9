"""Transcripts of examples: normalization, characters, and word errors by jiwer."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from adapterhub.errors import DataError, MissingExtraError
from adapterhub.tasks.fields import place_of, required

if TYPE_CHECKING:
    from collections.abc import Iterable

    from adapterhub.tasks.fields import Example


def transcript(example: Example, number: int) -> str:
    """Return the transcript of an example, composed (NFC) and with single spaces.

    Raises:
        DataError: naming the example, when it has none.
    """
    text = required(example, "text", number)
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{text!r:.80} is no transcript", place=place_of(number, "text"))
    return " ".join(unicodedata.normalize("NFC", text).split())


def infer_vocabulary(examples: Iterable[Example]) -> str:
    """Return the characters of the transcripts of examples, sorted."""
    texts = (transcript(example, number) for number, example in enumerate(examples, start=1))
    return "".join(sorted({character for text in texts for character in text}))


def word_errors(reference: str, found: str) -> tuple[int, int, int, int]:
    """Return the number of word errors, words, character errors and characters.

    Errors are substitutions, deletions and insertions; numbers of words and characters are those
    of the reference.

    Raises:
        MissingExtraError: without jiwer.
    """
    try:
        import jiwer
    except ImportError as error:
        raise MissingExtraError("jiwer", "audio") from error
    words, characters = (
        jiwer.process_words(reference, found),
        jiwer.process_characters(reference, found),
    )
    return (
        words.substitutions + words.deletions + words.insertions,
        words.hits + words.substitutions + words.deletions,
        characters.substitutions + characters.deletions + characters.insertions,
        characters.hits + characters.substitutions + characters.deletions,
    )
