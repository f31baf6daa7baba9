"""Completions of plain text, and embeddings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from adapterhub.server.schemas.base import (
    Answer,
    Body,
    Finish,
    Generation,
    ModelName,
    Provenance,
    Usage,
)

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
#: Most texts of one request.
MAX_TEXTS = 2048
#: Most prompts of one request.
MAX_PROMPTS = 128

TokenIds = Annotated[list[TokenId], Field(min_length=1)]
Texts = Annotated[list[str], Field(min_length=1, max_length=MAX_TEXTS)]


class CompletionRequest(Generation):
    """Text to be continued: one, several, or their token ids."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    # accepted where they change nothing
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None


class CompletionLogprobs(Answer):
    """Logarithms of the probabilities of an answer's tokens."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(Answer):
    """One answer."""

    index: int
    text: str
    finish_reason: Finish
    logprobs: CompletionLogprobs | None


class CompletionAnswer(Answer):
    """All answers to one or several prompts."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage
    adapterhub: Provenance


class EmbeddingRequest(Body):
    """Texts to be embedded."""

    model: ModelName
    input: str | Texts | TokenIds | Annotated[list[TokenIds], Field(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None
    # beyond OpenAI's
    pooling: Literal["mean", "last"] | None = None
    normalize: bool | None = None


class EmbeddingItem(Answer):
    """One vector: numbers, or their float32 bytes in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Answer):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingAnswer(Answer):
    """The vectors of all texts."""

    object: Literal["list"]
    model: str
    data: list[EmbeddingItem]
    usage: EmbeddingUsage
    adapterhub: Provenance
