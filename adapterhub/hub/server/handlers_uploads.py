"""Endpoints that receive files: Git-LFS uploads and commits."""

from __future__ import annotations

import hmac
import re
import time
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from adapterhub.http.bodies import stream_body
from adapterhub.http.errors import HTTPError, too_large
from adapterhub.hub.server.blobstore import stage
from adapterhub.hub.server.ndjson import read_commit
from adapterhub.hub.server.requests import (
    base_url,
    hub_of,
    page_url,
    repository_name,
    revision_of,
    text_of,
    writable,
)
from adapterhub.hub.server.tree import check_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from adapterhub.hub.server.records import TreeFile
    from adapterhub.hub.server.requests import Hub

_OID = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile("[0-9]{1,18}")
_LFS_TYPE = "application/vnd.git-lfs+json"
#: Largest number of objects in one request.
_MAX_OBJECTS = 1000


def preupload(request: Request, body: dict[str, Any]) -> Response:
    """Return for each file whether it is sent inside the commit or by Git-LFS.

    ``huggingface_hub`` with ``hf_xet`` never uses Git-LFS, whatever a server offers, so all but
    the largest files are sent inside the commit, which every client supports.
    """
    found, _ = writable(request)
    _reject_pull_request(request)
    hub = hub_of(request)
    revision = hub.store.revision(found, revision_of(request))
    tree = hub.store.tree(found, revision.sha)
    files = [_announced(each, hub) for each in _list(body, "files")]
    oids = hub.store.git_names({tree[path].sha256 for path, _ in files if path in tree})
    return JSONResponse(
        {"files": [_upload_mode(path, size, hub, tree, oids) for path, size in files]}
    )


def lfs_batch(request: Request, body: dict[str, Any]) -> Response:
    """Return the upload address of each object that the repository does not have."""
    found, _ = writable(request)
    hub = hub_of(request)
    if text_of(body, "operation") != "upload":
        raise HTTPError(400, "Git-LFS is for uploads only", hint="Download with resolve")
    if text_of(body, "hash_algo", "sha256") != "sha256":
        raise HTTPError(400, "must be sha256", place="hash_algo")
    known = hub.store.known_sizes(found)
    objects = [_object(request, hub, each, known) for each in _list(body, "objects")]
    content = {"transfer": "basic", "objects": objects, "hash_algo": "sha256"}
    return JSONResponse(content, media_type=_LFS_TYPE)


async def lfs_upload(request: Request) -> Response:
    """Receive an object; the address contains a ticket instead of a token."""
    hub = hub_of(request)
    oid, size = request.path_params["oid"], _ticket_size(request, hub)
    found = await run_in_threadpool(hub.store.get, repository_name(request))
    with hub.store.staging() as folder:
        chunks = stream_body(request, min(size, hub.settings.max_file))
        staged = await stage(chunks, folder / "object")
        staged.require_digest(oid, size)
        await run_in_threadpool(hub.store.add_uploads, found, [staged])
    return Response(status_code=200)


def lfs_verify(request: Request, body: dict[str, Any]) -> Response:
    """Confirm that an object was received."""
    found, _ = writable(request)
    hub = hub_of(request)
    oid = text_of(body, "oid")
    known = hub.store.known_sizes(found)
    if oid not in known or known[oid] != body.get("size") or not hub.store.blobs.path(oid).exists():
        raise HTTPError(404, "was not received with this size", place=oid[:64])
    return JSONResponse({"oid": oid, "size": known[oid]}, media_type=_LFS_TYPE)


def no_xet(request: Request) -> Response:
    """Reject the transfer by Xet and name the alternative."""
    writable(request)
    limit = hub_of(request).settings.max_inline
    raise HTTPError(
        400,
        f"files larger than {limit} bytes must be sent by Git-LFS",
        place="xet",
        hint="Set HF_HUB_DISABLE_XET=1 and run it again",
    )


async def commit(request: Request) -> Response:
    """Commit to a branch."""
    found, caller = await run_in_threadpool(writable, request)
    _reject_pull_request(request)
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
            "commitUrl": page_url(request, f"{found.name}/commit/{made.sha}"),
            "hookOutput": "",
        }
    )


def _announced(entry: Any, hub: Hub) -> tuple[str, int]:
    if not isinstance(entry, dict):
        raise HTTPError(400, "must be a list of objects", place="files")
    path, size = text_of(entry, "path"), entry.get("size")
    if type(size) is not int or size < 0:
        raise HTTPError(400, "has no size", place=path)
    check_path(path)
    if size > hub.settings.max_file:
        raise too_large(path, hub.settings.max_file)
    return path, size


def _upload_mode(
    path: str, size: int, hub: Hub, tree: Mapping[str, TreeFile], oids: Mapping[str, str]
) -> dict[str, Any]:
    large = size > hub.settings.max_inline
    mode: dict[str, Any] = {
        "path": path,
        "uploadMode": "lfs" if large else "regular",
        "shouldIgnore": False,
    }
    if path in tree:
        # lets the client skip an unchanged file
        mode["oid"] = tree[path].sha256 if large else oids[tree[path].sha256]
    return mode


def _object(request: Request, hub: Hub, entry: Any, known: Mapping[str, int]) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise HTTPError(400, "must be a list of objects", place="objects")
    oid, size = text_of(entry, "oid"), entry.get("size")
    if not _OID.fullmatch(oid) or type(size) is not int or size < 0:
        raise HTTPError(400, "has no sha256 and size", place="objects")
    found: dict[str, Any] = {"oid": oid, "size": size}
    if size > hub.settings.max_file:
        problem = f"is larger than the limit of {hub.settings.max_file} bytes"
        return {**found, "error": {"code": 413, "message": problem}}
    if known.get(oid) == size and hub.store.blobs.path(oid).exists():
        return found
    name = repository_name(request)
    expires = int(time.time() + hub.settings.upload_seconds)
    ticket = _ticket(hub, name, oid, size, expires)
    query = urlencode({"size": size, "expires": expires, "ticket": ticket})
    objects = f"{base_url(request)}/{name}.git/info/lfs"
    found["actions"] = {
        "upload": {"href": f"{objects}/objects/{oid}?{query}"},
        "verify": {"href": f"{objects}/verify"},
    }
    return found


def _ticket_size(request: Request, hub: Hub) -> int:
    """Return the size in an upload link after checking its signature."""
    query, oid = request.query_params, request.path_params["oid"]
    size, expires = query.get("size", ""), query.get("expires", "")
    if not (_NUMBER.fullmatch(size) and _NUMBER.fullmatch(expires)):
        raise HTTPError(403, "the link is incomplete", place="upload")
    ticket = _ticket(hub, repository_name(request), oid, int(size), int(expires))
    if not hmac.compare_digest(ticket.encode(), query.get("ticket", "").encode()):
        raise HTTPError(403, "the link is for another upload", place="upload")
    if int(expires) < time.time():
        raise HTTPError(403, "the link has expired", place="upload", hint="Upload again")
    return int(size)


def _ticket(hub: Hub, name: str, oid: str, size: int, expires: int) -> str:
    text = f"{name}\n{oid}\n{size}\n{expires}"
    return hmac.new(hub.ticket_key, text.encode(), sha256).hexdigest()


def _list(body: dict[str, Any], key: str) -> list[Any]:
    found = body.get(key)
    if not isinstance(found, list):
        raise HTTPError(400, "must be a list", place=key)
    if len(found) > _MAX_OBJECTS:
        raise HTTPError(413, f"has more than {_MAX_OBJECTS} entries", place=key)
    return found


def _reject_pull_request(request: Request) -> None:
    if request.query_params.get("create_pr"):
        raise HTTPError(
            400, "pull requests are not supported", hint="Commit to a branch and tell the owner"
        )
