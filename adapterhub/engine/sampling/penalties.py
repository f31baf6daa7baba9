"""Penalties on tokens that came before, over the rows of a batch at once."""

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
    """The distinct tokens of prompt and answer, and how often the answer holds each."""

    def __init__(self, prompt: Iterable[int]) -> None:
        """Begin with a prompt and an empty answer."""
        distinct = list(dict.fromkeys(prompt))
        self._places = {token: place for place, token in enumerate(distinct)}
        # room to grow: a token is added in amortised constant time
        self._tokens = np.zeros(len(distinct) + 64, np.int64)
        self._tokens[: len(distinct)] = distinct
        self._counts = np.zeros_like(self._tokens)

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Token ids, each one once, ``[distinct]``."""
        return self._tokens[: len(self._places)]

    @property
    def counts(self) -> NDArray[np.int64]:
        """How often the answer holds them, ``[distinct]``."""
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
    logits: Tensor,
    rows: Sequence[int],
    seen: Sequence[SeenTokens],
    params: Sequence[SamplingParams],
) -> None:
    """Change the logits of tokens that came before, in place.

    Repetition first, then frequency and presence, each with its row's own strength. Only the
    entries of such tokens are touched.

    Args:
        logits: float32 ``[batch, vocabulary]``.
        rows: of the batch that have penalties.
        seen: tokens of each of these rows.
        params: settings of each of these rows.
    """
    sizes = [len(one.tokens) for one in seen]
    # ids past the vocabulary stand for what is no token, such as a trained prefix
    tokens = np.concatenate([one.tokens for one in seen])
    real = (tokens >= 0) & (tokens < logits.shape[1])

    def spread(values: Sequence[float], dtype: Any) -> Tensor:
        return torch.from_numpy(np.repeat(np.asarray(values, dtype), sizes)[real]).to(logits.device)

    place = (spread(rows, np.int64), torch.from_numpy(tokens[real]).to(logits.device))
    found = np.concatenate([one.counts for one in seen])[real].astype(np.float32)
    counts = torch.from_numpy(found).to(logits.device)
    repetition = spread([one.repetition_penalty for one in params], np.float32)
    values = logits[place]
    values = torch.where(values < 0, values * repetition, values / repetition)
    values -= spread([one.frequency_penalty for one in params], np.float32) * counts
    values -= spread([one.presence_penalty for one in params], np.float32) * (counts > 0)
    # a sum past float32 would become infinite, which no later step could tell from a fault
    logits[place] = values.clamp_max_(torch.finfo(torch.float32).max)
