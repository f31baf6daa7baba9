"""Repetition, presence and frequency penalties of a whole batch at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from adapterhub.engine.sampling.params import SamplingParams


class SeenTokens:
    """The distinct tokens of prompt and answer, and how often each occurs in the answer."""

    def __init__(self, prompt: Iterable[int]) -> None:
        distinct = list(dict.fromkeys(prompt))
        self._places = {token: place for place, token in enumerate(distinct)}
        # spare capacity, so that adding a token takes amortised constant time
        self._tokens = np.zeros(len(distinct) + 64, np.int64)
        self._tokens[: len(distinct)] = distinct
        self._counts = np.zeros_like(self._tokens)

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Distinct token ids, ``[num_distinct]``."""
        return self._tokens[: len(self._places)]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of occurrences in the answer, ``[num_distinct]``."""
        return self._counts[: len(self._places)]

    def add(self, token: int) -> None:
        """Count a token of the answer."""
        place = self._places.setdefault(token, len(self._places))
        if place == len(self._tokens):
            self._tokens = np.concatenate([self._tokens, np.zeros_like(self._tokens)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._tokens[place] = token
        self._counts[place] += 1


def apply_penalties(
    logits: Tensor, penalized: Sequence[tuple[int, SeenTokens, SamplingParams]]
) -> None:
    """Penalize the logits of tokens that occurred before, in place.

    Repetition is applied first, then frequency and presence. Only the entries of tokens that
    occurred are touched.

    Args:
        logits: Float32 ``[num_seqs, vocab_size]``.
        penalized: Index, seen tokens and parameters of each sequence with penalties.
    """
    if not penalized:
        return
    indices, seen, params = zip(*penalized, strict=True)
    sizes = [len(each.tokens) for each in seen]
    # ids past the vocabulary, as of virtual tokens, have no logits
    tokens = np.concatenate([each.tokens for each in seen])
    real = (tokens >= 0) & (tokens < logits.shape[1])

    def spread(values: Sequence[float], dtype: Any) -> Tensor:
        return torch.from_numpy(np.repeat(np.asarray(values, dtype), sizes)[real]).to(logits.device)

    place = (spread(indices, np.int64), torch.from_numpy(tokens[real]).to(logits.device))
    found = np.concatenate([each.counts for each in seen])[real].astype(np.float32)
    counts = torch.from_numpy(found).to(logits.device)
    repetition = spread([each.repetition_penalty for each in params], np.float32)
    values = logits[place]
    values = torch.where(values < 0, values * repetition, values / repetition)
    values -= spread([each.frequency_penalty for each in params], np.float32) * counts
    values -= spread([each.presence_penalty for each in params], np.float32) * (counts > 0)
    # a sum past float32 would become infinite, which later steps would take for a fault
    logits[place] = values.clamp_max_(torch.finfo(torch.float32).max)
