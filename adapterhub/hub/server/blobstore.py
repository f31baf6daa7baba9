"""The bytes of repositories, kept among the blobs of the registry."""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import sha1
from typing import TYPE_CHECKING

from adapterhub.errors import IntegrityError
from adapterhub.http.errors import HTTPError
from adapterhub.registry.blobs import file_fault, read_chunks

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from adapterhub.registry.blobs import Blobs
    from adapterhub.registry.database import Database

#: Most blobs that are remembered as right.
_REMEMBERED = 100_000


@dataclass(frozen=True, slots=True)
class Staged:
    """Bytes that were received whole and synced to disk.

    Args:
        path: where they lie.
        sha256: of them, in hex.
        size: in bytes.
    """

    path: Path
    sha256: str
    size: int


class BlobStore:
    """Reads and places blobs.

    Args:
        blobs: of the registry.
        index: whose write lock orders changes of blobs between processes.
    """

    def __init__(self, blobs: Blobs, index: Database) -> None:
        self._blobs = blobs
        self._index = index
        self._right: dict[str, tuple[int, int, int]] = {}

    def path(self, sha256: str) -> Path:
        """Return where the bytes lie or would lie."""
        return self._blobs.path(sha256)

    def place(self, staged: Iterable[Staged]) -> None:
        """Move staged files to their places, each in one step.

        Raises:
            RegistryError: when the registry can't be written.
        """
        with self._index.writing():
            for each in staged:
                # the same bytes may be staged twice
                if each.path.exists():
                    self._blobs.place(each.path, each.sha256)
                    self._right[each.sha256] = _identity(self.path(each.sha256))

    def checked(self, sha256: str) -> Path:
        """Return where the bytes lie, having found them right since they last changed on disk.

        Raises:
            IntegrityError: when they are damaged or missing.
        """
        path = self.path(sha256)
        try:
            identity = _identity(path)
        except FileNotFoundError:
            raise _damaged(sha256, "is missing") from None
        if self._right.get(sha256) != identity:
            if problem := file_fault(path, sha256):
                raise _damaged(sha256, problem)
            if len(self._right) > _REMEMBERED:
                self._right.clear()
            self._right[sha256] = identity
        return path


def git_name(path: Path) -> str:
    """Return the name that git gives to the bytes of a file, 40 hex digits.

    Raises:
        IntegrityError: when there is no such file.
    """
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


def require_digest(staged: Staged, sha256: str, size: int) -> None:
    """Require that staged bytes are those that were announced.

    Raises:
        HTTPError: otherwise.
    """
    if (staged.sha256, staged.size) != (sha256, size):
        raise HTTPError(
            400,
            f"{staged.size} bytes with the sha256 {staged.sha256} came, {size} with {sha256} "
            "were announced",
            place="upload",
            hint="Send the file again",
        )


def _identity(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _damaged(sha256: str, problem: str) -> IntegrityError:
    return IntegrityError(
        problem, place=f"blob {sha256}", hint="It is not served. Upload the same file again"
    )
