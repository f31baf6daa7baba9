"""Who am I; making, deleting, moving and showing repositories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, PlainTextResponse, Response

from adapterhub.errors import ArtifactError
from adapterhub.http.errors import HTTPError
from adapterhub.hub.server.bodies import read_json, text_of
from adapterhub.hub.server.card import parse_card
from adapterhub.hub.server.context import (
    base_url,
    hub_of,
    readable,
    require_login,
    require_write,
    writable,
)

if TYPE_CHECKING:
    from starlette.requests import Request

    from adapterhub.access import Caller


async def who_am_i(request: Request) -> Response:
    """Tell whose token it is and what it allows."""
    caller = await require_login(request)
    owners = sorted({scope.owner for scope in caller.scopes} - {caller.name, "*"})
    role = "write" if any(scope.right == "write" for scope in caller.scopes) else "read"
    return JSONResponse(
        {
            "type": "user",
            "id": caller.name,
            "name": caller.name,
            "fullname": caller.name,
            "email": None,
            "isPro": False,
            "orgs": [{"type": "org", "id": owner, "name": owner} for owner in owners],
            "auth": {
                "type": "access_token",
                "accessToken": {
                    "displayName": caller.name,
                    "role": role,
                    "scopes": sorted(map(str, caller.scopes)),
                },
            },
        }
    )


async def create_repository(request: Request) -> Response:
    """Make a repository of the kind model."""
    caller, body = await _account_request(request)
    name = _full_name(body, caller)
    require_write(caller, name.partition("/")[0])
    store = hub_of(request).store
    private = _private(body)
    try:
        made = await run_in_threadpool(
            store.create, name, private=bool(private), author=str(caller.name)
        )
    except HTTPError as refusal:
        if refusal.status == 409:
            # clients that accept an existing repository read its address from the answer
            url = f"{base_url(request)}/{name}"
            return JSONResponse({"error": str(refusal), "url": url}, 409)
        raise
    return JSONResponse({"url": f"{base_url(request)}/{made.name}", "name": name, "id": made.name})


async def delete_repository(request: Request) -> Response:
    """Delete a repository."""
    caller, body = await _account_request(request)
    found, _ = await writable(request, _full_name(body, caller))
    await run_in_threadpool(hub_of(request).store.delete, found.name)
    return PlainTextResponse("OK")


async def move_repository(request: Request) -> Response:
    """Rename a repository; the caller must be allowed to write both names."""
    caller, body = await _account_request(request)
    target = text_of(body, "toRepo")
    found, _ = await writable(request, text_of(body, "fromRepo"))
    require_write(caller, target.partition("/")[0])
    await run_in_threadpool(hub_of(request).store.move, found.name, target)
    return JSONResponse({"url": f"{base_url(request)}/{target}"})


async def change_settings(request: Request) -> Response:
    """Make a repository private or public."""
    found, _ = await writable(request)
    body = await read_json(request, hub_of(request).settings.max_json)
    if body.get("gated"):
        raise HTTPError(400, "gated repositories are not offered", hint="Make it private")
    private = _private(body)
    if private is not None:
        await run_in_threadpool(hub_of(request).store.set_private, found.name, private)
    return JSONResponse({"private": found.private if private is None else private})


async def check_access(request: Request) -> Response:
    """Tell whether the caller may read, or with ``/write`` write, a repository."""
    if request.url.path.endswith("/write"):
        await writable(request)
    else:
        await readable(request)
    return PlainTextResponse("OK")


async def validate_card(request: Request) -> Response:
    """Tell whether the metadata of a card can be read."""
    body = await read_json(request, hub_of(request).settings.max_json)
    try:
        parse_card(text_of(body, "content", ""))
    except ArtifactError as error:
        return JSONResponse({"errors": [{"message": str(error)}], "warnings": []}, 400)
    return JSONResponse({"errors": [], "warnings": []})


async def _account_request(request: Request) -> tuple[Caller, dict[str, Any]]:
    caller = await require_login(request)
    body = await read_json(request, hub_of(request).settings.max_json)
    if body.get("type") not in (None, "model"):
        raise HTTPError(400, f"repositories are of type 'model', not {body['type']!r}")
    return caller, body


def _full_name(body: dict[str, Any], caller: Caller) -> str:
    owner = text_of(body, "organization", "") or caller.name
    return f"{owner}/{text_of(body, 'name')}"


def _private(body: dict[str, Any]) -> bool | None:
    visibility = body.get("visibility")
    if visibility in ("public", "private"):
        return bool(visibility == "private")
    if visibility is not None:
        raise HTTPError(
            400, f"the visibility {visibility!r} is not offered", hint="public or private"
        )
    private = body.get("private")
    return private if isinstance(private, bool) else None
