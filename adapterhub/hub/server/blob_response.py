"""A stored file as an answer: read without waiting where the page cache has it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

#: Bytes that are read and sent at once. Measured with benchmarks/hub_throughput.py: with 256 KiB
#: the endpoint reaches 0.7 of http.server's throughput, with 1 MiB the same.
PIECE = 1024 * 1024
_PATHSEND = "http.response.pathsend"


class BlobResponse(FileResponse):
    """Sends a file, or the ranges of it that were asked for; memory stays flat.

    Where the whole file is asked for, Starlette hands it on as a path, as to a server that has
    the ``pathsend`` extension of ASGI. It is then read here in the event loop, in pieces that
    the kernel has at hand, and in a thread only where the disk has to be waited for.
    """

    chunk_size = 512 * 1024

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def send_or_read(message: Message) -> None:
            if message["type"] == _PATHSEND:
                await _send_file(message["path"], send)
            else:
                await send(message)

        extensions = {**(scope.get("extensions") or {}), _PATHSEND: {}}
        await super().__call__({**scope, "extensions": extensions}, receive, send_or_read)


async def _send_file(path: str, send: Send) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        size, sent = os.fstat(descriptor).st_size, 0
        while sent < size:
            piece = await _read(descriptor, sent, min(PIECE, size - sent))
            sent += len(piece)
            # a file that shrank ends the answer early, which its length tells the client
            more = sent < size and bool(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": more})
            if not piece:
                break
        if not size:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        os.close(descriptor)


async def _read(descriptor: int, offset: int, size: int) -> bytes | bytearray:
    without_waiting = getattr(os, "RWF_NOWAIT", 0)
    if without_waiting:
        piece = bytearray(size)
        try:
            if os.preadv(descriptor, [piece], offset, without_waiting) == size:
                return piece
        except OSError:
            # not at hand, or a file system that can't tell
            pass
    return await run_in_threadpool(os.pread, descriptor, size, offset)
