"""The next token of every row of a batch, each by its own settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from adapterhub.engine.sampling.draw import draw_tokens, token_weights, uniform_bits
from adapterhub.engine.sampling.logprobs import token_logprobs
from adapterhub.engine.sampling.penalties import apply_penalties
from adapterhub.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from adapterhub.engine.sampling.logprobs import TokenLogprobs
    from adapterhub.engine.sampling.state import SamplingState


@dataclass(frozen=True, slots=True)
class SampledToken:
    """What a step gave one row.

    Args:
        token: its id; ``None`` where there is an error.
        logprobs: where the request asks for them.
        error: why this row, and no other, has no token.
    """

    token: int | None
    logprobs: TokenLogprobs | None = None
    error: EngineError | None = None


class Sampler:
    """Chooses tokens by logits and each row's settings; keeps nothing between steps.

    What is promised: a row's token depends on the bits of its own logits, its settings, its
    tokens so far, its mask and, above temperature 0, on (seed, index, step). Which rows stand
    beside it, their order and the number of threads change nothing. What is not promised: that
    a model gives the same bits for the logits of a row in another batch. Matrix products may
    round differently there, so equal seeds give equal texts as long as no such difference in
    the last bits moves a choice. Another device or version of a library can move one too.
    """

    def __init__(self, *, chunk_rows: int = 64) -> None:
        """Bound the memory that a step takes.

        Args:
            chunk_rows: rows with settings beyond greedy that are worked on at once; each
                takes some 40 bytes a token of the vocabulary.
        """
        self._chunk_rows = chunk_rows

    def sample(self, logits: Tensor, rows: Sequence[SamplingState]) -> list[SampledToken]:
        """Choose the next token of every row.

        Args:
            logits: ``[rows, vocabulary]`` of any float type; not changed. Minus infinity is a
                token that cannot come.
            rows: where each row stands; not changed, ``append`` adds the token.

        Returns:
            One entry a row, with an error for a row whose logits hold NaN or infinity or whose
            every token is barred.
        """
        if not rows:
            return []
        # the largest is NaN if one is NaN, and infinite if one is infinite or all are minus it;
        # argmax takes four times as long in bfloat16
        largest, best = logits.max(-1)
        tokens: list[int | None] = best.tolist()
        sound = largest.isfinite().tolist()
        edited = [row for row, state in enumerate(rows) if sound[row] and not _plain(state)]
        for start in range(0, len(edited), self._chunk_rows):
            chunk = edited[start : start + self._chunk_rows]
            states = [rows[row] for row in chunk]
            for row, token in zip(chunk, _chosen(_picked(logits, chunk), states), strict=True):
                tokens[row] = token
        reports = _reports(
            logits, rows, [t if s else None for t, s in zip(tokens, sound, strict=True)]
        )
        return [_result(*one) for one in zip(tokens, sound, reports, strict=True)]


def _plain(state: SamplingState) -> bool:
    return state.params.greedy and state.seen is None and state.allowed is None and not state.barred


def _picked(logits: Tensor, rows: Sequence[int]) -> Tensor:
    """Return some rows as float32, a copy."""
    return logits[torch.tensor(rows, device=logits.device)].float()


def _chosen(logits: Tensor, states: Sequence[SamplingState]) -> list[int | None]:
    """Choose tokens; ``logits`` is changed."""
    _penalize(logits, states)
    _mask(logits, states)
    tokens: list[int | None] = [None] * len(states)
    for greedy, choose in ((True, _most_likely), (False, _drawn)):
        group = [row for row, state in enumerate(states) if state.params.greedy is greedy]
        if group:
            part = logits if len(group) == len(states) else _picked(logits, group)
            for row, token in zip(group, choose(part, [states[row] for row in group]), strict=True):
                tokens[row] = token
    return tokens


def _penalize(logits: Tensor, states: Sequence[SamplingState]) -> None:
    found = [(row, state.seen, state.params) for row, state in enumerate(states)]
    penalized = [(row, seen, params) for row, seen, params in found if seen is not None]
    if penalized:
        rows, seen, params = zip(*penalized, strict=True)
        apply_penalties(logits, rows, seen, params)


def _mask(logits: Tensor, states: Sequence[SamplingState]) -> None:
    for row, state in enumerate(states):
        if state.allowed is not None:
            logits[row].masked_fill_(~state.allowed.to(logits.device), -torch.inf)
        early = [token for token in state.barred if token < logits.shape[1]]
        if early:
            logits[row, early] = -torch.inf


def _most_likely(logits: Tensor, states: Sequence[SamplingState]) -> list[int | None]:
    largest, best = logits.max(-1)
    possible = largest.isfinite().tolist()
    return [token if fine else None for token, fine in zip(best.tolist(), possible, strict=True)]


def _drawn(logits: Tensor, states: Sequence[SamplingState]) -> list[int | None]:
    weights = token_weights(logits, [state.params for state in states])
    bits = [uniform_bits(state.seed, state.index, state.step) for state in states]
    return draw_tokens(weights, bits)


def _reports(
    logits: Tensor, rows: Sequence[SamplingState], tokens: Sequence[int | None]
) -> list[TokenLogprobs | None]:
    asked = [
        (row, token, state.params.logprobs)
        for row, (state, token) in enumerate(zip(rows, tokens, strict=True))
        if token is not None and state.params.logprobs is not None
    ]
    reports: list[TokenLogprobs | None] = [None] * len(rows)
    if asked:
        places, chosen, counts = zip(*asked, strict=True)
        for row, report in zip(
            places, token_logprobs(_picked(logits, places), chosen, counts), strict=True
        ):
            reports[row] = report
    return reports


def _result(token: int | None, sound: bool, report: TokenLogprobs | None) -> SampledToken:
    if not sound:
        problem = "the logits hold NaN or infinity"
        hint = "The adapter or the precision of its backbone makes numbers that are too large"
        return SampledToken(None, error=EngineError(problem, hint=hint))
    if token is None:
        return SampledToken(None, error=EngineError("no token can come next"))
    return SampledToken(token, report)
