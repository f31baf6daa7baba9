"""Adapters while the server runs: list, load, unload, pin, alias, and vLLM's own addresses."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, PlainTextResponse

from adapterhub.http.errors import HTTPError
from adapterhub.server import holding
from adapterhub.server.describing import DIGEST_HEADER

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from starlette.responses import Response

    from adapterhub.access import Caller
    from adapterhub.registry.version import Version
    from adapterhub.server.context import Call, Server
    from adapterhub.server.models import Loaded
    from adapterhub.server.schemas.adapters import (
        AliasRequest,
        LoadLoraRequest,
        LoadRequest,
        PinRequest,
        UnloadLoraRequest,
        UnloadRequest,
    )


async def list_adapters(call: Call, _body: None) -> Response:
    """List every adapter for the backbone, and where it is."""
    server = call.server
    places, pinned = await server.engine.places(), await server.engine.pinned()
    data = await asyncio.to_thread(_entries, server, places, pinned)
    data = [each for each in data if _may_see(call.caller, each)]
    return JSONResponse({"object": "list", "data": data})


async def load(call: Call, body: LoadRequest) -> Response:
    """Hold an adapter in memory."""
    call.server.access.require_manage(call.caller)
    name, loaded = await holding.load(call.server, body.ref, body.name)
    return _changed(loaded, name=name)


async def unload(call: Call, body: UnloadRequest) -> Response:
    """Let an adapter go."""
    call.server.access.require_manage(call.caller)
    return _changed(await holding.unload(call.server, body.name), name=body.name)


async def pin(call: Call, body: PinRequest) -> Response:
    """Keep an adapter in memory whatever comes, or no longer."""
    call.server.access.require_manage(call.caller)
    loaded = await holding.pin(call.server, body.ref, pinned=body.pinned)
    return _changed(loaded, pinned=body.pinned)


async def alias(call: Call, body: AliasRequest) -> Response:
    """Point an alias to a version; requests that run keep what the alias meant."""
    call.server.access.require_manage(call.caller)
    version, moved = await asyncio.to_thread(_set_alias, call.server, body)
    answer = {"ref": str(version.ref), "digest": version.digest, "alias": body.alias}
    return JSONResponse({**answer, "moved": moved}, headers={DIGEST_HEADER: version.digest})


async def report(call: Call, _body: None) -> Response:
    """Show how an adapter was trained."""
    ref = call.query.get("ref", "")
    if not ref:
        raise HTTPError(400, "is missing", place="ref")
    version = await asyncio.to_thread(call.server.models.version, ref)
    call.server.access.check_adapter(call.caller, [ref])
    info = {key: value for key, value in version.info.items() if key != "curves"}
    answer = {
        "ref": str(version.ref),
        "digest": version.digest,
        "task": version.task,
        "curves": version.info.get("curves", []),
        "before": dict(version.metrics.get("before", {})),
        "after": dict(version.metrics.get("after", {})),
        "info": info,
    }
    return JSONResponse(answer, headers={DIGEST_HEADER: version.digest})


async def load_lora(call: Call, body: LoadLoraRequest) -> Response:
    """Hold an adapter in memory, as vLLM is asked to."""
    server = call.server
    server.access.require_manage(call.caller)
    if server.loaded.get(body.lora_name) is not None and not body.load_inplace:
        raise HTTPError(
            400, "is loaded already", place=body.lora_name, hint="Unload it, or set load_inplace"
        )
    loaded = await holding.load_path(server, body.lora_path, body.lora_name)
    return PlainTextResponse(
        f"Success: LoRA adapter '{body.lora_name}' added successfully.",
        headers={DIGEST_HEADER: loaded.digest},
    )


async def unload_lora(call: Call, body: UnloadLoraRequest) -> Response:
    """Let an adapter go, as vLLM is asked to."""
    call.server.access.require_manage(call.caller)
    gone = await holding.unload(call.server, body.lora_name)
    return PlainTextResponse(
        f"Success: LoRA adapter '{body.lora_name}' removed successfully.",
        headers={DIGEST_HEADER: gone.digest},
    )


def _may_see(caller: Caller, entry: Mapping[str, Any]) -> bool:
    refs = [entry["ref"], *(f"{entry['name']}@{alias}" for alias in entry["aliases"])]
    return any(caller.allows(ref) for ref in refs)


def _changed(loaded: Loaded, **more: Any) -> Response:
    answer = {"ref": loaded.ref, "digest": loaded.digest, **more}
    return JSONResponse(answer, headers={DIGEST_HEADER: loaded.digest})


def _set_alias(server: Server, body: AliasRequest) -> tuple[Version, bool]:
    registry = server.registry
    version = server.models.version(body.ref)
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
    loaded = server.loaded.all()
    names: dict[str, list[str]] = {}
    for name, each in loaded.items():
        names.setdefault(each.digest, []).append(name)
    found = [
        _entry(version, places, pinned, names.pop(version.digest, []))
        for version in server.registry.list()
        if version.fingerprint == server.backbone.fingerprint
    ]
    # what was loaded from a folder is in no registry
    others = [
        _bare(each.name, digest, places.get(digest, "host"), each, digest in pinned, names[digest])
        for digest, each in {each.digest: each for each in loaded.values()}.items()
        if digest in names
    ]
    coming = [_bare(ref, "", "remote", None, False, []) for ref in sorted(server.pulling)]
    return found + others + coming


def _entry(
    version: Version, places: Mapping[str, str], pinned: Collection[str], names: list[str]
) -> dict[str, Any]:
    return {
        "name": version.name,
        "version": version.version,
        "ref": str(version.ref),
        "digest": version.digest,
        "aliases": list(version.aliases),
        "task": version.task,
        "labels": list(version.labels),
        "method": version.method,
        "rank": version.rank,
        "size_bytes": version.size,
        "metrics": dict(version.metrics.get("after", {})),
        "residency": places.get(version.digest, "disk"),
        "pinned": version.digest in pinned,
        "loaded_as": names,
        "created": version.created,
    }


def _bare(
    name: str, digest: str, place: str, loaded: Loaded | None, pinned: bool, names: list[str]
) -> dict[str, Any]:
    return {
        "name": name,
        "version": None,
        "ref": loaded.ref if loaded else name,
        "digest": digest,
        "aliases": [],
        "task": loaded.task if loaded else "",
        "labels": list(loaded.labels) if loaded else [],
        "method": "",
        "rank": None,
        "size_bytes": 0,
        "metrics": {},
        "residency": place,
        "pinned": pinned,
        "loaded_as": names,
        "created": "",
    }
