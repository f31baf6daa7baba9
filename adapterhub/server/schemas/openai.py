"""Requests and responses of OpenAI's routes: chat completions, completions and embeddings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from adapterhub.server.schemas.base import (
    FinishReason,
    GenerationRequest,
    ModelName,
    Provenance,
    RequestModel,
    ResponseModel,
    Usage,
)

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
#: Most texts of one request.
MAX_TEXTS = 2048
#: Most messages of a conversation.
MAX_MESSAGES = 8192
#: Most prompts of one request.
MAX_PROMPTS = 128

TokenIds = Annotated[list[TokenId], Field(min_length=1)]
Texts = Annotated[list[str], Field(min_length=1, max_length=MAX_TEXTS)]


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

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
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
    # added by routers, like those of GenerationRequest
    continue_final_message: Literal[False] | None = None
    separate_reasoning: Literal[True] | None = None
    stream_reasoning: Literal[True] | None = None
    include_reasoning: Literal[True] | None = None


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


class CompletionRequest(GenerationRequest):
    """Prompts to continue: texts or token ids."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    # accepted with values that have no effect
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None


class CompletionLogprobs(ResponseModel):
    """Log-probabilities of the tokens of an answer."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(ResponseModel):
    """Answer."""

    index: int
    text: str
    finish_reason: FinishReason
    logprobs: CompletionLogprobs | None


class CompletionResponse(ResponseModel):
    """Answers to one or several prompts."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage
    adapterhub: Provenance


class EmbeddingRequest(RequestModel):
    """Texts to embed."""

    model: ModelName
    input: str | Texts | TokenIds | Annotated[list[TokenIds], Field(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None
    # beyond OpenAI's
    pooling: Literal["mean", "last"] | None = None
    normalize: bool | None = None


class EmbeddingItem(ResponseModel):
    """Vector: numbers, or their float32 bytes in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(ResponseModel):
    """Token counts of a request for embeddings."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(ResponseModel):
    """Vectors of all texts."""

    object: Literal["list"]
    model: str
    data: list[EmbeddingItem]
    usage: EmbeddingUsage
    adapterhub: Provenance
