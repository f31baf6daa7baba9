"""``/v1/completions``."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from adapterhub.server.describing import opening, provenance, usage
from adapterhub.server.generation import Job, pieces, room_for, sampling
from adapterhub.server.routes.asked import find_model
from adapterhub.server.routes.continued import respond
from adapterhub.server.streaming import event

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from starlette.responses import Response

    from adapterhub.engine.requests import PreparedPrompt
    from adapterhub.server.context import Call, Server
    from adapterhub.server.generation import Piece
    from adapterhub.server.schemas.completion import CompletionRequest

#: OpenAI's own default.
DEFAULT_TOKENS = 16


async def complete(call: Call, body: CompletionRequest) -> Response:
    """Continue text."""
    job = await asyncio.to_thread(_prepare, call, body)
    return await respond(call, body, job, _whole, _events)


def _prepare(call: Call, body: CompletionRequest) -> Job:
    """Resolve and tokenize; called on a thread."""
    server = call.server
    model = find_model(call, body.model)
    prompts = tuple(_read(server, body, prompt) for prompt in prompts_of(body.prompt))
    return Job(model, prompts, prompts[0].params.n)


def prompts_of(given: str | Sequence[str | int | list[int]]) -> list[str | list[int]]:
    """Return each prompt of a request: text, or token ids."""
    if isinstance(given, str):
        return [given]
    numbers = [each for each in given if isinstance(each, int)]
    return [numbers] if numbers else [each for each in given if not isinstance(each, int)]


def _read(server: Server, body: CompletionRequest, prompt: str | list[int]) -> PreparedPrompt:
    tokens = (
        server.engine.prompt_processor.encode(prompt) if isinstance(prompt, str) else tuple(prompt)
    )
    asked = body.max_tokens
    room = room_for(server, len(tokens), asked)
    params = sampling(body, max_tokens=asked or min(room, DEFAULT_TOKENS), logprobs=body.logprobs)
    return server.engine.prompt_processor.read(tokens, params)


async def _whole(call: Call, body: CompletionRequest, job: Job) -> dict[str, Any]:
    writers = [_Reports(call.server) for _ in range(job.choices)]
    texts = [""] * job.choices
    reasons = ["stop"] * job.choices
    generated = 0
    async with aclosing(pieces(call, job)) as found:
        async for piece in found:
            texts[piece.index] += piece.text
            generated += piece.counted
            reasons[piece.index] = piece.finish or reasons[piece.index]
            writers[piece.index].push(piece)
    choices = [
        {
            "index": index,
            "text": text,
            "finish_reason": reasons[index],
            "logprobs": None if body.logprobs is None else writers[index].taken(),
        }
        for index, text in enumerate(texts)
    ]
    return {
        **opening(call.server, job.model, "text_completion", "cmpl"),
        "choices": choices,
        "usage": usage(job.prompt_tokens, generated),
        "adapterhub": provenance(call.server, job.model),
    }


async def _events(
    call: Call, body: CompletionRequest, job: Job, found: AsyncGenerator[Piece, None]
) -> AsyncGenerator[bytes, None]:
    head = opening(call.server, job.model, "text_completion", "cmpl")
    told: dict[str, Any] = {"adapterhub": provenance(call.server, job.model)}
    wish = body.stream_options.include_usage if body.stream_options else None
    writers = [_Reports(call.server) for _ in range(job.choices)]
    generated, left = 0, job.choices
    async with aclosing(found):
        async for piece in found:
            generated += piece.counted
            left -= piece.finish is not None
            writers[piece.index].push(piece)
            if not (piece.text or piece.finish):
                continue
            choice = {
                "index": piece.index,
                "text": piece.text,
                "finish_reason": piece.finish,
                "logprobs": None if body.logprobs is None else writers[piece.index].taken(),
            }
            last = left == 0 and wish is None
            extra = {"usage": usage(job.prompt_tokens, generated)} if last else {}
            yield event({**head, "choices": [choice], **extra, **told})
            told = {}
    if wish:
        counted = usage(job.prompt_tokens, generated)
        told = {"adapterhub": provenance(call.server, job.model)}
        yield event({**head, "choices": [], "usage": counted, **told})


class _Reports:
    """The probabilities of one answer's tokens, in the form of completions."""

    def __init__(self, server: Server) -> None:
        self._texts = server.tokens
        self._offset = 0
        self._pieces: list[Piece] = []

    def push(self, piece: Piece) -> None:
        if piece.logprobs is not None and piece.token is not None:
            self._pieces.append(piece)

    def taken(self) -> dict[str, Any]:
        """Return what came since it was last asked for."""
        pieces_, self._pieces = self._pieces, []
        offsets = []
        for piece in pieces_:
            offsets.append(self._offset)
            self._offset += len(self._texts.text(piece.token or 0))
        reports = [piece.logprobs for piece in pieces_ if piece.logprobs is not None]
        return {
            "tokens": [self._texts.text(piece.token or 0) for piece in pieces_],
            "token_logprobs": [max(report.chosen, -9999.0) for report in reports],
            "top_logprobs": [
                {self._texts.text(token): max(value, -9999.0) for token, value in report.best}
                for report in reports
            ],
            "text_offset": offsets,
        }
