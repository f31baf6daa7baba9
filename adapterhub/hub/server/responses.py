"""Responses: errors, stored files, and repositories as JSON, as the Hub's clients read them."""

from __future__ import annotations

import errno
import logging
import os
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, JSONResponse, Response

from adapterhub.errors import ArtifactError, IntegrityError, NotFoundError, RefError
from adapterhub.http.errors import HTTPError
from adapterhub.hub.server.records import hub_time

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request
    from starlette.types import Message, Receive, Scope, Send

    from adapterhub.hub.server.records import Repository, Revision, TreeFile

#: Size in bytes of the chunks that are read and sent. Measured with benchmarks/hub_throughput.py:
#: 0.7 of the throughput of http.server, with 256 KiB as with 1 MiB.
CHUNK = 1024 * 1024

_LOG = logging.getLogger(__name__)
_MAX_HEADER = 400
_FAILED = "the endpoint failed. Its log has the reason"
_FULL = "the disk of the endpoint is full; nothing was changed"
_PATHSEND = "http.response.pathsend"
#: Content of the pointer to a file in git, as git-lfs writes it.
_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"


def error_response(_request: Request | None, error: Exception) -> Response:
    """Return the response for an error."""
    status, code = _status_of(error)
    text = str(error)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _LOG.error("%s", error, exc_info=error)
        if not isinstance(error, IntegrityError):
            # local paths are for the log only
            text = _FULL if status == HTTPStatus.INSUFFICIENT_STORAGE else _FAILED
    headers = {"X-Error-Message": _header_text(text)}
    if isinstance(error, HTTPError):
        headers.update(error.headers)
    if code:
        headers["X-Error-Code"] = code
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    # the rest of the body is not read
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        headers["Connection"] = "close"
    return JSONResponse({"error": text}, status, headers)


class BlobResponse(FileResponse):
    """Response with a stored file or ranges of it, in constant memory.

    For a whole file, Starlette passes the path on to a server with the ``pathsend`` extension of
    ASGI. It is read here instead: in the event loop where the page cache has the chunk, and in a
    thread where the disk has to be read.
    """

    chunk_size = 512 * 1024

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""

        async def send_or_read(message: Message) -> None:
            if message["type"] == _PATHSEND:
                await _send_file(message["path"], send)
            else:
                await send(message)

        extensions = {**(scope.get("extensions") or {}), _PATHSEND: {}}
        await super().__call__({**scope, "extensions": extensions}, receive, send_or_read)


def repository_view(repository: Repository, sha: str | None) -> dict[str, Any]:
    """Return the entry of a repository with the head ``sha`` in a list."""
    view: dict[str, Any] = {
        "_id": str(repository.id),
        "id": repository.name,
        "modelId": repository.name,
        "author": repository.owner,
        "sha": sha,
        "private": repository.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "createdAt": hub_time(repository.created),
        "lastModified": hub_time(repository.modified),
        "tags": list(repository.tags),
    }
    if repository.pipeline_tag:
        view["pipeline_tag"] = repository.pipeline_tag
    if repository.library:
        view["library_name"] = repository.library
    return view


def info_view(
    repository: Repository, sha: str, tree: Mapping[str, TreeFile], oids: Mapping[str, str] | None
) -> dict[str, Any]:
    """Return the description of a revision."""
    view = repository_view(repository, sha)
    view["cardData"] = dict(repository.card)
    view["siblings"] = [_sibling(path, file, oids) for path, file in tree.items()]
    view["usedStorage"] = sum(file.size for file in tree.values())
    view["spaces"] = []
    return view


def file_view(path: str, file: TreeFile, oid: str) -> dict[str, Any]:
    """Return the entry of a file with the git name ``oid`` in a tree."""
    view: dict[str, Any] = {"type": "file", "path": path, "size": file.size, "oid": oid}
    if file.lfs:
        view["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": _pointer_size(file)}
    return view


def commit_view(revision: Revision, *, formatted: bool) -> dict[str, Any]:
    """Return the entry of a revision in a history."""
    view: dict[str, Any] = {
        "id": revision.sha,
        "title": revision.title,
        "message": revision.message,
        "authors": [{"user": revision.author}],
        "date": revision.time,
    }
    if formatted:
        view["formatted"] = {"title": revision.title, "message": revision.message}
    return view


def _status_of(error: Exception) -> tuple[int, str]:
    if isinstance(error, HTTPError):
        return error.status, error.code
    if isinstance(error, ArtifactError | RefError):
        return HTTPStatus.BAD_REQUEST, ""
    if isinstance(error, NotFoundError):
        return HTTPStatus.NOT_FOUND, "RepoNotFound"
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return HTTPStatus.INSUFFICIENT_STORAGE, ""
    return HTTPStatus.INTERNAL_SERVER_ERROR, ""


def _header_text(text: str) -> str:
    line = " ".join(text.split())[:_MAX_HEADER]
    return line.encode("ascii", "replace").decode("ascii")


async def _send_file(path: str, send: Send) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        size, sent = os.fstat(descriptor).st_size, 0
        while sent < size:
            chunk = await _read(descriptor, sent, min(CHUNK, size - sent))
            sent += len(chunk)
            # a file that shrank ends the response early, which its length shows the client
            more = sent < size and bool(chunk)
            await send({"type": "http.response.body", "body": chunk, "more_body": more})
            if not chunk:
                break
        if not size:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        os.close(descriptor)


async def _read(descriptor: int, offset: int, size: int) -> bytes | bytearray:
    without_waiting = getattr(os, "RWF_NOWAIT", 0)
    if without_waiting:
        chunk = bytearray(size)
        try:
            if os.preadv(descriptor, [chunk], offset, without_waiting) == size:
                return chunk
        except OSError:
            # not in the page cache, or not supported by the file system
            pass
    return await run_in_threadpool(os.pread, descriptor, size, offset)


def _sibling(path: str, file: TreeFile, oids: Mapping[str, str] | None) -> dict[str, Any]:
    if oids is None:
        return {"rfilename": path}
    view: dict[str, Any] = {"rfilename": path, "size": file.size, "blobId": oids[file.sha256]}
    if file.lfs:
        lfs = {"sha256": file.sha256, "size": file.size, "pointerSize": _pointer_size(file)}
        view["lfs"] = lfs
    return view


def _pointer_size(file: TreeFile) -> int:
    return len(_POINTER.format(sha256=file.sha256, size=file.size))
