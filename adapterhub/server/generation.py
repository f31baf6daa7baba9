"""Computing one request: prompts to deltas and responses, and many inputs at once."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from starlette.responses import JSONResponse

from adapterhub.engine.sampling.params import MAX_STOPS, SamplingParams
from adapterhub.errors import RequestError
from adapterhub.server.responses import (
    EventStream,
    digest_header,
    envelope,
    event,
    provenance,
    usage,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence

    from starlette.responses import Response

    from adapterhub.engine.outputs import CompletionDelta
    from adapterhub.engine.prompts import PreparedPrompt
    from adapterhub.engine.sampling.sampler import TokenLogprobs
    from adapterhub.server.context import Call
    from adapterhub.server.loaded_backbone import LoadedBackbone
    from adapterhub.server.models import ResolvedModel
    from adapterhub.server.schemas.base import GenerationRequest

_InputT = TypeVar("_InputT")
_ResultT = TypeVar("_ResultT")
#: Most inputs of one request that are processed at the same time.
MAX_CONCURRENT_INPUTS = 64
#: Default for ``max_tokens``, if the context has room for them.
DEFAULT_MAX_TOKENS = 1024
#: Log-probability of what is as good as impossible, since JSON has no minus infinity. OpenAI's.
MIN_LOGPROB = -9999.0


@dataclass(frozen=True, slots=True)
class GenerationJob:
    """The prepared prompts of one request."""

    model: ResolvedModel
    prompts: tuple[PreparedPrompt, ...]
    n: int

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(len(prompt.tokens) for prompt in self.prompts)

    @property
    def num_choices(self) -> int:
        """Answers to all prompts."""
        return len(self.prompts) * self.n


@dataclass(frozen=True, slots=True)
class ChoiceDelta:
    """What one step added to one answer.

    Args:
        index: Index of the answer among those of the request.
        text: New text.
        token: Generated token; ``None`` if it ended the answer and is not part of its text.
        generated: Whether a token was generated.
        logprobs: Log-probabilities of the token.
        finish_reason: Reason why the answer ended with this delta.
    """

    index: int
    text: str
    token: int | None
    generated: bool
    logprobs: TokenLogprobs | None
    finish_reason: str | None


class ChoiceFormat(Protocol):
    """How one route writes the answers of one request."""

    kind: str
    chunk_kind: str
    id_prefix: str

    def opening(self) -> list[dict[str, Any]]:
        """Return the choices of the first event of a stream, if there is one before the text."""

    def chunk(self, delta: ChoiceDelta) -> dict[str, Any] | None:
        """Return the choice of an event; ``None`` if the delta adds nothing yet."""

    def choice(self, index: int, deltas: Sequence[ChoiceDelta]) -> dict[str, Any]:
        """Return a whole answer."""


def sampling_params(
    body: GenerationRequest,
    *,
    max_tokens: int,
    logprobs: int | None,
    json_schema: Any = None,
    stops: tuple[Collection[int], Collection[str]] = ((), ()),
) -> SamplingParams:
    """Return the sampling parameters of a request.

    Args:
        body: The request.
        max_tokens: Most tokens of an answer.
        logprobs: Number of the most likely tokens to report; ``None`` for none.
        json_schema: Schema that the answer follows.
        stops: Tokens and texts that end an answer in addition to those of the request.
    """
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    stop_ids = {*(body.stop_token_ids or ()), *stops[0]}
    options: dict[str, Any] = {
        "temperature": body.temperature,
        "top_p": body.top_p,
        # vLLM disables it by -1
        "top_k": None if body.top_k is None else max(body.top_k, 0),
        "min_p": body.min_p,
        "repetition_penalty": body.repetition_penalty,
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
        # OpenAI's are signed
        "seed": None if body.seed is None else body.seed % 2**64,
        "stop_token_ids": tuple(sorted(stop_ids)),
        "ignore_eos": body.ignore_eos,
        "min_tokens": body.min_tokens,
        "n": body.n,
        "regex": body.regex,
        "num_beams": body.num_beams,
        "length_penalty": body.length_penalty,
    }
    given = {name: value for name, value in options.items() if value is not None}
    return SamplingParams(
        **given,
        # a request that gives as many texts as it may has none of the template's
        stop=tuple([*(each for each in stop if each), *stops[1]][: max(MAX_STOPS, len(stop))]),
        max_tokens=max_tokens,
        logprobs=logprobs,
        json_schema=json_schema,
    )


def max_tokens_for(loaded: LoadedBackbone, prompt_tokens: int, requested: int | None) -> int:
    """Return the most tokens of the answer to a prompt."""
    length = loaded.context_length
    if prompt_tokens + (requested or 1) > length:
        answer = f"and {requested} of the answer " if requested else ""
        raise RequestError(
            f"the context has {length} tokens; the prompt has {prompt_tokens} {answer}"
            f"({prompt_tokens + (requested or 1)} together)",
            place="messages" if requested is None else "max_tokens",
            hint="Shorten the prompt, or request fewer tokens",
        )
    return requested or min(length - prompt_tokens, DEFAULT_MAX_TOKENS)


async def respond(
    call: Call, body: GenerationRequest, job: GenerationJob, choices: ChoiceFormat
) -> Response:
    """Return the response to a request, whole or as a stream."""
    headers = digest_header([job.model])
    if not body.stream:
        return JSONResponse(await _whole(call, job, choices), headers=headers)
    deltas = generate_deltas(call, job)
    # an error before the first delta is an error response and not a stream
    first = await anext(deltas)
    return EventStream(_events(call, body, job, choices, first, deltas), headers)


async def map_concurrently(
    function: Callable[[_InputT], Awaitable[_ResultT]], inputs: Sequence[_InputT]
) -> list[_ResultT]:
    """Apply a function to each input of a request, so that they share batches.

    Returns:
        The results in the order of the inputs. The first exception cancels the rest.
    """
    results: dict[int, _ResultT] = {}
    remaining = iter(enumerate(inputs))

    async def work() -> None:
        for index, each in remaining:
            results[index] = await function(each)

    tasks = [asyncio.ensure_future(work()) for _ in range(min(MAX_CONCURRENT_INPUTS, len(inputs)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [results[index] for index in range(len(inputs))]


async def generate_deltas(call: Call, job: GenerationJob) -> AsyncGenerator[ChoiceDelta, None]:
    """Yield what each step adds to the answers to all prompts of a job."""
    started = time.perf_counter()
    generated = 0
    metrics = call.server.metrics
    streams = [
        _prompt_deltas(call, job.model, prompt, number * job.n)
        for number, prompt in enumerate(job.prompts)
    ]
    try:
        async with aclosing(streams[0] if len(streams) == 1 else _merge(streams)) as deltas:
            async for delta in deltas:
                if delta.generated:
                    if not generated:
                        metrics.record_first_token(job.model, time.perf_counter() - started)
                    generated += 1
                    metrics.record_token()
                yield delta
    finally:
        seconds = time.perf_counter() - started
        metrics.record_model_use(job.model, job.prompt_tokens, generated, seconds)


async def _whole(call: Call, job: GenerationJob, choices: ChoiceFormat) -> dict[str, Any]:
    deltas: list[list[ChoiceDelta]] = [[] for _ in range(job.num_choices)]
    async with aclosing(generate_deltas(call, job)) as found:
        async for delta in found:
            deltas[delta.index].append(delta)
    generated = sum(delta.generated for each in deltas for delta in each)
    return {
        **envelope(job.model, choices.kind, choices.id_prefix),
        "choices": [choices.choice(index, each) for index, each in enumerate(deltas)],
        "usage": usage(job.prompt_tokens, generated),
        "adapterhub": provenance(job.model),
    }


async def _events(
    call: Call,
    body: GenerationRequest,
    job: GenerationJob,
    choices: ChoiceFormat,
    first: ChoiceDelta,
    deltas: AsyncGenerator[ChoiceDelta, None],
) -> AsyncGenerator[bytes, None]:
    head = envelope(job.model, choices.chunk_kind, choices.id_prefix)
    origin = {"adapterhub": provenance(job.model)}
    include_usage = body.stream_options.include_usage if body.stream_options else None
    generated, left = 0, job.num_choices
    extra: dict[str, Any] = dict(origin)
    async with aclosing(deltas):
        if opening := choices.opening():
            yield event({**head, "choices": opening, **extra})
            extra = {}
        delta: ChoiceDelta | None = first
        while delta is not None:
            generated += delta.generated
            left -= delta.finish_reason is not None
            choice = choices.chunk(delta)
            if choice is not None:
                if left == 0 and include_usage is None:
                    extra["usage"] = usage(job.prompt_tokens, generated)
                yield event({**head, "choices": [choice], **extra})
                extra = {}
            delta = await anext(deltas, None)
    if include_usage:
        counts = usage(job.prompt_tokens, generated)
        yield event({**head, "choices": [], "usage": counts, **origin})


async def _prompt_deltas(
    call: Call, model: ResolvedModel, prompt: PreparedPrompt, offset: int
) -> AsyncGenerator[ChoiceDelta, None]:
    """Yield the deltas of one prompt; ``offset`` is the index of its first answer."""
    engine, params = model.loaded.engine, prompt.params
    cost = len(prompt.tokens) + params.max_tokens * params.n
    end_ids = engine.prompt_processor.end_ids | {*params.stop_token_ids}
    async with (
        call.admit(model, cost, places=params.n),
        aclosing(engine.stream(prompt, model.adapters)) as deltas,
    ):
        async for delta in deltas:
            if delta.error is not None:
                raise delta.error
            yield _choice_delta(delta, offset, end_ids)


def _choice_delta(delta: CompletionDelta, offset: int, end_ids: frozenset[int]) -> ChoiceDelta:
    ended = delta.finish_reason == "stop" and delta.token in end_ids
    return ChoiceDelta(
        offset + delta.index,
        delta.text,
        None if ended else delta.token,
        delta.token is not None,
        None if ended else delta.logprobs,
        delta.finish_reason,
    )


async def _merge(
    streams: Sequence[AsyncGenerator[ChoiceDelta, None]],
) -> AsyncGenerator[ChoiceDelta, None]:
    """Yield the deltas of several prompts as they are generated; the first error cancels all."""
    queue: asyncio.Queue[ChoiceDelta | Exception | None] = asyncio.Queue()

    async def pump(deltas: AsyncGenerator[ChoiceDelta, None]) -> None:
        try:
            async with aclosing(deltas):
                async for delta in deltas:
                    queue.put_nowait(delta)
        except Exception as error:  # noqa: BLE001, raised by the reader
            queue.put_nowait(error)
        else:
            queue.put_nowait(None)

    tasks = [asyncio.ensure_future(pump(deltas)) for deltas in streams]
    left = len(tasks)
    try:
        while left:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
