"""Requests and responses of ``/v1/completions`` and ``/v1/embeddings``."""

from __future__ import annotations

from typing import Annotated, Literal

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
#: Most prompts of one request.
MAX_PROMPTS = 128

TokenIds = Annotated[list[TokenId], Field(min_length=1)]
Texts = Annotated[list[str], Field(min_length=1, max_length=MAX_TEXTS)]


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
