"""Route ``/v1/chat/completions``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from adapterhub.errors import RequestError
from adapterhub.server.context import CallDep, authenticated_router
from adapterhub.server.generation import (
    MIN_LOGPROB,
    GenerationJob,
    max_tokens_for,
    respond,
    sampling_params,
)
from adapterhub.server.schemas.openai import ChatRequest, ChatResponse
from adapterhub.server.tokenization import check_size, tokenize
from adapterhub.server.tool_calls import (
    ToolCallParser,
    required_schema,
    template_messages,
    template_tools,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from adapterhub.server.generation import ChoiceDelta
    from adapterhub.server.loaded_backbone import LoadedBackbone
    from adapterhub.server.models import ResolvedModel

router = authenticated_router("openai")
#: Documents that a route may respond with server-sent events.
STREAMS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}


@router.post(
    "/v1/chat/completions",
    response_model=ChatResponse,
    responses=STREAMS,
    summary="Continue a conversation",
)
async def chat(call: CallDep, body: ChatRequest) -> Response:
    """Generate the assistant's next message, whole or as a stream of server-sent events."""
    model = await call.open(body.model)
    loaded, limit = model.loaded, model.loaded.context_length
    # every message has a token
    if len(body.messages) > limit:
        raise RequestError(
            f"has {len(body.messages)} messages, the limit is {limit}", place="messages"
        )
    size = sum(check_size(loaded, text, limit, "messages") for text in _texts(body))
    tokens = await tokenize(call, model, size, lambda: _render(loaded, body))
    job = await asyncio.to_thread(_prepare, body, model, tokens)
    return await respond(call, body, job, _ChatFormat(body, job))


def _texts(body: ChatRequest) -> Iterator[str]:
    """Yield the texts of the messages."""
    for message in body.messages:
        parts = message.content or ""
        yield from (parts,) if isinstance(parts, str) else (part.text for part in parts)
        for called in message.tool_calls or ():
            yield called.function.arguments


def _render(loaded: LoadedBackbone, body: ChatRequest) -> tuple[int, ...]:
    """Return the prompt tokens of the conversation; called on a thread."""
    # a required call follows its schema, so the template need not support tools
    needed = required_schema(body) is None or loaded.chats.supports_tools
    tools = template_tools(body) if needed else ()

    def check(text: str) -> None:
        check_size(loaded, text, loaded.context_length, "messages")

    # found by the tokenizer, so on its thread
    _ = loaded.chats.stops
    return loaded.chats.render(template_messages(body), tools, check=check)


def _prepare(body: ChatRequest, model: ResolvedModel, tokens: tuple[int, ...]) -> GenerationJob:
    """Prepare the answers; called on a thread, since compiling a schema takes long."""
    loaded, schema = model.loaded, required_schema(body)
    requested = body.max_completion_tokens or body.max_tokens
    stop_ids, stop_strings = loaded.chats.stops
    params = sampling_params(
        body,
        stops=(() if body.ignore_eos else stop_ids, () if body.ignore_eos else stop_strings),
        max_tokens=max_tokens_for(loaded, len(tokens), requested),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        json_schema=_response_schema(body) if schema is None else schema,
    )
    return GenerationJob(model, (loaded.engine.prompt_processor.prepare(tokens, params),), params.n)


def _response_schema(body: ChatRequest) -> dict[str, Any] | None:
    requested = body.response_format
    if requested is None or requested.type == "text":
        return None
    return {"type": "object"} if requested.type == "json_object" else requested.json_schema.schema_


class _ChatFormat:
    """Answers of one request as chat messages."""

    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"
    id_prefix = "chatcmpl"

    def __init__(self, body: ChatRequest, job: GenerationJob) -> None:
        self._loaded = job.model.loaded
        self._logprobs = bool(body.logprobs)
        self._parsers: list[ToolCallParser] | None = None
        self._choices = range(job.num_choices)
        if body.tools and body.tool_choice != "none":
            required = body.tool_choice not in (None, "auto")
            self._parsers = [ToolCallParser(required) for _ in self._choices]

    def opening(self) -> list[dict[str, Any]]:
        return [
            {"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
            for index in self._choices
        ]

    def chunk(self, delta: ChoiceDelta) -> dict[str, Any] | None:
        text, reason = delta.text, delta.finish_reason
        added: dict[str, Any] = {}
        if self._parsers is not None:
            parser = self._parsers[delta.index]
            text = parser.push(text)
            if reason is not None:
                text += parser.finish()
                if parser.calls:
                    reason = "tool_calls"
                    added["tool_calls"] = [
                        {"index": number, **each} for number, each in enumerate(parser.calls)
                    ]
        if text:
            added["content"] = text
        logprobs = self._logprobs_of([delta])
        if not (added or logprobs or reason):
            return None
        return {
            "index": delta.index,
            "delta": added,
            "finish_reason": reason,
            "logprobs": {"content": logprobs, "refusal": None} if logprobs else None,
        }

    def choice(self, index: int, deltas: Sequence[ChoiceDelta]) -> dict[str, Any]:
        text = "".join(delta.text for delta in deltas)
        reason = next((each.finish_reason for each in deltas if each.finish_reason), "stop")
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if self._parsers is not None:
            parser = self._parsers[index]
            plain = parser.push(text) + parser.finish()
            if parser.calls:
                reason = "tool_calls"
                message |= {"content": plain or None, "tool_calls": parser.calls}
        logprobs = {"content": self._logprobs_of(deltas), "refusal": None}
        return {
            "index": index,
            "message": message,
            "finish_reason": reason,
            "logprobs": logprobs if self._logprobs else None,
        }

    def _logprobs_of(self, deltas: Sequence[ChoiceDelta]) -> list[dict[str, Any]]:
        return [
            {
                **self._token(delta.token, delta.logprobs.chosen),
                "top_logprobs": [self._token(*each) for each in delta.logprobs.best],
            }
            for delta in deltas
            if self._logprobs and delta.logprobs is not None and delta.token is not None
        ]

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        return {
            "token": self._loaded.tokens.text(token),
            "logprob": max(logprob, MIN_LOGPROB),
            "bytes": list(self._loaded.tokens.content(token)),
        }
