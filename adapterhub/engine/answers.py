"""From a row's logits to the next piece of its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.engine.outputs import CompletionOutput, Delta
from adapterhub.errors import AdapterHubError

if TYPE_CHECKING:
    from collections.abc import Sequence as Rows

    from torch import Tensor

    from adapterhub.engine.sampling.sampler import SampledToken, Sampler
    from adapterhub.engine.sequences import FinishReason, Sequence


def next_tokens(sampler: Sampler, logits: Tensor, rows: Rows[Sequence]) -> list[Delta]:
    """Choose the next token of every row and add it to the row's answer.

    Args:
        sampler: chooses.
        logits: ``[rows, vocabulary]``.
        rows: changed; one with an error or at its end is marked finished, and no other is.
    """
    for row in rows:
        _allow(row)
    chosen = sampler.sample(logits, [row.state for row in rows])
    return [_advance(row, found) for row, found in zip(rows, chosen, strict=True)]


def fail(row: Sequence, error: AdapterHubError) -> Delta:
    """End a row by an error."""
    row.error, row.finished = error, "error"
    return Delta(row.state.index, None, finish_reason="error", error=error)


def cancel(row: Sequence) -> Delta:
    """End a row because nobody waits for it any longer."""
    row.finished = "cancelled"
    return Delta(row.state.index, None, finish_reason="cancelled")


def answer_of(row: Sequence) -> CompletionOutput:
    """Return the answer of a finished row.

    Raises:
        ValueError: when it is not finished.
    """
    if row.finished is None:
        raise ValueError("the row goes on")
    ended = row.finished == "stop" and row.output and row.output[-1] in row.state.end_ids
    tokens = row.output[:-1] if ended else row.output
    text = "".join(row.pieces)
    return CompletionOutput(tuple(tokens), text, row.finished, tuple(row.logprobs), row.error)


def _allow(row: Sequence) -> None:
    if row.constraint is None:
        return
    try:
        row.state.allowed = row.constraint.mask()
    except AdapterHubError as error:
        row.error = error


def _advance(row: Sequence, chosen: SampledToken) -> Delta:
    error = row.error or chosen.error
    if error is not None or chosen.token is None:
        return fail(row, error or AdapterHubError("no token was chosen"))
    try:
        reason = _append(row, chosen.token)
    except AdapterHubError as found:
        return fail(row, found)
    text = _text(row, chosen.token, reason)
    if row.stream is not None and row.stream.stopped is not None:
        reason = "stop"
    row.finished = reason
    if chosen.logprobs is not None:
        row.logprobs.append(chosen.logprobs)
    return Delta(row.state.index, chosen.token, text, chosen.logprobs, reason)


def _append(row: Sequence, token: int) -> FinishReason | None:
    reason = row.state.append(token)
    if row.constraint is not None and token not in row.state.end_ids:
        row.constraint.advance(token)
        if row.constraint.finished:
            return "stop"
    return reason


def _text(row: Sequence, token: int, reason: FinishReason | None) -> str:
    """Return the text that a token adds; a token that ends the answer is no part of it."""
    if row.stream is None:
        return ""
    ends = reason == "stop" and token in row.state.end_ids
    text = "" if ends else row.stream.push([token])
    if reason is not None:
        text += row.stream.finish()
    row.pieces.append(text)
    return text
