"""Sampling state of one answer, and the penalties of its tokens, for a whole batch at once."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from adapterhub.engine.sampling.params import SamplingParams

EndReason = Literal["stop", "length"]


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


class SamplingState:
    """One answer of a request, of which there are ``params.n``.

    Args:
        params: Sampling parameters.
        prompt: Token ids of the prompt.
        eos_ids: End-of-text tokens of the backbone.
        seed: Seed where ``params`` has none; all answers of a request share it.
        index: Index of this answer in its request.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt: Sequence[int] = (),
        *,
        eos_ids: Iterable[int] = (),
        seed: int | None = None,
        index: int = 0,
    ) -> None:
        self.params = params
        #: seed of the random numbers; drawn if none is given, so that it can be reported
        self.seed = next(
            (found for found in (params.seed, seed) if found is not None), secrets.randbits(63)
        )
        self.index = index
        self.tokens: list[int] = []
        #: tokens that a constraint allows next, bool [vocab_size]; ``None`` allows all
        self.allowed: Tensor | None = None
        ends = () if params.ignore_eos else eos_ids
        self.end_ids = frozenset(ends) | frozenset(params.stop_token_ids)
        self.seen = SeenTokens(prompt) if params.penalized else None

    @property
    def step(self) -> int:
        """Number of tokens so far; each has its own random number."""
        return len(self.tokens)

    @property
    def barred(self) -> frozenset[int]:
        """End tokens that are excluded because ``min_tokens`` is not reached."""
        return self.end_ids if self.step < self.params.min_tokens else frozenset()

    def append(self, token: int) -> EndReason | None:
        """Append a token.

        Returns:
            ``stop`` for an end token, which is not part of the text, ``length`` for the last of
            ``max_tokens``, or ``None`` if the answer continues.
        """
        self.tokens.append(token)
        if self.seen is not None:
            self.seen.add(token)
        if token in self.end_ids:
            return "stop"
        return "length" if self.step >= self.params.max_tokens else None
