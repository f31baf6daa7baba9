"""Transcripts of examples: normalization, characters, and word errors by jiwer."""

from __future__ import annotations

import unicodedata
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from adapterhub.errors import DataError, MissingExtraError
from adapterhub.tasks.fields import place_of, required
from adapterhub.tasks.text_scores import TextScores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from adapterhub.tasks.base import Normalization
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


#: Languages that are written without spaces, whose letters count as words.
_UNSPACED = frozenset({"zh", "ja", "th", "lo", "my", "yue"})


def normalizer(normalization: Normalization, language: str = "") -> Callable[[str], str]:
    """Return what is done to transcripts before errors are counted.

    Args:
        normalization: Its name; see ``TaskOptions.normalization``. British spelling is left as
            it is.
        language: Code of the language; some have no spaces between words.

    Source: Radford et al. 2022, appendix C; ``english_normalizer.py`` in
    ``transformers/models/whisper``.
    """
    if normalization == "none":
        return lambda text: " ".join(text.split())
    from transformers.models.whisper.english_normalizer import (
        BasicTextNormalizer,
        EnglishTextNormalizer,
    )

    plain: Any = (
        EnglishTextNormalizer({})
        if normalization == "english"
        else BasicTextNormalizer(split_letters=language in _UNSPACED)
    )
    return lambda text: str(plain(text)).strip()


def error_rates(
    references: Sequence[str], texts: Sequence[str], normalization: Normalization, language: str
) -> TextScores:
    """Return ``wer`` and ``cer``: errors over all texts, divided by the length of the references.

    Raises:
        DataError: when there are no texts, or their number differs from the references'.
        MissingExtraError: without jiwer.
    """
    if not references or len(references) != len(texts):
        raise DataError(f"{len(texts)} texts can't be scored by {len(references)} transcripts")
    clean = normalizer(normalization, language)
    pairs = zip(references, texts, strict=True)
    counts = [word_errors(clean(reference), clean(text)) for reference, text in pairs]
    words, of_words, characters, of_characters = map(sum, zip(*counts, strict=True))
    signature = f"jiwer {version('jiwer')}, {normalization} normalization"
    metrics = {"wer": words / max(of_words, 1), "cer": characters / max(of_characters, 1)}
    return TextScores(metrics, dict.fromkeys(metrics, signature))


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
    if not reference:
        # jiwer scores no empty reference
        return len(found.split()), 0, len(found), 0
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
