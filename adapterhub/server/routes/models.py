"""``/v1/models``."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.responses import Response

    from adapterhub.server.context import Call, Server


async def list_models(call: Call, _body: None) -> Response:
    """List the backbone and every adapter for it."""
    data = await asyncio.to_thread(_all, call.server)
    data = [each for each in data if each["parent"] is None or call.caller.allows(each["id"])]
    return JSONResponse({"object": "list", "data": data})


async def show_model(call: Call, _body: None) -> Response:
    """Show one model; a blend is one too."""
    server = call.server
    model = await asyncio.to_thread(server.models.find, call.path["model"])
    server.access.check_adapter(call.caller, model.refs)
    found = _entry(model.text, server, parent=server.models.base if model.parts else None)
    return JSONResponse({**found, "adapters": model.described()})


def _all(server: Server) -> list[dict[str, Any]]:
    base = server.models.base
    found = {base: _entry(base, server, parent=None) | {"kind": server.backbone.kind}}
    for version in server.registry.list():
        if version.fingerprint != server.backbone.fingerprint:
            continue
        created = int(datetime.fromisoformat(version.created).timestamp())
        more = {"root": version.name, "digest": version.digest, "task": version.task}
        # the newest version of a name comes last, and is what the name alone means
        for name in (
            version.name,
            str(version.ref),
            *map(f"{version.name}@{{}}".format, version.aliases),
        ):
            found[name] = _entry(name, server, parent=base, created=created) | more
    for name, loaded in server.loaded.all().items():
        more = {"root": loaded.name, "digest": loaded.digest, "task": loaded.task}
        found[name] = _entry(name, server, parent=base) | more
    return list(found.values())


def _entry(name: str, server: Server, *, parent: str | None, created: int = 0) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "adapterhub",
        "root": name,
        "parent": parent,
        "max_model_len": server.context_length,
        "backbone_fingerprint": server.backbone.fingerprint,
    }
