"""Request bodies, read in bounded chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.http.errors import HTTPError, too_large

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.datastructures import Headers
    from starlette.requests import Request

#: Longer content lengths are not converted to numbers.
_MAX_LENGTH_DIGITS = 18


def check_body_headers(headers: Headers, limit: int) -> None:
    """Check what the headers of a request say about its body.

    Raises:
        HTTPError: 413 when the announced length is over ``limit`` bytes, 415 when it is compressed.
    """
    if headers.get("content-encoding", "identity") != "identity":
        # the decompressed size is not known in advance
        raise HTTPError(415, "compressed bodies are not accepted", place="Content-Encoding")
    length = headers.get("content-length", "")
    if length.isdigit() and (len(length) > _MAX_LENGTH_DIGITS or int(length) > limit):
        raise too_large("the body", limit)


async def stream_body(request: Request, limit: int) -> AsyncIterator[bytes]:
    """Yield the chunks of a request body.

    Raises:
        HTTPError: 413 when the body is longer than ``limit`` bytes, 415 when it is compressed.
    """
    check_body_headers(request.headers, limit)
    read = 0
    async for chunk in request.stream():
        read += len(chunk)
        if read > limit:
            raise too_large("the body", limit)
        yield chunk
