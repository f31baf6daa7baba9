"""Content-addressed files: each is stored once, under the sha256 of its bytes."""

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

    A blob is written aside, synced, and then moved to its place in one step, so a blob that
    is there is whole. Only who holds the index's write lock may ``place`` or ``delete``.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def path(self, digest: str) -> Path:
        """Return where the blob with this sha256, in hex, lies or would lie."""
        return self._layout.blob(digest)

    def place(self, staged: Path, digest: str) -> None:
        """Move a staged file to its place; one that is there is replaced by equal bytes.

        Replacing restores a blob that was damaged on disk.
        """
        target = self.path(digest)
        target.parent.mkdir(exist_ok=True)
        sync_folder(target.parent.parent)
        staged.replace(target)
        sync_folder(target.parent)

    def delete(self, digest: str) -> int:
        """Delete a blob if it is there and return its size in bytes."""
        path = self.path(digest)
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        return size

    def written(self, digest: str) -> float:
        """Return when a blob was written, in seconds since the epoch."""
        return self.path(digest).stat().st_mtime

    def all(self) -> Iterator[str]:
        """Yield the digests of all blobs on disk, in hex."""
        for folder in sorted(self._layout.blobs.iterdir()):
            yield from sorted(path.name for path in folder.iterdir())


def file_fault(path: Path, digest: str) -> str:
    """Return what is wrong with a stored file, or an empty string when its bytes are right.

    Args:
        path: the file.
        digest: the sha256 that its bytes must have, in hex.
    """
    try:
        with path.open("rb", buffering=0) as file:
            found = hash_stream(file)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "" if found == digest else f"is damaged: its bytes have the sha256 {found}"


def hash_stream(file: BinaryIO) -> str:
    """Return the sha256 in hex of what is left in ``file``."""
    digest = sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def write_durable(target: Path, chunks: Iterator[bytes]) -> str:
    """Write a new read-only file, sync it to disk and return the sha256 of its bytes in hex."""
    digest = sha256()
    # the mode binds later openings only; this descriptor can write
    descriptor = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o444)
    with os.fdopen(descriptor, "wb") as file:
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def read_chunks(file: BinaryIO, limit: int) -> Iterator[bytes]:
    """Yield at most ``limit`` bytes of ``file`` in pieces."""
    left = limit
    while left > 0 and (chunk := file.read(min(_CHUNK, left))):
        left -= len(chunk)
        yield chunk
