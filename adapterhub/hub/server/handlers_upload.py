"""Bringing files: how each is to be sent, and Git-LFS for the large ones."""

from __future__ import annotations

import hmac
import re
import time
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from adapterhub.http.errors import HTTPError, too_large
from adapterhub.hub.server.blobstore import require_digest
from adapterhub.hub.server.bodies import read_json, stage, text_of
from adapterhub.hub.server.contents import check_path
from adapterhub.hub.server.context import Hub, base_url, hub_of, name_of, writable
from adapterhub.hub.server.params import revision_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from adapterhub.hub.server.records import TreeFile

_OID = re.compile(r"[0-9a-f]{64}")
_LFS_TYPE = "application/vnd.git-lfs+json"
#: Most objects of one request.
_MAX_OBJECTS = 1000


async def preupload(request: Request) -> Response:
    """Tell of each file whether it goes inside the commit or by Git-LFS.

    ``huggingface_hub`` with ``hf_xet`` sends nothing by Git-LFS, whatever a server offers, so
    all but the largest files go inside the commit, which every client does alike.
    """
    found, _ = await writable(request)
    refuse_pull_request(request)
    hub = hub_of(request)
    body = await read_json(request, hub.settings.max_json)
    revision = await run_in_threadpool(hub.store.revision, found, revision_of(request))
    tree = await run_in_threadpool(hub.store.tree, found, revision.sha)
    files = [_announced(each, hub) for each in _list(body, "files")]
    same = {tree[path].sha256 for path, _ in files if path in tree}
    oids = await run_in_threadpool(hub.store.git_names, same)
    return JSONResponse(
        {"files": [_upload_mode(path, size, hub, tree, oids) for path, size in files]}
    )


async def lfs_batch(request: Request) -> Response:
    """Tell where to send each object; none where the repository has its bytes."""
    found, _ = await writable(request)
    hub = hub_of(request)
    body = await read_json(request, hub.settings.max_json)
    if text_of(body, "operation") != "upload":
        raise HTTPError(400, "only uploads go by Git-LFS", hint="Download with resolve")
    if text_of(body, "hash_algo", "sha256") != "sha256":
        raise HTTPError(400, "objects are named by sha256", place="hash_algo")
    known = await run_in_threadpool(hub.store.known_sizes, found)
    objects = [_object(request, hub, each, known) for each in _list(body, "objects")]
    answer = {"transfer": "basic", "objects": objects, "hash_algo": "sha256"}
    return JSONResponse(answer, media_type=_LFS_TYPE)


async def lfs_upload(request: Request) -> Response:
    """Receive an object; the address holds a ticket in place of a token."""
    hub = hub_of(request)
    oid, size = request.path_params["oid"], _ticketed_size(request, hub)
    found = await run_in_threadpool(hub.store.get, name_of(request))
    with hub.store.staging() as folder:
        staged = await stage(request, folder / "object", min(size, hub.settings.max_file))
        require_digest(staged, oid, size)
        await run_in_threadpool(hub.store.add_uploads, found, [staged])
    return Response(status_code=200)


async def lfs_verify(request: Request) -> Response:
    """Tell whether an object arrived."""
    found, _ = await writable(request)
    hub = hub_of(request)
    body = await read_json(request, hub.settings.max_json)
    oid = text_of(body, "oid")
    known = await run_in_threadpool(hub.store.known_sizes, found)
    if oid not in known or known[oid] != body.get("size") or not hub.store.has_bytes(oid):
        raise HTTPError(404, "did not arrive with this size", place=oid[:64])
    return JSONResponse({"oid": oid, "size": known[oid]}, media_type=_LFS_TYPE)


async def no_xet(request: Request) -> Response:
    """Refuse the other way of transfer, saying what to do."""
    await writable(request)
    limit = hub_of(request).settings.max_inline
    raise HTTPError(
        400,
        f"files larger than {limit} bytes go by Git-LFS here",
        place="xet",
        hint="Set HF_HUB_DISABLE_XET=1 and run it again",
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
    answer: dict[str, Any] = {
        "path": path,
        "uploadMode": "lfs" if large else "regular",
        "shouldIgnore": False,
    }
    if path in tree:
        # by which the client knows a file that need not be sent
        answer["oid"] = tree[path].sha256 if large else oids[tree[path].sha256]
    return answer


def _object(request: Request, hub: Hub, entry: Any, known: Mapping[str, int]) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise HTTPError(400, "must be a list of objects", place="objects")
    oid, size = text_of(entry, "oid"), entry.get("size")
    if not _OID.fullmatch(oid) or type(size) is not int or size < 0:
        raise HTTPError(400, "has no sha256 and size", place="objects")
    answer: dict[str, Any] = {"oid": oid, "size": size}
    if size > hub.settings.max_file:
        problem = f"is larger than the limit of {hub.settings.max_file} bytes"
        return {**answer, "error": {"code": 413, "message": problem}}
    if known.get(oid) == size and hub.store.has_bytes(oid):
        return answer
    expires = int(time.time() + hub.settings.upload_seconds)
    query = {
        "size": size,
        "expires": expires,
        "ticket": _ticket(hub, name_of(request), oid, size, expires),
    }
    objects = f"{base_url(request)}/{name_of(request)}.git/info/lfs"
    answer["actions"] = {
        "upload": {"href": f"{objects}/objects/{oid}?{urlencode(query)}"},
        "verify": {"href": f"{objects}/verify"},
    }
    return answer


def _ticketed_size(request: Request, hub: Hub) -> int:
    """Return the size that the link for an upload was made for."""
    query, oid = request.query_params, request.path_params["oid"]
    size, expires = query.get("size", ""), query.get("expires", "")
    if not (re.fullmatch("[0-9]{1,18}", size) and re.fullmatch("[0-9]{1,18}", expires)):
        raise HTTPError(403, "the link is not whole", place="upload")
    ticket = _ticket(hub, name_of(request), oid, int(size), int(expires))
    if not hmac.compare_digest(ticket.encode(), query.get("ticket", "").encode()):
        raise HTTPError(403, "the link is not for this upload", place="upload")
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


def refuse_pull_request(request: Request) -> None:
    if request.query_params.get("create_pr"):
        raise HTTPError(
            400, "pull requests are not offered", hint="Commit to a branch, and tell the owner"
        )
