"""Chats."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from adapterhub.server.schemas.base import (
    Answer,
    Body,
    Finish,
    Generation,
    Provenance,
    Usage,
)


class TextPart(Body):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class FunctionCall(Body):
    """A call of a function; the arguments are JSON."""

    name: str
    arguments: str


class ToolCall(Body):
    """A call of a tool."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(Body):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None


class Function(Body):
    """A function that the assistant may call."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    """A tool that the assistant may call."""

    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    """The name of a function."""

    name: str


class NamedTool(Body):
    """The tool that has to be called."""

    type: Literal["function"]
    function: NamedFunction


class NamedSchema(Body):
    """A JSON schema that the answer follows."""

    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class PlainFormat(Body):
    """Text of any form, or any JSON object."""

    type: Literal["text", "json_object"]


class SchemaFormat(Body):
    """JSON that a schema describes."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


class ChatRequest(Generation):
    """A conversation to be continued."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: PlainFormat | SchemaFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    # accepted, and without effect
    parallel_tool_calls: bool | None = None
    store: bool | None = None
    service_tier: str | None = None
    reasoning_effort: str | None = None


class TopToken(Answer):
    """A token that might have been chosen."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenReport(TopToken):
    """A token that was chosen, and those that might have been."""

    top_logprobs: list[TopToken]


class ChatLogprobs(Answer):
    """Logarithms of the probabilities of an answer's tokens."""

    content: list[TokenReport]
    refusal: None = None


class AnsweredMessage(Answer):
    """What the assistant said."""

    role: Literal["assistant"]
    content: str | None
    tool_calls: list[ToolCall] | None = None
    refusal: None = None


class ChatChoice(Answer):
    """One answer."""

    index: int
    message: AnsweredMessage
    finish_reason: Finish
    logprobs: ChatLogprobs | None


class ChatAnswer(Answer):
    """All answers to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    adapterhub: Provenance
