"""Request bodies, read in bounded chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.http.errors import HTTPError, too_large

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request


async def stream_body(request: Request, limit: int) -> AsyncIterator[bytes]:
    """Yield the chunks of a request body."""
    if request.headers.get("content-encoding", "identity") != "identity":
        # the decompressed size is not known in advance
        raise HTTPError(415, "compressed bodies are not accepted", place="Content-Encoding")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise too_large("the body", limit)
    read = 0
    async for chunk in request.stream():
        read += len(chunk)
        if read > limit:
            raise too_large("the body", limit)
        yield chunk
