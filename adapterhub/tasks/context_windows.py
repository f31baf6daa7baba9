"""A question and a window of its context as tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterhub.tasks.fields import text_field

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from adapterhub.tasks.base import Pool, TaskOptions
    from adapterhub.tasks.fields import Example


@dataclass(frozen=True, slots=True)
class ContextWindow:
    """A question and one window of its context as tokens.

    Args:
        input_ids: Token ids of both, with special tokens.
        segment_ids: Token type of each, or empty.
        null: Position of the null token, which represents no answer.
        positions: Positions of the context's tokens in order, without those of spaces only.
        spans: Start and end of each of these in the context, in characters.
        question: Question, truncated where it is too long.
        question_spans: Start and end in the question of each of the first tokens; empty for
            spaces and for tokens outside of it.
    """

    input_ids: list[int]
    segment_ids: list[int]
    null: int
    positions: list[int]
    spans: list[tuple[int, int]]
    question: str
    question_spans: list[tuple[int, int]]


class WindowEncoder:
    """Splits contexts into overlapping windows.

    An encoder reads question and context as a pair; its first token is the null token. A
    decoder reads the question, a line end, the context, and the end-of-text token, which
    attends to all of it and is the null token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        options: TaskOptions,
        null: Pool,
    ) -> None:
        """Set up the encoder; ``null`` is the token that represents no answer."""
        self.tokenizer = tokenizer
        self.null = null
        self.stride = options.stride
        self.max_length = options.max_length - (null == "last")
        self._ending = [tokenizer.eos_token_id] if null == "last" else []
        #: the last windows, which are requested again for each of them
        self._last: tuple[tuple[str, str], list[ContextWindow]] | None = None

    def windows(self, example: Example, number: int) -> list[ContextWindow]:
        """Return the windows of an example that contain some of its context, in order.

        Raises:
            DataError: naming example and field, when question or context is no text.
        """
        pair = (text_field(example, "question", number), text_field(example, "context", number))
        if self._last is None or self._last[0] != pair:
            self._last = (pair, self._split(*pair))
        return self._last[1]

    def _split(self, question: str, context: str) -> list[ContextWindow]:
        question = self._truncated(question.strip())
        lead = f"{question}\n" if self.null == "last" else question
        room = self.max_length - len(self._ids(lead, ""))
        encoding = self.tokenizer(
            lead,
            context,
            truncation="only_second",
            max_length=self.max_length,
            stride=max(0, min(self.stride, room // 2)),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            verbose=False,
        )
        count = len(encoding["input_ids"])
        found = [self._window(encoding, index, question, context) for index in range(count)]
        return [window for window in found if window.positions]

    def _window(self, encoding: Any, index: int, question: str, context: str) -> ContextWindow:
        ids: list[int] = encoding["input_ids"][index]
        pairs = self.null == "first" and "token_type_ids" in encoding
        segments: list[int] = encoding["token_type_ids"][index] if pairs else []
        offsets: Sequence[tuple[int, int]] = encoding["offset_mapping"][index]
        placed = [
            (at, _without_spaces(context, offsets[at]))
            for at, part in enumerate(encoding.sequence_ids(index))
            if part == 1
        ]
        words = [(at, span) for at, span in placed if span[1] > span[0]]
        return ContextWindow(
            input_ids=ids + self._ending,
            segment_ids=segments if any(segments) else [],
            null=0 if self.null == "first" else len(ids),
            positions=[at for at, _ in words],
            spans=[span for _, span in words],
            question=question,
            question_spans=[
                _without_spaces(question, offsets[at]) if part == 0 else (0, 0)
                for at, part in enumerate(encoding.sequence_ids(index))
            ],
        )

    def _truncated(self, question: str) -> str:
        """Return a question truncated so that half of a window is left for the context."""
        encoding = self.tokenizer(
            question, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        offsets, most = encoding["offset_mapping"], max(1, self.max_length // 2 - 4)
        return question if len(offsets) <= most else question[: offsets[most - 1][1]]

    def _ids(self, first: str, second: str) -> list[int]:
        ids: list[int] = self.tokenizer(first, second, verbose=False)["input_ids"]
        return ids


def _without_spaces(text: str, span: tuple[int, int]) -> tuple[int, int]:
    """Return the span of a token without the spaces around it.

    Byte-level tokenizers mark the space before a word inside the word's first token.
    """
    start, end = span
    inside = text[start:end]
    return start + len(inside) - len(inside.lstrip()), end - len(inside) + len(inside.rstrip())
