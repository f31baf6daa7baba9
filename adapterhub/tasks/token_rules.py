"""Tokens that may not come next in a transcript, by transformers' own logits processors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.generation.logits_process import (
    LogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    WhisperTimeStampLogitsProcessor,
)

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GenerationConfig, LogitsProcessorList


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Excludes tokens as transformers does when Whisper generates.

    Args:
        begin_index: Number of tokens before the transcript.
        suppressed: Tokens that never come.
        begin_suppressed: Tokens that do not come first.
        timestamps: Settings with the timestamp tokens, where the transcript has them.
        only: Tokens of which one must come; empty for any.
    """

    begin_index: int
    suppressed: tuple[int, ...] = ()
    begin_suppressed: tuple[int, ...] = ()
    timestamps: GenerationConfig | None = None
    only: tuple[int, ...] = ()

    def processors(self, device: torch.device) -> list[LogitsProcessor]:
        """Return the processors, in the order in which transformers applies them.

        Source: ``_retrieve_logit_processors`` in ``transformers/models/whisper``.
        """
        found: list[Any] = []
        if self.begin_suppressed:
            begin = list(self.begin_suppressed), self.begin_index
            found.append(SuppressTokensAtBeginLogitsProcessor(*begin, device=str(device)))
        if self.suppressed:
            found.append(SuppressTokensLogitsProcessor(list(self.suppressed), device=str(device)))
        if self.timestamps is not None:
            found.append(WhisperTimeStampLogitsProcessor(self.timestamps, self.begin_index))
        if self.only:
            found.append(_OnlyTokens(self.only))
        return found

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:
        """Return logits with minus infinity for excluded tokens.

        Args:
            ids: Tokens so far, ``[num_sequences, length]``.
            logits: Float32 ``[num_sequences, vocab_size]``.
        """
        for processor in self.processors(logits.device):
            logits = processor(ids, logits)
        return logits


@dataclass(frozen=True, slots=True, eq=False)
class ProcessorRules:
    """Rules of a checkpoint, which transformers made processors of.

    Args:
        found: The processors, in the order in which transformers applies them.
    """

    found: LogitsProcessorList

    def processors(self, device: torch.device) -> list[LogitsProcessor]:
        """Return the processors."""
        return list(self.found)

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:
        """Return the logits as the processors leave them; see ``TokenRules``."""
        found: Any = self.found(ids, logits)
        return found


class _OnlyTokens(LogitsProcessor):
    """Excludes all tokens but some."""

    def __init__(self, tokens: tuple[int, ...]) -> None:
        self._tokens = tokens

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        found = torch.full_like(scores, -torch.inf)
        tokens = list(self._tokens)
        found[:, tokens] = scores[:, tokens]
        return found
