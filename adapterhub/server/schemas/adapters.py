"""Requests and responses about adapters and about the server itself."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from adapterhub.server.schemas.base import MAX_MODEL, RequestModel, ResponseModel

Ref = Annotated[str, Field(min_length=1, max_length=MAX_MODEL)]
#: Where an adapter is stored, the fastest place first.
ResidencyName = Literal["device", "host", "disk", "remote"]


class LoadRequest(RequestModel):
    """Adapter to load into memory: a reference or ``hf://owner/name``."""

    ref: Ref
    name: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^+*\s]+$")] | None = None


class UnloadRequest(RequestModel):
    """Name of a loaded adapter."""

    name: Ref


class PinRequest(RequestModel):
    """Adapter to pin in memory or to unpin."""

    ref: Ref
    pinned: bool = True


class AliasRequest(RequestModel):
    """Version that an alias of its name is to refer to."""

    ref: Ref
    alias: Annotated[str, Field(min_length=1, max_length=96)]
    why: Annotated[str, Field(max_length=1000)] | None = None


class LoadLoraRequest(RequestModel):
    """vLLM's request: a name, and a reference, ``hf://owner/name`` or a local folder."""

    lora_name: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^+*\s]+$")]
    lora_path: Annotated[str, Field(min_length=1, max_length=4096)]
    base_model_name: str | None = None
    load_inplace: bool | None = None


class UnloadLoraRequest(RequestModel):
    """vLLM's request: a name."""

    lora_name: Ref
    lora_int_id: int | None = None


class AdapterChange(ResponseModel):
    """Adapter that was changed."""

    ref: str
    digest: str
    name: str | None = None
    pinned: bool | None = None
    alias: str | None = None
    moved: bool | None = None


class AdapterEntry(ResponseModel):
    """Version of an adapter."""

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
    residency: ResidencyName
    pinned: bool
    loaded_as: list[str]
    created: str
    backbone: str | None


class AdapterList(ResponseModel):
    """Adapters for the backbones."""

    object: Literal["list"]
    data: list[AdapterEntry]


class Curve(ResponseModel):
    """Loss or metric over training steps."""

    name: str
    points: list[tuple[float, float]]


class TrainingReport(ResponseModel):
    """Training report of an adapter."""

    ref: str
    digest: str
    task: str
    curves: list[Curve]
    before: dict[str, float]
    after: dict[str, float]
    info: dict[str, Any]


class BackboneLoad(ResponseModel):
    """Current load of a loaded backbone."""

    running: int
    waiting: int
    cache_used: int
    cache_size: int
    resident: int
    host_adapters: int
    host_bytes: int


class ServerStats(ResponseModel):
    """Current load of the server, over all backbones and of each."""

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
    backbones: dict[str, BackboneLoad]
    time: float


class BackboneRequest(RequestModel):
    """Backbone to load or to unload."""

    model: Ref


class BackboneChange(ResponseModel):
    """Backbone that was loaded or unloaded."""

    model: str
    state: str
    load_seconds: float


class CallerInfo(ResponseModel):
    """Role and limits of the caller."""

    key_id: str | None
    role: Literal["use", "manage"]
    adapters: list[str] | None
