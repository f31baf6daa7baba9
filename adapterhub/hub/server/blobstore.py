"""Files of repositories, stored as blobs of the registry."""

from __future__ import annotations

import os
from hashlib import sha1
from typing import TYPE_CHECKING

from adapterhub.errors import IntegrityError
from adapterhub.registry.blobs import file_fault, read_chunks

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from adapterhub.hub.server.staging import Staged
    from adapterhub.registry.blobs import Blobs
    from adapterhub.registry.database import Database

#: Largest number of blobs that are remembered as intact.
_REMEMBERED = 100_000


class BlobStore:
    """The blobs of an endpoint, verified when they are read."""

    def __init__(self, blobs: Blobs, index: Database) -> None:
        self._blobs = blobs
        self._index = index
        self._intact: dict[str, tuple[int, int, int]] = {}

    def path(self, sha256: str) -> Path:
        """Return the path of a blob, whether or not it exists."""
        return self._blobs.path(sha256)

    def place(self, staged: Iterable[Staged]) -> None:
        """Move staged files to their places, each atomically."""
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


def _identity(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _damaged(sha256: str, problem: str) -> IntegrityError:
    return IntegrityError(
        problem, place=f"blob {sha256}", hint="It is not sent. Upload the same file again"
    )
