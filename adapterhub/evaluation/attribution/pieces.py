"""What a text is explained by: its words, and less where a script has no spaces between words."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from adapterhub.tasks.words import Word, split_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedTokenizerBase

#: First words of the Unicode names of letters of such scripts.
_UNSPACED = (
    "CJK",
    "HIRAGANA",
    "KATAKANA",
    "HALFWIDTH KATAKANA",
    "BOPOMOFO",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
    "TIBETAN",
    "JAVANESE",
    "BALINESE",
)


def explained_words(tokenizer: PreTrainedTokenizerBase, text: str) -> list[Word]:
    """Return the words of a text, a long run of Chinese, say, cut where its tokens begin."""
    return [piece for word in split_words(text) for piece in pieces(tokenizer, word)]


def pieces(tokenizer: PreTrainedTokenizerBase, word: Word) -> list[Word]:
    """Return a word cut where its tokens begin, if its script has no spaces; else the word.

    A character is never cut, nor taken from the marks on it: a byte-level tokenizer has
    several tokens for one.
    """
    if not any(map(_unspaced, word.text)):
        return [word]
    encoding = tokenizer(
        word.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    starts = {start for start, end in encoding["offset_mapping"] if end > start}
    # letters of other scripts, digits and marks stay with what is before them
    cuts = sorted(
        {0} | {at for at in starts if _unspaced(word.text[at])} | set(_borders(word.text))
    )
    ends = [*cuts[1:], len(word.text)]
    return [
        Word(word.text[a:b], word.start + a, word.start + b)
        for a, b in zip(cuts, ends, strict=True)
    ]


def _borders(text: str) -> Iterator[int]:
    """Yield where such a script ends and another begins."""
    for at in range(1, len(text)):
        mark = unicodedata.category(text[at]).startswith("M")
        if not mark and not _unspaced(text[at]) and _unspaced(text[at - 1]):
            yield at


def _unspaced(character: str) -> bool:
    letter = unicodedata.category(character) in ("Lo", "Lm", "Nl")
    return letter and unicodedata.name(character, "").startswith(_UNSPACED)
