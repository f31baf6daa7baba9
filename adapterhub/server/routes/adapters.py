"""Adapter routes: list, load, unload, pin and alias, and vLLM's own addresses."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Query
from starlette.responses import JSONResponse, PlainTextResponse, Response

from adapterhub.http.errors import HTTPError
from adapterhub.server import adapter_lifecycle
from adapterhub.server.context import Call, CallDep, ManageCallDep, authenticated_router
from adapterhub.server.responses import DIGEST_HEADER
from adapterhub.server.schemas.adapters import (
    AdapterChange,
    AdapterList,
    AliasRequest,
    LoadLoraRequest,
    LoadRequest,
    PinRequest,
    TrainingReport,
    UnloadLoraRequest,
    UnloadRequest,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from adapterhub.access import Caller
    from adapterhub.registry.version import Version
    from adapterhub.server.context import Server
    from adapterhub.server.resolved_adapter import ResolvedAdapter

router = authenticated_router("adapters", "/v1/adapters")
vllm = authenticated_router("vllm", "/v1")


@router.get("", response_model=AdapterList, summary="List adapters and where they are stored")
async def list_adapters(call: CallDep) -> Response:
    """List every adapter for the backbones that the key may use."""
    server = call.server
    found = await server.backbones.call(lambda engine: engine.locations())
    places = {digest: place for each in found.values() for digest, place in each.items()}
    pinned = {digest for each in server.backbones for digest in each.pinned}
    data = await asyncio.to_thread(_entries, server, places, pinned)
    visible = [_visible_part(call.caller, each) for each in data if _is_visible(call.caller, each)]
    return JSONResponse({"object": "list", "data": visible})


@router.get("/report", response_model=TrainingReport, summary="Show how an adapter was trained")
async def report(
    call: CallDep,
    ref: Annotated[str, Query(min_length=1, description="A version, such as name@3.")],
) -> Response:
    """Return the training curves and the metrics before and after training."""
    call.check_allowed(ref)
    version = await asyncio.to_thread(call.server.names.resolve_version, ref, call.caller.allows)
    content = {
        "ref": str(version.ref),
        "digest": version.digest,
        "task": version.task,
        "curves": version.info.get("curves", []),
        "before": dict(version.metrics.get("before", {})),
        "after": dict(version.metrics.get("after", {})),
        "info": {key: value for key, value in version.info.items() if key != "curves"},
    }
    return JSONResponse(content, headers={DIGEST_HEADER: version.digest})


@router.post("/load", response_model=AdapterChange, summary="Load an adapter into memory")
async def load(call: ManageCallDep, body: LoadRequest) -> Response:
    """Load an adapter of the registry or of a Hub, under its own name or another one."""
    name, adapter = await adapter_lifecycle.load(call, body.ref, body.name)
    return _changed(adapter, name=name)


@router.post("/unload", response_model=AdapterChange, summary="Unload an adapter")
async def unload(call: ManageCallDep, body: UnloadRequest) -> Response:
    """Remove a name, and unload its adapter when it has no other name."""
    adapter = await adapter_lifecycle.unload(call, body.name)
    return _changed(adapter, name=body.name)


@router.post("/pin", response_model=AdapterChange, summary="Pin or unpin an adapter")
async def pin(call: ManageCallDep, body: PinRequest) -> Response:
    """Keep an adapter in memory even when others need the space, or end that."""
    adapter = await adapter_lifecycle.pin(call, body.ref, pinned=body.pinned)
    return _changed(adapter, pinned=body.pinned)


@router.post("/alias", response_model=AdapterChange, summary="Set an alias")
async def alias(call: ManageCallDep, body: AliasRequest) -> Response:
    """Let an alias refer to a version; running requests keep the version they started with."""
    version, moved = await asyncio.to_thread(_set_alias, call, body)
    content = {"ref": str(version.ref), "digest": version.digest, "alias": body.alias}
    return JSONResponse({**content, "moved": moved}, headers={DIGEST_HEADER: version.digest})


@vllm.post(
    "/load_lora_adapter", response_class=PlainTextResponse, summary="Load an adapter into memory"
)
async def load_lora(call: ManageCallDep, body: LoadLoraRequest) -> Response:
    """Load an adapter, with vLLM's request and response."""
    name = body.lora_name
    call.check_allowed(name)
    if name in call.server.names.loaded() and not body.load_inplace:
        raise HTTPError(400, "is already loaded", place=name, hint="Unload it, or set load_inplace")
    adapter = await adapter_lifecycle.load_path(call, body.lora_path, name, body.base_model_name)
    return _lora_changed(f"Success: LoRA adapter '{name}' added successfully.", adapter)


@vllm.post("/unload_lora_adapter", response_class=PlainTextResponse, summary="Unload an adapter")
async def unload_lora(call: ManageCallDep, body: UnloadLoraRequest) -> Response:
    """Unload an adapter, with vLLM's request and response."""
    adapter = await adapter_lifecycle.unload(call, body.lora_name)
    return _lora_changed(f"Success: LoRA adapter '{body.lora_name}' removed successfully.", adapter)


def _is_visible(caller: Caller, entry: Mapping[str, Any]) -> bool:
    aliases = (f"{entry['name']}@{alias}" for alias in entry["aliases"])
    refs = [entry["ref"], *aliases, *entry["loaded_as"]]
    return any(caller.allows(ref) for ref in refs)


def _visible_part(caller: Caller, entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry without names that the caller may not use."""
    return {**entry, "loaded_as": [name for name in entry["loaded_as"] if caller.allows(name)]}


def _changed(adapter: ResolvedAdapter, **fields: Any) -> Response:
    content = {"ref": adapter.ref, "digest": adapter.digest, **fields}
    return JSONResponse(content, headers={DIGEST_HEADER: adapter.digest})


def _lora_changed(message: str, adapter: ResolvedAdapter) -> Response:
    return PlainTextResponse(message, headers={DIGEST_HEADER: adapter.digest})


def _set_alias(call: Call, body: AliasRequest) -> tuple[Version, bool]:
    registry = call.server.registry
    call.check_allowed(body.ref)
    version = call.server.names.resolve_version(body.ref, call.caller.allows)
    # a key for one alias may not move another
    call.check_allowed(f"{version.name}@{body.alias}")
    if registry.rule(version.name, body.alias) is not None:
        raise HTTPError(
            409,
            "has a rule, which only the promotion gate may pass",
            code="rule",
            place=f"{version.name}@{body.alias}",
            hint="Use: adapterhub promote",
        )
    move = registry.set_alias(version.ref, body.alias, why=body.why or "over HTTP")
    return version, move is not None


def _entries(
    server: Server, places: Mapping[str, str], pinned: Collection[str]
) -> list[dict[str, Any]]:
    loaded = server.names.loaded()
    names: dict[str, list[str]] = {}
    for name, adapter in loaded.items():
        names.setdefault(adapter.digest, []).append(name)

    def entry(digest: str, **fields: Any) -> dict[str, Any]:
        return {
            "version": None,
            "digest": digest,
            "aliases": [],
            "task": "",
            "labels": [],
            "method": "",
            "rank": None,
            "size_bytes": 0,
            "metrics": {},
            "pinned": digest in pinned,
            "loaded_as": names.get(digest, []),
            "backbone": None,
            "created": "",
            **fields,
        }

    backbones = {each.fingerprint: each.name for each in server.backbones}
    stored = [
        entry(version.digest, **_version_fields(version, places, backbones))
        for version in server.registry.list()
        if version.fingerprint in backbones
    ]
    known = {each["digest"] for each in stored}
    # adapters that were loaded from a folder are not in the registry
    other = {
        adapter.digest: entry(
            adapter.digest,
            name=adapter.name,
            ref=adapter.ref,
            task=adapter.task,
            labels=list(adapter.labels),
            backbone=backbones[adapter.fingerprint],
            residency=places.get(adapter.digest, "host"),
        )
        for adapter in loaded.values()
        if adapter.digest not in known
    }
    pulled = [entry("", name=ref, ref=ref, residency="remote") for ref in sorted(server.pulling)]
    return [*stored, *other.values(), *pulled]


def _version_fields(
    version: Version, places: Mapping[str, str], backbones: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "name": version.name,
        "version": version.version,
        "ref": str(version.ref),
        "aliases": list(version.aliases),
        "task": version.task,
        "labels": list(version.labels),
        "method": version.method,
        "rank": version.rank,
        "size_bytes": version.size,
        "metrics": dict(version.metrics.get("after", {})),
        "residency": places.get(version.digest, "disk"),
        "created": version.created,
        "backbone": backbones[version.fingerprint],
    }
