"""What word attributions are computed from: input words with their tokens, and targets.

A target is a function of the head's outputs that measures an answer. Where an answer is a choice
it is the log-odds ``log(p / (1 - p))``: like the softmax they do not change when all logits grow
alike, and unlike ``p`` they do not saturate where an answer is nearly certain.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.nn import functional as F

from adapterhub.errors import DataError
from adapterhub.tasks.words import Word, is_unspaced, split_words

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from adapterhub.data.packing import EncodedExample
    from adapterhub.tasks.fields import Example


@dataclass(frozen=True, slots=True)
class InputText:
    """One text of an example; ``name`` is its field, or the role of the speaker."""

    name: str
    text: str
    words: Sequence[Word]


@dataclass(frozen=True, slots=True)
class AttributionInput:
    """An encoded example with the word of each token.

    Args:
        example: Encoded example.
        texts: Texts of the example.
        owners: For each token the index of its word among the words of all texts; ``None`` for
            special tokens, spaces, and what a chat template adds.
        unread: Number of words without any token, because of truncation.
        without: Returns the example without some of its words, by their indices, where they are
            no tokens but parts of a recording.
    """

    example: EncodedExample
    texts: Sequence[InputText]
    owners: Sequence[int | None]
    unread: int
    without: Callable[[Collection[int]], EncodedExample] | None = None

    @property
    def words(self) -> list[tuple[InputText, Word]]:
        """The words of all texts."""
        return [(text, word) for text in self.texts for word in text.words]


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """The number that is attributed to words.

    Args:
        answer: Answer in words.
        quantity: Name and unit of the number.
        probability: Probability of the answer, where it has one.
        measure: Maps float32 logits ``[batch, selected, classes]`` to ``[batch]``.
        start: First character of an answer that is part of the text.
        end: Character after its last.
    """

    answer: str
    quantity: str
    probability: float | None
    measure: Callable[[Tensor], Tensor]
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True)
class CheckedAnswer:
    """A prediction that can be explained, compared with the reference answer of its example."""

    place: int
    expected: str
    right: bool
    confidence: float
    label: str | None = None
    span: tuple[int, int] | None = None


class InputDivider(Protocol):
    """Divides the input of an example into words."""

    def attribution_input(self, example: Example, names: tuple[str, str]) -> AttributionInput:
        """Return an example with the words of its texts, which get the given names."""


class AttributionSource(Protocol):
    """What word attributions of a task's predictions are computed from."""

    def windows(self, example: Example) -> Sequence[Example]:
        """Return the parts of an example that are predicted one by one."""

    def encode(self, window: Example) -> AttributionInput:
        """Encode a window with the word of each token.

        Raises:
            DataError: naming the field, when the example is invalid.
        """

    def targets(
        self,
        windows: Sequence[Example],
        decoded: Sequence[Any],
        *,
        label: str | None = None,
        span: tuple[int, int] | None = None,
    ) -> list[tuple[int, Target]]:
        """Return what to explain of an example, each with the position of its window.

        Args:
            windows: Windows of one example.
            decoded: Raw prediction of each.
            label: Label to explain instead of the predicted one, or type of spans.
            span: Characters that an explained span must overlap.

        Raises:
            DataError: when there is no such label or span.
        """

    def answers(self, place: int, example: Example, decoded: Any) -> Iterator[CheckedAnswer]:
        """Yield the predictions for a labelled example that can be explained.

        Args:
            place: Position of the example.
            example: Example or window.
            decoded: Its raw prediction.
        """


def log_odds(logits: Tensor, index: int) -> Tensor:
    """Return ``log(p / (1 - p))`` of one of the choices along the last dimension."""
    others = torch.cat((logits[..., :index], logits[..., index + 1 :]), dim=-1)
    return logits[..., index] - others.logsumexp(dim=-1)


def label_log_odds(logits: Tensor, index: int) -> Tensor:
    """Return the log-odds of a label that excludes the others."""
    return log_odds(logits[:, 0], index)


def independent_label_log_odds(logits: Tensor, index: int) -> Tensor:
    """Return the log-odds of a label that is assigned independently of the others."""
    return logits[:, 0, index]


def tags_log_odds(logits: Tensor, words: Sequence[int], tags: Sequence[int]) -> Tensor:
    """Return the mean log-odds of the tags of some words."""
    found = [log_odds(logits[:, word], tag) for word, tag in zip(words, tags, strict=True)]
    return torch.stack(found).mean(dim=0)


def span_log_odds(logits: Tensor, first: int, last: int) -> Tensor:
    """Return the sum of the log-odds of the first and of the last position of a span."""
    return log_odds(logits[..., 0], first) + log_odds(logits[..., 1], last)


def tokens_log_probability(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    """Return the summed log-probability of tokens, each given those before."""
    wanted = torch.tensor(tokens, device=logits.device).expand(len(logits), -1)
    return -F.cross_entropy(logits.transpose(1, 2), wanted, reduction="none").sum(dim=-1)


def input_text(tokenizer: PreTrainedTokenizerBase, name: str, text: str) -> InputText:
    """Return a text with the words that attributions are given for."""
    return InputText(name, text, attribution_words(tokenizer, text))


def padded_owners(owners: Sequence[int | None], example: EncodedExample) -> list[int | None]:
    """Return the owners of all tokens; trailing tokens outside of the texts have none."""
    return [*owners, *[None] * (len(example) - len(owners))]


def refuse_selection(task: str, *, label: str | None, span: tuple[int, int] | None) -> None:
    """Refuse the selection of a label or a span by a task that has none."""
    if label is not None or span is not None:
        raise DataError(
            f"{task} has no {'spans' if label is None else 'labels'} to choose from",
            place=task,
            hint="Leave out --label and --span",
        )


def attribution_words(tokenizer: PreTrainedTokenizerBase, text: str) -> list[Word]:
    """Return the words of a text; scripts without spaces are split where their tokens begin."""
    return [part for word in split_words(text) for part in split_unspaced(tokenizer, word)]


def split_unspaced(tokenizer: PreTrainedTokenizerBase, word: Word) -> list[Word]:
    """Split a word at its tokens if its script has no spaces; else return it whole.

    A character is never split, nor separated from its marks: a byte-level tokenizer has several
    tokens for one.
    """
    if not any(map(is_unspaced, word.text)):
        return [word]
    encoding = tokenizer(
        word.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    starts = {start for start, end in encoding["offset_mapping"] if end > start}
    # letters of other scripts, digits and marks stay with what is before them
    cuts = sorted(
        {0} | {at for at in starts if is_unspaced(word.text[at])} | set(_borders(word.text))
    )
    return [
        Word(word.text[a:b], word.start + a, word.start + b)
        for a, b in zip(cuts, [*cuts[1:], len(word.text)], strict=True)
    ]


def _borders(text: str) -> Iterator[int]:
    """Yield where a script without spaces ends and another begins."""
    for at in range(1, len(text)):
        mark = unicodedata.category(text[at]).startswith("M")
        if not mark and not is_unspaced(text[at]) and is_unspaced(text[at - 1]):
            yield at
