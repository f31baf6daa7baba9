"""What all requests have in common."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

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
#: Reasons by which an answer ends, as OpenAI calls them.
Finish = Literal["stop", "length", "tool_calls"]


class Body(BaseModel):
    """A request; a key that is not known is an error."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Answer(BaseModel):
    """An answer, or a part of one."""

    model_config = ConfigDict(protected_namespaces=())


class AdapterUse(Answer):
    """An adapter that took part."""

    ref: str
    digest: str
    weight: float


class Provenance(Answer):
    """What answered."""

    adapters: list[AdapterUse]
    backbone_fingerprint: str


class Usage(Answer):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ErrorDetail(Answer):
    """What went wrong, in OpenAI's form."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(Answer):
    """An answer that is an error."""

    error: ErrorDetail


class Generation(Body):
    """How text is generated; shared by chats and completions."""

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
    # accepted, and without effect
    user: str | None = None
    metadata: dict[str, Any] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None


class StreamOptions(Body):
    """What a stream holds beside text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


Generation.model_rebuild()
