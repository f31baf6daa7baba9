"""Files of repositories: received into staging folders, stored as blobs of the registry."""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import sha1, sha256
from typing import TYPE_CHECKING

from adapterhub.errors import IntegrityError
from adapterhub.http.errors import HTTPError
from adapterhub.registry.blobs import file_fault, read_chunks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection
    from pathlib import Path

    from adapterhub.registry.blobs import Blobs
    from adapterhub.registry.database import Database

#: Largest number of blobs that are remembered as intact.
_REMEMBERED = 100_000
#: Bytes that are collected before they are hashed and written at once.
_BUFFER = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Staged:
    """A file that was received completely."""

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
        """Write the rest and return the file."""
        self.flush()
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


class BlobStore:
    """The blobs of an endpoint, verified when they are read."""

    def __init__(self, blobs: Blobs, index: Database) -> None:
        self._blobs = blobs
        self._index = index
        self._intact: dict[str, tuple[int, int, int]] = {}

    def path(self, sha256: str) -> Path:
        """Return the path of a blob, whether or not it exists."""
        return self._blobs.path(sha256)

    def place(self, staged: Collection[Staged]) -> None:
        """Sync staged files to disk and move them to their places, each atomically."""
        for each in staged:
            # not when it is received, since the request may still be rejected
            _sync(each.path)
        with self._index.writing():
            for each in staged:
                # the same content may be staged twice
                if each.path.exists():
                    self._blobs.place(each.path, each.sha256)
                    self._intact[each.sha256] = _identity(self.path(each.sha256))

    def checked(self, sha256: str) -> Path:
        """Return the path of a blob, verified since it last changed on disk."""
        path = self.path(sha256)
        try:
            identity = _identity(path)
        except FileNotFoundError:
            raise _damaged(sha256, "is missing") from None
        if self._intact.get(sha256) != identity:
            if problem := file_fault(path, sha256):
                raise _damaged(sha256, problem)
            if len(self._intact) > _REMEMBERED:
                self._intact.clear()
            self._intact[sha256] = identity
        return path


def git_name(path: Path) -> str:
    """Return git's name of the content of a file, 40 hex digits."""
    try:
        file = path.open("rb", buffering=0)
    except FileNotFoundError:
        raise _damaged(path.name, "is missing") from None
    with file:
        size = os.fstat(file.fileno()).st_size
        digest = sha1(f"blob {size}\0".encode(), usedforsecurity=False)
        for chunk in read_chunks(file, size):
            digest.update(chunk)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _identity(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _damaged(sha256: str, problem: str) -> IntegrityError:
    return IntegrityError(
        problem, place=f"blob {sha256}", hint="It is not sent. Upload the same file again"
    )
