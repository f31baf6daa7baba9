"""``/v1/chat/completions``."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from adapterhub.server.describing import opening, provenance, usage
from adapterhub.server.generation import Job, pieces, room_for, sampling
from adapterhub.server.routes.asked import find_model
from adapterhub.server.routes.continued import respond
from adapterhub.server.streaming import event
from adapterhub.server.tool_calls import (
    ToolText,
    required_schema,
    template_messages,
    template_tools,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.responses import Response

    from adapterhub.server.context import Call, Server
    from adapterhub.server.generation import Piece
    from adapterhub.server.schemas.chat import ChatRequest


async def chat(call: Call, body: ChatRequest) -> Response:
    """Continue a conversation."""
    job = await asyncio.to_thread(_prepare, call, body)
    return await respond(call, body, job, _whole, _events)


def _prepare(call: Call, body: ChatRequest) -> Job:
    """Resolve, render and tokenize; called on a thread."""
    server = call.server
    model = find_model(call, body.model)
    schema = required_schema(body)
    # a call that is required is written by its schema, so the template need not know tools
    told = () if schema is not None and not server.chats.knows_tools else template_tools(body)
    tokens = server.chats.render(template_messages(body), told)
    params = sampling(
        body,
        max_tokens=room_for(server, len(tokens), body.max_completion_tokens or body.max_tokens),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        json_schema=_format(body) if schema is None else schema,
    )
    return Job(model, (server.engine.prompt_processor.read(tokens, params),), params.n)


def _format(body: ChatRequest) -> dict[str, Any] | None:
    asked = body.response_format
    if asked is None or asked.type == "text":
        return None
    return {"type": "object"} if asked.type == "json_object" else asked.json_schema.schema_


def _tool_texts(body: ChatRequest, job: Job) -> list[ToolText] | None:
    """Return what looks for calls in each answer, where there are tools to be called."""
    if not body.tools or body.tool_choice == "none":
        return None
    required = body.tool_choice not in (None, "auto")
    return [ToolText(required) for _ in range(job.choices)]


async def _whole(call: Call, body: ChatRequest, job: Job) -> dict[str, Any]:
    texts = [""] * job.choices
    reports: list[list[dict[str, Any]]] = [[] for _ in texts]
    reasons = ["stop"] * job.choices
    generated = 0
    async with aclosing(pieces(call, job)) as found:
        async for piece in found:
            texts[piece.index] += piece.text
            generated += piece.counted
            reasons[piece.index] = piece.finish or reasons[piece.index]
            if body.logprobs:
                reports[piece.index] += _report(call.server, piece)
    choices = []
    tools = _tool_texts(body, job)
    for index, text in enumerate(texts):
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if tools is not None:
            plain = tools[index].push(text) + tools[index].finish()
            if tools[index].calls:
                reasons[index] = "tool_calls"
                message = {**message, "content": plain or None, "tool_calls": tools[index].calls}
        logprobs = {"content": reports[index], "refusal": None} if body.logprobs else None
        choices.append(
            {
                "index": index,
                "message": message,
                "finish_reason": reasons[index],
                "logprobs": logprobs,
            }
        )
    return {
        **opening(call.server, job.model, "chat.completion", "chatcmpl"),
        "choices": choices,
        "usage": usage(job.prompt_tokens, generated),
        "adapterhub": provenance(call.server, job.model),
    }


async def _events(
    call: Call, body: ChatRequest, job: Job, found: AsyncGenerator[Piece, None]
) -> AsyncGenerator[bytes, None]:
    head = opening(call.server, job.model, "chat.completion.chunk", "chatcmpl")
    told = {"adapterhub": provenance(call.server, job.model)}
    wish = body.stream_options.include_usage if body.stream_options else None
    tools = _tool_texts(body, job)
    generated, left = 0, job.choices
    first = [
        {"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        for index in range(job.choices)
    ]
    yield event({**head, "choices": first, **told})
    async with aclosing(found):
        async for piece in found:
            generated += piece.counted
            left -= piece.finish is not None
            choice = _choice(call.server, body, piece, tools)
            if choice is None:
                continue
            last = left == 0 and wish is None
            extra = {"usage": usage(job.prompt_tokens, generated)} if last else {}
            yield event({**head, "choices": [choice], **extra})
    if wish:
        yield event({**head, "choices": [], "usage": usage(job.prompt_tokens, generated), **told})


def _choice(
    server: Server, body: ChatRequest, piece: Piece, tools: list[ToolText] | None
) -> dict[str, Any] | None:
    """Return what a piece adds to its answer; ``None`` where that is nothing yet."""
    text, reason = piece.text, piece.finish
    delta: dict[str, Any] = {}
    if tools is not None:
        tool = tools[piece.index]
        text = tool.push(text)
        if reason is not None:
            text += tool.finish()
            if tool.calls:
                reason = "tool_calls"
                delta["tool_calls"] = [
                    {"index": number, **each} for number, each in enumerate(tool.calls)
                ]
    if text:
        delta["content"] = text
    reports = _report(server, piece) if body.logprobs else []
    if not (delta or reports or reason):
        return None
    logprobs = {"content": reports, "refusal": None} if reports else None
    return {"index": piece.index, "delta": delta, "finish_reason": reason, "logprobs": logprobs}


def _report(server: Server, piece: Piece) -> list[dict[str, Any]]:
    if piece.logprobs is None or piece.token is None:
        return []
    best = [_token(server, *each) for each in piece.logprobs.best]
    return [{**_token(server, piece.token, piece.logprobs.chosen), "top_logprobs": best}]


def _token(server: Server, token: int, logprob: float) -> dict[str, Any]:
    content = server.tokens.content(token)
    # minus infinity is no JSON; OpenAI writes this for what is as good as impossible
    value = max(logprob, -9999.0)
    return {"token": server.tokens.text(token), "logprob": value, "bytes": list(content)}
