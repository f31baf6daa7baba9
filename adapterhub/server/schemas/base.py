"""Base classes and parts that several requests and responses share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from adapterhub.tasks.base import MAX_BEAMS

#: Longest name of a model, in characters.
MAX_MODEL = 2048

ModelName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_MODEL,
        description="The backbone's name, an adapter (name, name@prod, name@3, name@sha256:…), "
        "or a blend (a@prod*0.7+b*0.3).",
    ),
]
#: Why an answer ended, in OpenAI's words.
FinishReason = Literal["stop", "length", "tool_calls"]


class RequestModel(BaseModel):
    """Part of a request; unknown fields are errors."""

    model_config = ConfigDict(
        extra="forbid",
        allow_inf_nan=False,
        protected_namespaces=(),
        # with any bound, pydantic refuses lone surrogates, which no text can hold
        str_max_length=2**31,
    )


class ResponseModel(BaseModel):
    """Part of a response."""

    model_config = ConfigDict(protected_namespaces=())


class AdapterUse(ResponseModel):
    """Adapter that was used, with its weight in a blend."""

    ref: str
    digest: str
    weight: float


class Provenance(ResponseModel):
    """Adapters and backbone that were used."""

    adapters: list[AdapterUse]
    backbone_fingerprint: str


class Usage(ResponseModel):
    """Token counts of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ErrorDetail(ResponseModel):
    """Error in OpenAI's form."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(ResponseModel):
    """Response to a request that failed."""

    error: ErrorDetail


class StreamOptions(RequestModel):
    """Options of a stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class GenerationRequest(RequestModel):
    """Sampling parameters that chats and completions share."""

    model: ModelName
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    # beyond OpenAI's, named as in vLLM
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    stop_token_ids: list[Annotated[int, Field(ge=0)]] | None = None
    ignore_eos: bool | None = None
    regex: Annotated[str, Field(max_length=4096)] | None = None
    # beams of an encoder-decoder, named as in transformers
    num_beams: Annotated[int, Field(ge=1, le=MAX_BEAMS)] | None = None
    length_penalty: Annotated[float, Field(ge=-10, le=10)] | None = None
    # accepted without effect
    user: str | None = None
    metadata: dict[str, Any] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    # what vllm-router and sglang-router add to every request; only these values have no effect
    no_stop_trim: Literal[False] | None = None
    return_hidden_states: Literal[False] | None = None
    skip_special_tokens: Literal[True] | None = None
