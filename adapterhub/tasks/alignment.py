"""Which token stands for a word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from adapterhub.errors import RecipeError
from adapterhub.tasks.words import join_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from adapterhub.tasks.words import Word

#: Stands in for a word that the tokenizer reads as nothing, such as a zero-width space.
PLACEHOLDER = "?"

#: Which of a word's tokens the head reads.
Read = Literal["first", "last"]


@dataclass(frozen=True, slots=True)
class AlignedWords:
    """Words as tokens.

    Args:
        input_ids: of all words, special tokens included, ``max_length`` at most.
        positions: index in ``input_ids`` of the token read for each word, for the words
            before the cut.
        offsets: start and end of each token in the words joined by spaces, before the cut;
            tokens without text are empty.
        placed: the words there.
    """

    input_ids: list[int]
    positions: list[int]
    offsets: list[tuple[int, int]]
    placed: list[Word]


def align(
    tokenizer: PreTrainedTokenizerBase, words: Sequence[str], read: Read, max_length: int
) -> AlignedWords:
    """Tokenize words joined by single spaces and find the token that stands for each.

    Joining makes every tokenizer see the text it was trained for: byte-level ones mark the
    space before a word inside the word's first token. A word whose token to read lies
    beyond the cut is left out, and so are all after it.

    Raises:
        RecipeError: when the tokenizer gives a word no token whatever stands for it.
    """
    text, placed = join_words(words)
    encoding = _encode(tokenizer, text)
    positions = word_positions(encoding["offset_mapping"], placed, read)
    if None in positions:
        pairs = zip(words, positions, strict=True)
        text, placed = join_words([PLACEHOLDER if at is None else word for word, at in pairs])
        encoding = _encode(tokenizer, text)
        positions = word_positions(encoding["offset_mapping"], placed, read)
    found = [at for at in positions if at is not None]
    if len(found) < len(words):
        raise RecipeError(
            f"the tokenizer reads {PLACEHOLDER!r} as nothing, so words can't be told apart",
            place="backbone.name",
        )
    ids, closing = encoding["input_ids"], _closing(encoding["special_tokens_mask"])
    cut = min(len(ids), max_length) - closing
    return AlignedWords(
        input_ids=ids[:cut] + ids[len(ids) - closing :],
        positions=[at for at in found if at < cut],
        offsets=[tuple(span) for span in encoding["offset_mapping"][:cut]],
        placed=placed,
    )


def word_positions(
    offsets: Sequence[tuple[int, int]], words: Sequence[Word], read: Read
) -> list[int | None]:
    """Return the index of each word's first or last token, ``None`` where it has none.

    Args:
        offsets: start and end of each token in the text; tokens without text are empty.
        words: in the order of the text, not overlapping.
        read: which token of a word to take.
    """
    positions: list[int | None] = [None] * len(words)
    token = 0
    for index, word in enumerate(words):
        while token < len(offsets) and offsets[token][1] <= word.start:
            token += 1
        last = token
        while last < len(offsets) and offsets[last][0] < word.end:
            start, end = offsets[last]
            if end > max(start, word.start) and (positions[index] is None or read == "last"):
                positions[index] = last
            last += 1
    return positions


def token_owners(offsets: Sequence[tuple[int, int]], words: Sequence[Word]) -> list[int | None]:
    """Return the index of the word that each token belongs to, ``None`` where to none.

    A token that reaches over several words belongs to the one that it has most of.

    Args:
        offsets: start and end of each token in the text; tokens without text are empty.
        words: in the order of the text, not overlapping.
    """
    owners: list[int | None] = []
    first = 0
    for start, end in offsets:
        while first < len(words) and words[first].end <= start:
            first += 1
        shared = []
        for index in range(first, len(words)):
            if words[index].start >= end:
                break
            overlap = min(end, words[index].end) - max(start, words[index].start)
            shared.append((-overlap, index))
        owners.append(min(shared)[1] if shared else None)
    return owners


def untouched(offsets: Sequence[tuple[int, int]], words: Sequence[Word]) -> int:
    """Return how many words no token has any part of: they were cut off.

    Args:
        offsets: start and end of each token in the text; tokens without text are empty.
        words: in the order of the text.
    """
    tokens = [span for span in offsets if span[1] > span[0]]
    return sum(
        not any(start < word.end and end > word.start for start, end in tokens) for word in words
    )


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> dict[str, Any]:
    encoding: dict[str, Any] = tokenizer(
        text,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    return encoding


def _closing(special: Sequence[int]) -> int:
    """Return how many special tokens close the text."""
    count = 0
    while count < len(special) and special[len(special) - 1 - count]:
        count += 1
    return count
