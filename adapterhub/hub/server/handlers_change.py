"""Commits, branches and tags."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, PlainTextResponse, Response

from adapterhub.http.bodies import stream_body
from adapterhub.hub.server.bodies import read_json, text_of
from adapterhub.hub.server.context import base_url, hub_of, writable
from adapterhub.hub.server.handlers_upload import refuse_pull_request
from adapterhub.hub.server.ndjson import read_commit
from adapterhub.hub.server.params import part_of, revision_of
from adapterhub.hub.server.records import MAIN

if TYPE_CHECKING:
    from starlette.requests import Request


async def commit(request: Request) -> Response:
    """Commit to a branch."""
    found, caller = await writable(request)
    refuse_pull_request(request)
    hub = hub_of(request)
    branch = revision_of(request).removeprefix("refs/heads/")
    with hub.store.staging() as folder:
        body = stream_body(request, hub.settings.max_commit)
        wanted = await read_commit(body, folder, hub.settings)
        made = await run_in_threadpool(hub.store.commit, found, branch, wanted, str(caller.name))
    return JSONResponse(
        {
            "success": True,
            "commitOid": made.sha,
            "commitUrl": f"{base_url(request)}/{found.name}/commit/{made.sha}",
            "hookOutput": "",
        }
    )


async def create_branch(request: Request) -> Response:
    """Make a branch, from main where no other beginning is named."""
    found, _ = await writable(request)
    hub = hub_of(request)
    body = await read_json(request, hub.settings.max_json)
    start = text_of(body, "startingPoint", MAIN)
    await run_in_threadpool(hub.store.add_ref, found, "branch", part_of(request, "branch"), start)
    return PlainTextResponse("OK", 201)


async def delete_branch(request: Request) -> Response:
    """Delete a branch; its commits stay as long as the repository."""
    found, _ = await writable(request)
    store = hub_of(request).store
    await run_in_threadpool(store.delete_ref, found, "branch", part_of(request, "branch"))
    return PlainTextResponse("OK")


async def create_tag(request: Request) -> Response:
    """Tag a revision."""
    found, _ = await writable(request)
    hub = hub_of(request)
    body = await read_json(request, hub.settings.max_json)
    tag = text_of(body, "tag")
    await run_in_threadpool(hub.store.add_ref, found, "tag", tag, revision_of(request))
    return PlainTextResponse("OK", 201)


async def delete_tag(request: Request) -> Response:
    """Delete a tag."""
    found, _ = await writable(request)
    store = hub_of(request).store
    await run_in_threadpool(store.delete_ref, found, "tag", revision_of(request))
    return PlainTextResponse("OK")
