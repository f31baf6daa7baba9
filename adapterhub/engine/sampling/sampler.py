"""Sampling of the next token of every sequence of a batch, each with its own parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad

from adapterhub.engine.sampling.draw import draw_tokens, token_weights, uniform_bits
from adapterhub.engine.sampling.state import apply_penalties
from adapterhub.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from adapterhub.engine.sampling.state import SamplingState


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural logarithms of the probabilities of one step.

    Args:
        chosen: Value of the sampled token.
        best: Ids and values of the most likely tokens, in falling order.
    """

    chosen: float
    best: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class SampledToken:
    """Result of one sequence.

    Args:
        token: Token id, or ``None`` in case of an error.
        logprobs: Log-probabilities, if requested.
        error: Error of this sequence alone.
    """

    token: int | None
    logprobs: TokenLogprobs | None = None
    error: EngineError | None = None


class Sampler:
    """Samples tokens from logits; keeps no state between steps.

    The token of a sequence depends on the bits of its own logits, its parameters, its tokens so
    far, its mask and, above temperature 0, on (seed, index, step). The other sequences of the
    batch, their order and the number of threads change nothing. However, a model may round the
    logits of a sequence differently in another batch, so equal seeds give equal texts as long as
    no difference in the last bits changes a choice. Another device or library version may change
    one too.

    Args:
        chunk_size: Sequences with parameters beyond greedy sampling that are processed at once;
            each takes about 40 bytes per token of the vocabulary.
    """

    def __init__(self, *, chunk_size: int = 64) -> None:
        self._chunk_size = chunk_size

    def sample(
        self, logits: Tensor, states: Sequence[SamplingState], best: Sequence[int] | None = None
    ) -> list[SampledToken]:
        """Sample the next token of every sequence.

        Args:
            logits: Logits ``[num_seqs, vocab_size]`` of any float type; not changed. Minus
                infinity excludes a token.
            states: Sampling states; not changed, ``append`` adds the token.
            best: Most likely tokens, where they are known and all logits are finite.

        Returns:
            Result of each sequence, with an error where the logits contain NaN or infinity or
            every token is excluded.
        """
        if not states:
            return []
        tokens, valid = _largest(logits, best)
        others = [i for i, state in enumerate(states) if valid[i] and not _is_plain(state)]
        for start in range(0, len(others), self._chunk_size):
            chunk = others[start : start + self._chunk_size]
            chosen = _sample_chunk(_select(logits, chunk), [states[i] for i in chunk])
            for i, token in zip(chunk, chosen, strict=True):
                tokens[i] = token
        sampled = [token if fine else None for token, fine in zip(tokens, valid, strict=True)]
        logprobs = _logprobs(logits, states, sampled)
        return [_result(*each) for each in zip(tokens, valid, logprobs, strict=True)]


def _largest(logits: Tensor, known: Sequence[int] | None) -> tuple[list[int | None], list[bool]]:
    """Return the most likely tokens, and whether each comes from usable logits."""
    if known is not None:
        return list(known), [True] * len(known)
    # the largest is NaN if one is NaN, and infinite if one is infinite or all are minus it;
    # argmax takes four times as long in bfloat16
    largest, best = logits.max(-1)
    return best.tolist(), largest.isfinite().tolist()


def token_logprobs(
    logits: Tensor, chosen: Sequence[int], counts: Sequence[int]
) -> list[TokenLogprobs]:
    """Return log-probabilities of the model's own distribution.

    Args:
        logits: Float32 ``[num_seqs, vocab_size]``, before penalties and temperature.
        chosen: Sampled token of each sequence.
        counts: Number of most likely tokens to report for each sequence.
    """
    values = torch.log_softmax(logits, dim=-1)
    index = torch.tensor(chosen, device=logits.device)[:, None]
    taken = values.gather(1, index)[:, 0].tolist()
    best = values.topk(min(max(counts), logits.shape[1]), dim=-1)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [
        TokenLogprobs(own, tuple(zip(ids[:count], found[:count], strict=True)))
        for own, count, (ids, found) in zip(taken, counts, pairs, strict=True)
    ]


def _is_plain(state: SamplingState) -> bool:
    """Return whether the most likely token is the result."""
    return state.params.greedy and state.seen is None and state.allowed is None and not state.barred


def _select(logits: Tensor, indices: Sequence[int]) -> Tensor:
    """Return the logits of some sequences as a float32 copy."""
    return logits[torch.tensor(indices, device=logits.device)].float()


def _sample_chunk(logits: Tensor, states: Sequence[SamplingState]) -> list[int | None]:
    """Sample tokens; ``logits`` is changed."""
    penalized = [(i, state.seen, state.params) for i, state in enumerate(states)]
    apply_penalties(
        logits, [(i, seen, params) for i, seen, params in penalized if seen is not None]
    )
    _mask(logits, states)
    tokens: list[int | None] = [None] * len(states)
    for greedy, choose in ((True, _most_likely), (False, _draw)):
        group = [i for i, state in enumerate(states) if state.params.greedy is greedy]
        if group:
            part = logits if len(group) == len(states) else _select(logits, group)
            for i, token in zip(group, choose(part, [states[i] for i in group]), strict=True):
                tokens[i] = token
    return tokens


def _mask(logits: Tensor, states: Sequence[SamplingState]) -> None:
    for i, state in enumerate(states):
        if state.allowed is not None:
            allowed = state.allowed[: logits.shape[1]]
            # an adapter's own vocabulary may have more tokens than the constraint knows
            allowed = pad(allowed, (0, logits.shape[1] - len(allowed)))
            logits[i].masked_fill_(~allowed.to(logits.device), -torch.inf)
        barred = [token for token in state.barred if token < logits.shape[1]]
        if barred:
            logits[i, barred] = -torch.inf


def _most_likely(logits: Tensor, states: Sequence[SamplingState]) -> list[int | None]:
    largest, best = logits.max(-1)
    possible = largest.isfinite().tolist()
    return [token if fine else None for token, fine in zip(best.tolist(), possible, strict=True)]


def _draw(logits: Tensor, states: Sequence[SamplingState]) -> list[int | None]:
    weights = token_weights(logits, [state.params for state in states])
    bits = [uniform_bits(state.seed, state.index, state.step) for state in states]
    return draw_tokens(weights, bits)


def _logprobs(
    logits: Tensor, states: Sequence[SamplingState], tokens: Sequence[int | None]
) -> list[TokenLogprobs | None]:
    requested = [
        (i, token, state.params.logprobs)
        for i, (state, token) in enumerate(zip(states, tokens, strict=True))
        if token is not None and state.params.logprobs is not None
    ]
    found: list[TokenLogprobs | None] = [None] * len(states)
    if requested:
        indices, chosen, counts = zip(*requested, strict=True)
        reports = token_logprobs(_select(logits, indices), chosen, counts)
        for i, report in zip(indices, reports, strict=True):
            found[i] = report
    return found


def _result(token: int | None, valid: bool, logprobs: TokenLogprobs | None) -> SampledToken:
    if not valid:
        problem = "the logits contain NaN or infinity"
        hint = "The adapter, or the precision of its backbone, produces numbers that are too large"
        return SampledToken(None, error=EngineError(problem, hint=hint))
    if token is None:
        return SampledToken(None, error=EngineError("every token is excluded"))
    return SampledToken(token, logprobs)
