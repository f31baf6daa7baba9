"""From a request for text to the pieces of its answers; chats and completions share it."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from adapterhub.engine.outputs import Delta
    from adapterhub.engine.requests import PreparedPrompt
    from adapterhub.engine.sampling.logprobs import TokenLogprobs
    from adapterhub.server.context import Call, Server
    from adapterhub.server.models import Model
    from adapterhub.server.schemas.base import Generation

#: Most tokens of an answer where a request names no number, if the context has room for them.
DEFAULT_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Job:
    """Prompts that one request asks to continue, made ready.

    Args:
        model: that continues them.
        prompts: each with as many answers.
        answers: to each prompt.
    """

    model: Model
    prompts: tuple[PreparedPrompt, ...]
    answers: int

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts."""
        return sum(len(prompt.tokens) for prompt in self.prompts)

    @property
    def choices(self) -> int:
        """Of all prompts."""
        return len(self.prompts) * self.answers


@dataclass(frozen=True, slots=True)
class Piece:
    """What a step added to one answer.

    Args:
        index: of the answer among those of the request.
        text: new.
        token: that was chosen and is part of the text; ``None`` where there is none.
        counted: whether a token was generated.
        logprobs: of the token.
        finish: why the answer ends with this, where it does.
    """

    index: int
    text: str
    token: int | None
    counted: bool
    logprobs: TokenLogprobs | None
    finish: str | None


def sampling(
    body: Generation,
    *,
    max_tokens: int,
    logprobs: int | None,
    json_schema: Any = None,
) -> SamplingParams:
    """Return the settings that a request asks for.

    Args:
        body: of the request.
        max_tokens: most tokens of an answer.
        logprobs: number of best tokens that are reported, if any are.
        json_schema: that the answer follows, if it does.

    Raises:
        RequestError: when they exclude each other.
    """
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    asked: dict[str, Any] = {
        "temperature": body.temperature,
        "top_p": body.top_p,
        # vLLM switches it off by -1
        "top_k": None if body.top_k is None else max(body.top_k, 0),
        "min_p": body.min_p,
        "repetition_penalty": body.repetition_penalty,
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
        # OpenAI's are signed
        "seed": None if body.seed is None else body.seed % 2**64,
        "stop_token_ids": body.stop_token_ids,
        "ignore_eos": body.ignore_eos,
        "min_tokens": body.min_tokens,
        "n": body.n,
        "regex": body.regex,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    return SamplingParams(
        **given,
        stop=tuple(each for each in stop if each),
        max_tokens=max_tokens,
        logprobs=logprobs,
        json_schema=json_schema,
    )


def room_for(server: Server, prompt_tokens: int, asked: int | None) -> int:
    """Return the most tokens of an answer to a prompt.

    Raises:
        RequestError: with both numbers, when the context has no room for it.
    """
    length = server.context_length
    if prompt_tokens + (asked or 1) > length:
        answer = f"and {asked} of the answer " if asked else ""
        raise RequestError(
            f"the context has {length} tokens; the prompt has {prompt_tokens} {answer}"
            f"({prompt_tokens + (asked or 1)} together)",
            place="messages" if asked is None else "max_tokens",
            hint="Shorten the prompt, or ask for fewer tokens",
        )
    return asked or min(length - prompt_tokens, DEFAULT_TOKENS)


async def pieces(call: Call, job: Job) -> AsyncGenerator[Piece, None]:
    """Yield what each step adds to the answers of all prompts of a job.

    Raises:
        AdapterHubError: why the first answer failed that did; the others end then.
    """
    began = time.perf_counter()
    generated = 0
    try:
        async with aclosing(_all_pieces(call, job)) as found:
            async for piece in found:
                if piece.counted:
                    if not generated:
                        call.server.metrics.first_token(time.perf_counter() - began)
                    generated += 1
                    call.server.metrics.sent()
                yield piece
    finally:
        seconds = time.perf_counter() - began
        call.server.metrics.used(job.model.names, job.prompt_tokens, generated, seconds)


async def started(found: AsyncGenerator[Piece, None]) -> AsyncGenerator[Piece, None]:
    """Wait for the first piece, so that what fails at once is an error and no stream.

    Raises:
        AdapterHubError: why there is none.
    """
    first = await anext(found)

    async def again() -> AsyncGenerator[Piece, None]:
        async with aclosing(found):
            yield first
            async for piece in found:
                yield piece

    return again()


def _all_pieces(call: Call, job: Job) -> AsyncGenerator[Piece, None]:
    each = [
        _of_prompt(call, job.model, prompt, number * job.answers)
        for number, prompt in enumerate(job.prompts)
    ]
    return each[0] if len(each) == 1 else _merged(each)


async def _of_prompt(
    call: Call, model: Model, prompt: PreparedPrompt, first: int
) -> AsyncGenerator[Piece, None]:
    server, params = call.server, prompt.params
    cost = len(prompt.tokens) + params.max_tokens * params.n
    async with (
        server.access.admit(call.caller, model.label, cost, rows=params.n),
        aclosing(server.engine.stream(prompt, model.adapters)) as deltas,
    ):
        async for delta in deltas:
            if delta.error is not None:
                raise delta.error
            yield _piece(
                delta, first, server.engine.prompt_processor.end_ids | {*params.stop_token_ids}
            )


def _piece(delta: Delta, first: int, ends: frozenset[int]) -> Piece:
    ended = delta.finish_reason == "stop" and delta.token in ends
    return Piece(
        first + delta.index,
        delta.text,
        None if ended else delta.token,
        delta.token is not None,
        None if ended else delta.logprobs,
        delta.finish_reason,
    )


async def _merged(each: Sequence[AsyncGenerator[Piece, None]]) -> AsyncGenerator[Piece, None]:
    """Yield the pieces of several prompts as they come; the first error ends all."""
    queue: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()

    async def pump(found: AsyncGenerator[Piece, None]) -> None:
        try:
            async with aclosing(found):
                async for piece in found:
                    queue.put_nowait(piece)
        except Exception as error:  # noqa: BLE001, raised by the reader
            queue.put_nowait(error)
        else:
            queue.put_nowait(None)

    tasks = [asyncio.ensure_future(pump(found)) for found in each]
    left = len(tasks)
    try:
        while left:
            news = await queue.get()
            if isinstance(news, Exception):
                raise news
            if news is None:
                left -= 1
            else:
                yield news
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
