"""Words of an example with character offsets, and long examples split into windows."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from adapterhub.errors import DataError
from adapterhub.tasks.fields import is_given, list_field, place_of, text_field

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from adapterhub.tasks.fields import Example

#: How a text becomes words: at spaces and punctuation (``words``); likewise, with every letter of
#: a script without spaces on its own (``unspaced``); every character on its own (``characters``).
Segmentation: TypeAlias = Literal["words", "unspaced", "characters"]

#: Largest share of exceptions, such as typing errors, in tokens that follow a segmentation.
_EXCEPTIONS = 0.02

#: First words of the Unicode names of letters in scripts without spaces between words.
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


@dataclass(frozen=True, slots=True)
class Word:
    """A word with its offsets in the text; ``end`` is one past its last character."""

    text: str
    start: int
    end: int


# Matched against a string with one letter per character of the text: w letter or mark, d digit,
# "." full stop, i punctuation that may be inside a word, c a clitic's apostrophe, z invisible,
# s space, p anything else.
_WORDS = re.compile(r"(?:w\.){2,}(?![wd])|[wd]+(?:[iz.][wd]+)*|cw|[^sz]")
# Unicode categories: letters, marks, numbers, control and format characters
_KINDS = {"L": "w", "M": "w", "N": "d", "C": "z"}
_INNER = frozenset("-'’,/:@&_")
_SENTENCE_ENDS = frozenset(".!?。！？")


def split_words(text: str, segmentation: Segmentation = "words") -> list[Word]:
    """Split a text into words.

    With ``words``, at spaces and punctuation. Punctuation marks are words of their own, but not
    inside a word (``C-130``, ``O'Neil``, ``3.5``, ``12:30``) nor in abbreviations of single
    letters (``U.S.``); a final ``'s`` is split off. Invisible characters stay inside words and are
    skipped elsewhere. Where letters are words of their own, marks stay with the letter before.
    """
    if segmentation == "characters":
        return _characters(Word(text, 0, len(text)))
    kinds = "".join(_kind(text, index) for index in range(len(text)))
    words = [
        Word(text[match.start() : match.end()], match.start(), match.end())
        for match in _WORDS.finditer(kinds)
    ]
    if segmentation == "words":
        return words
    return [part for word in words for part in _unspaced_parts(word)]


def infer_segmentation(examples: Iterable[Sequence[str]]) -> Segmentation | None:
    """Return the segmentation that the tokens of examples follow; ``None`` if there is none.

    There is none for words of a script without spaces, which only a word segmenter finds.
    """
    unspaced_words = unspaced_letters = words = letters = 0
    for token in (token for tokens in examples for token in tokens):
        size = sum(unicodedata.category(character)[0] != "M" for character in token)
        if any(map(is_unspaced, token)):
            unspaced_words, unspaced_letters = unspaced_words + 1, unspaced_letters + (size == 1)
        elif any(map(str.isalnum, token)):
            words, letters = words + 1, letters + (size == 1)
    if not unspaced_words:
        return "words"
    if unspaced_letters < (1 - _EXCEPTIONS) * unspaced_words:
        return None
    return "characters" if words and letters >= (1 - _EXCEPTIONS) * words else "unspaced"


def is_unspaced(character: str) -> bool:
    """Return whether a character is a letter of a script without spaces between words."""
    letter = unicodedata.category(character) in ("Lo", "Lm", "Nl")
    return letter and unicodedata.name(character, "").startswith(_UNSPACED)


def join_words(words: Sequence[str]) -> tuple[str, list[Word]]:
    """Join words by single spaces; return the text and the words with their offsets."""
    placed = []
    start = 0
    for word in words:
        placed.append(Word(word, start, start + len(word)))
        start += len(word) + 1
    return " ".join(words), placed


def words_of(example: Example, number: int, segmentation: Segmentation = "words") -> list[Word]:
    """Return the words of an example: its ``tokens``, with ``offsets`` if given, or its text.

    Args:
        segmentation: Segmentation of the text, which does not change ``tokens``.

    Raises:
        DataError: naming example and field, when there are no words.
    """
    if not is_given(example, "tokens") and is_given(example, "text"):
        words = split_words(text_field(example, "text", number), segmentation)
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


def split_into_windows(
    example: Example,
    fitting: Callable[[Sequence[str]], int],
    segmentation: Segmentation = "words",
) -> list[Example]:
    """Split an example into windows that cover each word once, in order.

    Args:
        example: Example with ``tokens`` or ``text``; its ``tags`` are split too.
        fitting: Returns how many words of a list fit into one window, from its start.
        segmentation: Segmentation of ``text``.
    """
    words = words_of(example, 1, segmentation)
    texts = [word.text for word in words]
    windows: list[Example] = []
    start = 0
    while start < len(words):
        rest = texts[start:]
        # a word longer than a window is a window of its own
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


def _characters(word: Word) -> list[Word]:
    """Return the visible characters of a word, with the marks that follow each."""
    starts = [
        at
        for at, character in enumerate(word.text)
        if not character.isspace()
        and unicodedata.category(character)[0] != "C"
        and (at == 0 or unicodedata.category(character)[0] != "M")
    ]
    found = []
    for start in starts:
        end = start + 1
        while end < len(word.text) and unicodedata.category(word.text[end])[0] == "M":
            end += 1
        found.append(Word(word.text[start:end], word.start + start, word.start + end))
    return found


def _unspaced_parts(word: Word) -> list[Word]:
    """Split a word into its letters of scripts without spaces and what is between them."""
    found: list[Word] = []
    open_until = -1
    for part in _characters(word):
        alone = is_unspaced(part.text[0])
        joins = not alone and part.start == open_until
        start = found.pop().start if joins else part.start
        found.append(Word(word.text[start - word.start : part.end - word.start], start, part.end))
        open_until = -1 if alone else part.end
    return found


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
