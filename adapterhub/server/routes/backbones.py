"""Backbone routes: load and unload the backbones of the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response

from adapterhub.errors import NotFoundError, did_you_mean
from adapterhub.server.context import ManageCallDep, authenticated_router
from adapterhub.server.schemas.adapters import BackboneChange, BackboneRequest

if TYPE_CHECKING:
    from adapterhub.server.context import Call
    from adapterhub.server.served_backbone import ServedBackbone

router = authenticated_router("backbones", "/v1/backbones")


@router.post("/load", response_model=BackboneChange, summary="Load a backbone that was unloaded")
async def load(call: ManageCallDep, body: BackboneRequest) -> Response:
    """Load a backbone before the next request needs it."""
    served = _named(call, body.model)
    await call.hold(served)
    return _response(served)


@router.post("/unload", response_model=BackboneChange, summary="Unload a backbone")
async def unload(call: ManageCallDep, body: BackboneRequest) -> Response:
    """Unload a backbone once its running requests have finished; the next request loads it."""
    served = _named(call, body.model)
    await served.unload(timeout=call.server.settings.shutdown_timeout)
    return _response(served)


def _named(call: Call, name: str) -> ServedBackbone:
    backbones = call.server.backbones
    served = backbones.named(name)
    if served is None:
        hint = did_you_mean(name, backbones.names)
        raise NotFoundError("is not a backbone of this server", place=name[:200], hint=hint)
    return served


def _response(served: ServedBackbone) -> Response:
    content = {"model": served.name, "state": served.state, "load_seconds": served.load_seconds}
    return JSONResponse(content)
