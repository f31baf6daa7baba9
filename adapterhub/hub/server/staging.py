"""Received files, written to staging folders and hashed on the way."""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from adapterhub.http.errors import HTTPError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

#: Bytes that are collected before they are hashed and written at once.
_BUFFER = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Staged:
    """A file that was received completely and synced to disk."""

    path: Path
    sha256: str
    size: int

    def require_digest(self, sha256: str, size: int) -> None:
        """Check that the file is the announced one."""
        if (self.sha256, self.size) != (sha256, size):
            raise HTTPError(
                400,
                f"received {self.size} bytes with the sha256 {self.sha256}, "
                f"announced were {size} with {sha256}",
                place="upload",
                hint="Send the file again",
            )


class StagingFile:
    """A new read-only file that is hashed while it is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digest = sha256()
        self._size = 0
        self._chunks: list[bytes] = []
        self._buffered = 0
        # the mode applies to later openings only; this descriptor can write
        self._descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o444)
        self._open = True

    def buffer(self, chunk: bytes) -> int:
        """Add a chunk to the buffer and return the size of the buffer in bytes."""
        self._chunks.append(chunk)
        self._buffered += len(chunk)
        return self._buffered

    def flush(self) -> None:
        """Hash and write the buffer."""
        content = b"".join(self._chunks)
        self._chunks.clear()
        self._buffered = 0
        self._size += len(content)
        self._digest.update(content)
        view = memoryview(content)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def finish(self) -> Staged:
        """Write the rest, sync the file to disk and return it."""
        self.flush()
        os.fsync(self._descriptor)
        self.close()
        return Staged(self.path, self._digest.hexdigest(), self._size)

    def close(self) -> None:
        """Close the file, complete or not."""
        if self._open:
            self._open = False
            os.close(self._descriptor)


async def stage(chunks: AsyncIterator[bytes], target: Path) -> Staged:
    """Write chunks to a new file and return it with its digest."""
    from starlette.concurrency import run_in_threadpool

    writer = StagingFile(target)
    try:
        async for chunk in chunks:
            if writer.buffer(chunk) >= _BUFFER:
                await run_in_threadpool(writer.flush)
        return await run_in_threadpool(writer.finish)
    finally:
        writer.close()
