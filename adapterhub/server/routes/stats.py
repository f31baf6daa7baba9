"""``/v1/stats``, ``/v1/me`` and ``/metrics``."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

if TYPE_CHECKING:
    from adapterhub.server.context import Call, Server


async def me(call: Call, _body: None) -> Response:
    """Tell who asks."""
    caller = call.caller
    adapters = None if caller.adapters is None else list(caller.adapters)
    return JSONResponse({"key_id": caller.key_id, "role": caller.role, "adapters": adapters})


async def stats(call: Call, _body: None) -> Response:
    """Tell how the server does now."""
    server, metrics = call.server, call.server.metrics
    found = await server.engine.stats()
    first, step = metrics.medians()
    used, size = cache_fill(server, found.free_blocks)
    return JSONResponse(
        {
            "running": found.running,
            "waiting": found.waiting,
            "queued": queued(server),
            "requests_total": metrics.requests_total,
            "tokens_total": metrics.tokens_total,
            "tokens_per_second": metrics.tokens_per_second(),
            "time_to_first_token_ms_p50": None if first is None else first * 1000,
            "step_ms_p50": None if step is None else step * 1000,
            "cache_used": used,
            "cache_size": size,
            "resident": found.resident,
            "host_adapters": found.host_adapters,
            "host_bytes": found.host_bytes,
            "time": time.time(),
        }
    )


async def prometheus(call: Call, _body: None) -> Response:
    """Tell every count in Prometheus's text format."""
    server, metrics = call.server, call.server.metrics
    found, places = await server.engine.stats(), await server.engine.places()
    moves = await server.engine.moves()
    names = await asyncio.to_thread(_names, server)
    used, size = cache_fill(server, found.free_blocks)
    metrics.moved(moves, names)
    metrics.observe(
        found,
        {names.get(digest, digest[:19]): place for digest, place in places.items()},
        queued=queued(server),
        cache_size=size,
    )
    metrics.cache_used(used)
    return Response(metrics.text(), headers={"content-type": CONTENT_TYPE_LATEST})


def queued(server: Server) -> int:
    """Return how many requests wait to enter the engine."""
    access: Any = server.access
    return int(getattr(access, "queued", 0))


def cache_fill(server: Server, free_blocks: int) -> tuple[int, int]:
    """Return how many positions of the key-value cache are in use, and how many there are."""
    block = server.sizes.block_size
    size = -(-server.sizes.kv_cache_tokens // block) * block if free_blocks else 0
    return max(size - free_blocks * block, 0), size


def _names(server: Server) -> dict[str, str]:
    names = {each.digest: each.name for each in server.loaded.all().values()}
    return names | {version.digest: version.name for version in server.registry.list()}
