"""``/health``, ``/ready`` and ``/metrics``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, PlainTextResponse, Response

from adapterhub.http.errors import HTTPError

if TYPE_CHECKING:
    from adapterhub.server.context import Call


async def health(_call: Call, _body: None) -> Response:
    """Tell that the process is up."""
    return PlainTextResponse("OK")


async def ready(call: Call, _body: None) -> Response:
    """Tell whether requests are taken: the engine computes and the server is not ending."""
    if call.server.draining:
        raise HTTPError(503, "the server is ending", code="draining")
    await call.server.engine.stats()
    return JSONResponse({"status": "ready", "model": call.server.models.base})
