"""Sampling state of one answer: parameters, tokens so far and random stream."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Literal

from adapterhub.engine.sampling.penalties import SeenTokens

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from adapterhub.engine.sampling.params import SamplingParams

EndReason = Literal["stop", "length"]


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
