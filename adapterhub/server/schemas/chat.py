"""Requests and responses of ``/v1/chat/completions``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from adapterhub.server.schemas.base import (
    FinishReason,
    GenerationRequest,
    Provenance,
    RequestModel,
    ResponseModel,
    Usage,
)


class TextPart(RequestModel):
    """Text of a message."""

    type: Literal["text"]
    text: str


class FunctionCall(RequestModel):
    """Call of a function; the arguments are JSON text."""

    name: str
    arguments: str


class ToolCall(RequestModel):
    """Call of a tool."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(RequestModel):
    """Message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None


class Function(RequestModel):
    """Function that the assistant may call."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(RequestModel):
    """Tool that the assistant may call."""

    type: Literal["function"]
    function: Function


class NamedFunction(RequestModel):
    """Name of a function."""

    name: str


class NamedTool(RequestModel):
    """Tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class NamedSchema(RequestModel):
    """JSON schema that the answer must follow."""

    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class PlainFormat(RequestModel):
    """Free text, or any JSON object."""

    type: Literal["text", "json_object"]


class SchemaFormat(RequestModel):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


class ChatRequest(GenerationRequest):
    """Conversation to continue."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: PlainFormat | SchemaFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    # accepted without effect
    parallel_tool_calls: bool | None = None
    store: bool | None = None
    service_tier: str | None = None
    reasoning_effort: str | None = None


class TokenLogprob(ResponseModel):
    """Token with its log-probability."""

    token: str
    logprob: float
    bytes: list[int] | None


class GeneratedTokenLogprob(TokenLogprob):
    """Generated token and the most likely tokens at its position."""

    top_logprobs: list[TokenLogprob]


class ChatLogprobs(ResponseModel):
    """Log-probabilities of the tokens of an answer."""

    content: list[GeneratedTokenLogprob]
    refusal: None = None


class AssistantMessage(ResponseModel):
    """Message of the assistant."""

    role: Literal["assistant"]
    content: str | None
    tool_calls: list[ToolCall] | None = None
    refusal: None = None


class ChatChoice(ResponseModel):
    """Answer."""

    index: int
    message: AssistantMessage
    finish_reason: FinishReason
    logprobs: ChatLogprobs | None


class ChatResponse(ResponseModel):
    """Answers to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    adapterhub: Provenance
