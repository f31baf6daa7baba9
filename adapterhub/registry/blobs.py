"""Content-addressed files, each stored once under its sha256."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import TYPE_CHECKING, BinaryIO

from adapterhub.registry.layout import sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from adapterhub.registry.layout import Layout

_CHUNK = 1024 * 1024


class Blobs:
    """The blobs of one registry.

    A blob is written to a staging folder, synced, and moved to its place atomically, so every
    blob is complete. ``place`` and ``delete`` require the write lock of the index.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def path(self, digest: str) -> Path:
        """Return the path of the blob with this sha256 in hex, whether or not it exists."""
        return self._layout.blob(digest)

    def place(self, staged: Path, digest: str) -> None:
        """Move a staged file to its place; an existing blob is replaced, which repairs damage."""
        target = self.path(digest)
        target.parent.mkdir(exist_ok=True)
        sync_folder(target.parent.parent)
        staged.replace(target)
        sync_folder(target.parent)

    def delete(self, digest: str) -> int:
        """Delete a blob if it exists and return its size in bytes."""
        path = self.path(digest)
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        return size

    def written(self, digest: str) -> float:
        """Return the time at which a blob was written, in seconds since the epoch."""
        return self.path(digest).stat().st_mtime

    def all(self) -> Iterator[str]:
        """Yield the sha256 of all blobs on disk, in hex."""
        for folder in sorted(self._layout.blobs.iterdir()):
            yield from sorted(path.name for path in folder.iterdir())


def file_fault(path: Path, digest: str) -> str:
    """Return what is wrong with a stored file, or an empty string if it is intact."""
    try:
        with path.open("rb", buffering=0) as file:
            found = hash_stream(file)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "" if found == digest else f"is damaged: its bytes have the sha256 {found}"


def hash_stream(file: BinaryIO) -> str:
    """Return the sha256 of the rest of ``file``, in hex."""
    digest = sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def write_durable(target: Path, chunks: Iterator[bytes]) -> str:
    """Write a new read-only file, sync it to disk and return its sha256 in hex."""
    digest = sha256()
    # the mode applies to later openings only; this descriptor can write
    descriptor = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o444)
    with os.fdopen(descriptor, "wb") as file:
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def read_chunks(file: BinaryIO, limit: int) -> Iterator[bytes]:
    """Yield at most ``limit`` bytes of ``file`` in chunks."""
    left = limit
    while left > 0 and (chunk := file.read(min(_CHUNK, left))):
        left -= len(chunk)
        yield chunk
