"""Files of a repository, whole or in ranges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from adapterhub.hub.server.blob_response import BlobResponse
from adapterhub.hub.server.context import hub_of, readable
from adapterhub.hub.server.errors import COMMIT_HEADER
from adapterhub.hub.server.params import path_of, revision_of

if TYPE_CHECKING:
    from starlette.requests import Request


async def resolve(request: Request) -> Response:
    """Send a file of a revision; ``HEAD`` tells its size, entity tag and commit."""
    found = await readable(request)
    store = hub_of(request).store
    path = path_of(request)
    revision, file = await run_in_threadpool(store.file, found, revision_of(request), path)
    oids = {} if file.lfs else await run_in_threadpool(store.git_names, {file.sha256})
    headers = {
        "ETag": f'"{file.etag(oids.get(file.sha256, ""))}"',
        COMMIT_HEADER: revision.sha,
        # what people upload is never run by a browser as a page of this address
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cache-Control": "private, no-cache",
    }
    if request.method == "HEAD":
        headers["Content-Length"] = str(file.size)
        headers["Accept-Ranges"] = "bytes"
        return Response(headers=headers, media_type="application/octet-stream")
    blob = await run_in_threadpool(store.blob, file.sha256)
    name = path.rpartition("/")[2]
    return BlobResponse(blob, headers=headers, filename=name, media_type="application/octet-stream")
