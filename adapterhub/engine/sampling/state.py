"""Where one answer stands: its settings, its tokens so far, its random stream."""

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
    """One answer of a request, of which there are ``params.n``."""

    def __init__(
        self,
        params: SamplingParams,
        prompt: Sequence[int] = (),
        *,
        eos_ids: Iterable[int] = (),
        seed: int | None = None,
        index: int = 0,
    ) -> None:
        """Begin an empty answer.

        Args:
            params: of the request.
            prompt: its token ids.
            eos_ids: tokens by which the backbone ends a text.
            seed: where ``params`` has none; all answers of a request share it.
            index: of this answer among those of the request.
        """
        self.params = params
        #: of the random numbers; drawn where the request names none, so that it can be told
        self.seed = next(
            (found for found in (params.seed, seed) if found is not None), secrets.randbits(63)
        )
        self.index = index
        self.tokens: list[int] = []
        #: which tokens a constraint allows next, bool ``[vocabulary]``; ``None`` allows all
        self.allowed: Tensor | None = None
        ends = () if params.ignore_eos else eos_ids
        self.end_ids = frozenset(ends) | frozenset(params.stop_token_ids)
        self.seen = SeenTokens(prompt) if params.penalized else None

    @property
    def step(self) -> int:
        """Number of tokens so far; a random number belongs to each."""
        return len(self.tokens)

    @property
    def barred(self) -> frozenset[int]:
        """Tokens that cannot come yet, because they would end the text too early."""
        return self.end_ids if self.step < self.params.min_tokens else frozenset()

    def append(self, token: int) -> EndReason | None:
        """Add a token.

        Args:
            token: its id.

        Returns:
            Why the answer ends with it: ``stop`` for a token that ends texts, which is no part
            of the text, ``length`` for the last of ``max_tokens``; ``None`` where it goes on.
        """
        self.tokens.append(token)
        if self.seen is not None:
            self.seen.add(token)
        if token in self.end_ids:
            return "stop"
        return "length" if self.step >= self.params.max_tokens else None
