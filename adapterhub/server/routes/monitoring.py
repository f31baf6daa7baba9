"""Health, models, metrics and statistics of the server."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, PlainTextResponse, Response

from adapterhub.engine.engine import Engine
from adapterhub.http.errors import HTTPError
from adapterhub.server.context import CallDep, ServerDep, authenticated_router
from adapterhub.server.router_metrics import RouterLoad, adapters_that_fit
from adapterhub.server.schemas.adapters import BackboneLoad, CallerInfo, ServerStats

if TYPE_CHECKING:
    from collections.abc import Mapping

    from adapterhub.engine.config import EngineConfig
    from adapterhub.engine.outputs import EngineStats
    from adapterhub.server.context import Call, Server
    from adapterhub.server.served_backbone import ServedBackbone

public = APIRouter(tags=["server"])
router = authenticated_router("server")
models = authenticated_router("openai", "/v1/models")


@public.get("/health", response_class=PlainTextResponse, summary="Check that the process is up")
async def health() -> str:
    """Return OK while the process is up."""
    return "OK"


@public.get("/ready", response_model=dict[str, Any], summary="Check that requests are accepted")
async def ready(server: ServerDep) -> Response:
    """Return 200 while the engines run and the server is not shutting down, and 503 otherwise."""
    server.check_not_draining()
    failed = [each.name for each in server.backbones if each.state == "failed"]
    if failed:
        problem = "crashed or could not be loaded, and is tried again; the log has the reason"
        raise HTTPError(503, problem, code="not_loaded", place=", ".join(failed))
    await server.backbones.call(Engine.stats)
    states = {each.name: each.state for each in server.backbones}
    return JSONResponse({"status": "ready", "model": server.names.base, "backbones": states})


@models.get("", response_model=dict[str, Any], summary="List backbones and adapters")
async def list_models(call: CallDep) -> Response:
    """List the backbones and every adapter for them that the key may use."""
    data = await asyncio.to_thread(_models, call.server)
    data = [each for each in data if each["parent"] is None or call.caller.allows(each["id"])]
    return JSONResponse({"object": "list", "data": data})


@models.get("/{model:path}", response_model=dict[str, Any], summary="Show one model")
async def show_model(call: CallDep, model: str) -> Response:
    """Show a backbone, an adapter or a blend."""
    found = await asyncio.to_thread(call.resolve, model)
    entry = _model_entry(found.name, found.served, is_adapter=bool(found.parts))
    return JSONResponse({**entry, "adapters": found.provenance()})


@router.get("/v1/me", response_model=CallerInfo, summary="Show the caller's role and adapters")
async def me(call: CallDep) -> Response:
    """Show the id, the role and the adapters of the key."""
    caller = call.caller
    adapters = None if caller.adapters is None else list(caller.adapters)
    return JSONResponse({"key_id": caller.key_id, "role": caller.role, "adapters": adapters})


@router.get("/v1/stats", response_model=ServerStats, summary="Show the current load")
async def stats(call: CallDep) -> Response:
    """Show the running and waiting requests, the throughput and the cache usage."""
    server, metrics = call.server, call.server.metrics
    first, step = metrics.medians()
    loads = await _loads(server)
    totals = {
        name: sum(load[name] for load in loads.values()) for name in BackboneLoad.model_fields
    }
    return JSONResponse(
        {
            **totals,
            "queued": server.access.queued,
            "backbones": loads,
            "requests_total": metrics.requests_total,
            "tokens_total": metrics.tokens_total,
            "tokens_per_second": metrics.tokens_per_second(),
            "time_to_first_token_ms_p50": None if first is None else first * 1000,
            "step_ms_p50": None if step is None else step * 1000,
            "time": time.time(),
        }
    )


@router.get("/metrics", response_class=PlainTextResponse, summary="Export Prometheus metrics")
async def prometheus(call: CallDep) -> Response:
    """Return all metrics in Prometheus's text format."""
    server, metrics = call.server, call.server.metrics
    names = await asyncio.to_thread(server.names.by_digest)
    known: dict[str, str] = {}
    found = await server.backbones.call(
        lambda engine: (engine.locations(), engine.adapter_events())
    )
    for served in server.backbones:
        metrics.set_loaded(served.name, served.state == "loaded", served.load_seconds)
    for places, moves in found.values():
        metrics.record_moves(moves, names)
        known |= {names.get(digest, digest[:19]): place for digest, place in places.items()}
    loads = await _loads(server)
    metrics.set_load(server.access.queued, loads, known)
    visible = None if call.caller.adapters is None else call.caller.allows
    text = metrics.text(visible) + (await _router_load(call, loads)).text()
    return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})


async def _router_load(call: Call, loads: Mapping[str, Mapping[str, int]]) -> RouterLoad:
    """Return the load of the whole server, with the adapters that the caller may know."""
    server, counts = call.server, call.server.access.models
    found = await server.backbones.call(lambda engine: (engine.config, engine.stats()))
    size = sum(load["cache_size"] for load in loads.values())
    return RouterLoad(
        backbones=server.backbones.names,
        running=sum(load["running"] for load in loads.values()),
        waiting=sum(load["waiting"] for load in loads.values()) + server.access.queued,
        cache_usage=sum(load["cache_used"] for load in loads.values()) / size if size else 0.0,
        max_adapters=sum(adapters_that_fit(*each) for each in found.values()),
        running_adapters=filter(call.caller.allows, counts.running),
        waiting_adapters=filter(call.caller.allows, counts.waiting),
    )


async def _loads(server: Server) -> dict[str, dict[str, int]]:
    """Return the current load of each loaded backbone."""
    found = await server.backbones.call(lambda engine: (engine.config, engine.stats()))
    return {served.name: _load(served, *each) for served, each in found.items()}


def _load(served: ServedBackbone, config: EngineConfig, stats: EngineStats) -> dict[str, int]:
    """Return the numbers of sequences, adapters and KV-cache tokens for statistics and gauges."""
    block = config.block_size
    has_cache = served.facts.generates and stats.free_blocks
    size = -(-config.kv_cache_tokens // block) * block if has_cache else 0
    return {
        "running": stats.running,
        "waiting": stats.waiting,
        "resident": stats.resident,
        "host_adapters": stats.host_adapters,
        "host_bytes": stats.host_bytes,
        "cache_used": max(size - stats.free_blocks * block, 0),
        "cache_size": size,
    }


def _models(server: Server) -> list[dict[str, Any]]:
    found = {each.name: _backbone_entry(each) for each in server.backbones}
    backbones = {each.fingerprint: each for each in server.backbones}
    for version in server.registry.list():
        served = backbones.get(version.fingerprint)
        if served is None:
            continue
        created = int(datetime.fromisoformat(version.created).timestamp())
        details = {"root": version.name, "digest": version.digest, "task": version.task}
        aliases = [f"{version.name}@{alias}" for alias in version.aliases]
        # the newest version of a name comes last, and is what the name alone refers to
        for name in (version.name, str(version.ref), *aliases):
            found[name] = _model_entry(name, served, created=created) | details
    for name, loaded in server.names.loaded().items():
        details = {"root": loaded.name, "digest": loaded.digest, "task": loaded.task}
        found[name] = _model_entry(name, backbones[loaded.fingerprint]) | details
    return list(found.values())


def _backbone_entry(served: ServedBackbone) -> dict[str, Any]:
    facts = served.facts
    return {
        **_model_entry(served.name, served, is_adapter=False),
        "kind": facts.kind,
        "transcribes": facts.kind == "audio" and facts.generates,
        "forward_paths": dict(facts.forward_paths),
        "state": served.state,
        "load_seconds": served.load_seconds,
    }


def _model_entry(
    name: str, served: ServedBackbone, *, is_adapter: bool = True, created: int = 0
) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "adapterhub",
        "root": name,
        "parent": served.name if is_adapter else None,
        "max_model_len": served.context_length,
        "backbone_fingerprint": served.fingerprint,
    }
