"""Alignment of words with tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterhub.errors import RecipeError
from adapterhub.tasks.words import join_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from adapterhub.tasks.base import Pool
    from adapterhub.tasks.words import Word

#: Replacement of a word without tokens, such as a zero-width space.
PLACEHOLDER = "?"


@dataclass(frozen=True, slots=True)
class AlignedWords:
    """Words as tokens, truncated to the maximum length.

    Args:
        input_ids: Token ids of all words, with special tokens.
        positions: Index in ``input_ids`` of the token that represents each remaining word.
        offsets: Start and end of each remaining token in the words joined by spaces; empty for
            tokens without text.
        placed: Words with their offsets in the joined text.
    """

    input_ids: list[int]
    positions: list[int]
    offsets: list[tuple[int, int]]
    placed: list[Word]


def align(
    tokenizer: PreTrainedTokenizerBase, words: Sequence[str], pool: Pool, max_length: int
) -> AlignedWords:
    """Tokenize words joined by single spaces and find the token that represents each.

    Joining gives every tokenizer the kind of text it was trained on: byte-level ones mark the
    space before a word inside the word's first token. Words whose representing token is
    truncated are left out.

    Raises:
        RecipeError: when the tokenizer has no token even for the replacement of a word.
    """
    text, placed = join_words(words)
    encoding = _encode(tokenizer, text)
    positions = word_positions(encoding["offset_mapping"], placed, pool)
    if None in positions:
        pairs = zip(words, positions, strict=True)
        text, placed = join_words([PLACEHOLDER if at is None else word for word, at in pairs])
        encoding = _encode(tokenizer, text)
        positions = word_positions(encoding["offset_mapping"], placed, pool)
    found = [at for at in positions if at is not None]
    if len(found) < len(words):
        raise RecipeError(
            f"the tokenizer has no token for {PLACEHOLDER!r}, so words can't be separated",
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
    offsets: Sequence[tuple[int, int]], words: Sequence[Word], pool: Pool
) -> list[int | None]:
    """Return the index of each word's first or last token; ``None`` where it has none.

    Args:
        offsets: Start and end of each token in the text; empty for tokens without text.
        words: Words in the order of the text, not overlapping.
        pool: Token of a word to return.
    """
    positions: list[int | None] = [None] * len(words)
    token = 0
    for index, word in enumerate(words):
        while token < len(offsets) and offsets[token][1] <= word.start:
            token += 1
        last = token
        while last < len(offsets) and offsets[last][0] < word.end:
            start, end = offsets[last]
            if end > max(start, word.start) and (positions[index] is None or pool == "last"):
                positions[index] = last
            last += 1
    return positions


def token_owners(offsets: Sequence[tuple[int, int]], words: Sequence[Word]) -> list[int | None]:
    """Return the index of the word that each token belongs to; ``None`` without a word.

    A token that spans several words belongs to the one with the largest overlap.
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
    """Return how many words overlap no token because of truncation."""
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
    """Return the number of special tokens at the end of the text."""
    count = 0
    while count < len(special) and special[len(special) - 1 - count]:
        count += 1
    return count
