"""Adapters while the server runs, and how it does."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from adapterhub.server.schemas.base import MAX_MODEL, Answer, Body

Ref = Annotated[str, Field(min_length=1, max_length=MAX_MODEL)]
#: Where an adapter is, the nearest place first.
Residency = Literal["device", "host", "disk", "remote"]


class LoadRequest(Body):
    """An adapter to be held in memory: a reference, or ``hf://owner/name``."""

    ref: Ref
    name: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^+*\s]+$")] | None = None


class UnloadRequest(Body):
    """A name that an adapter was loaded by."""

    name: Ref


class PinRequest(Body):
    """An adapter to be kept in memory whatever comes, or no longer."""

    ref: Ref
    pinned: bool = True


class AliasRequest(Body):
    """A version that an alias of its name shall point to."""

    ref: Ref
    alias: Annotated[str, Field(min_length=1, max_length=96)]
    why: Annotated[str, Field(max_length=1000)] | None = None


class LoadLoraRequest(Body):
    """As vLLM has it: a name, and a reference, ``hf://owner/name`` or a folder of this machine."""

    lora_name: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^+*\s]+$")]
    lora_path: Annotated[str, Field(min_length=1, max_length=4096)]
    base_model_name: str | None = None
    load_inplace: bool | None = None


class UnloadLoraRequest(Body):
    """As vLLM has it: a name."""

    lora_name: Ref
    lora_int_id: int | None = None


class Changed(Answer):
    """The adapter that was changed."""

    ref: str
    digest: str
    name: str | None = None
    pinned: bool | None = None
    alias: str | None = None
    moved: bool | None = None


class AdapterEntry(Answer):
    """One version of an adapter."""

    name: str
    version: int | None
    ref: str
    digest: str
    aliases: list[str]
    task: str
    labels: list[str]
    method: str
    rank: int | None
    size_bytes: int
    metrics: dict[str, float]
    residency: Residency
    pinned: bool
    loaded_as: list[str]
    created: str


class AdapterList(Answer):
    """All adapters for the backbone."""

    object: Literal["list"]
    data: list[AdapterEntry]


class Curve(Answer):
    """A loss or a metric over steps."""

    name: str
    points: list[tuple[float, float]]


class Report(Answer):
    """How an adapter was trained."""

    ref: str
    digest: str
    task: str
    curves: list[Curve]
    before: dict[str, float]
    after: dict[str, float]
    info: dict[str, Any]


class Stats(Answer):
    """How the server does now."""

    running: int
    waiting: int
    queued: int
    requests_total: int
    tokens_total: int
    tokens_per_second: float
    time_to_first_token_ms_p50: float | None
    step_ms_p50: float | None
    cache_used: int
    cache_size: int
    resident: int
    host_adapters: int
    host_bytes: int
    time: float


class Me(Answer):
    """Who asks."""

    key_id: str | None
    role: Literal["use", "manage"]
    adapters: list[str] | None
