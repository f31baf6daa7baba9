"""Content-addressed files, each stored once under its sha256, and the folders that link to them."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from hashlib import sha256
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from adapterhub.adapters.manifest import MANIFEST_NAME, Manifest
from adapterhub.registry.layout import sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from adapterhub.registry.layout import Layout

_CHUNK = 1024 * 1024
_LOG = logging.getLogger(__name__)
_NO_LINKS = frozenset({errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


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


class Fault(NamedTuple):
    """A damaged file and what is wrong with it."""

    file: str
    problem: str


class Checkouts:
    """The checked-out artifacts of one registry.

    ``build`` and ``drop`` require the write lock of the index.
    """

    def __init__(self, layout: Layout, blobs: Blobs) -> None:
        self._layout = layout
        self._blobs = blobs

    def path(self, digest: str) -> Path:
        """Return the folder of an artifact, whether or not it is checked out."""
        return self._layout.checkout(digest)

    def build(self, digest: str, staging: Path) -> None:
        """Check an artifact out atomically, damaged or not; ``fault`` verifies it."""
        folder = staging / "checkout"
        folder.mkdir()
        manifest_blob = self._blobs.path(digest.removeprefix("sha256:"))
        self._link(manifest_blob, folder / MANIFEST_NAME)
        # file names are taken from an intact manifest only
        if not file_fault(manifest_blob, manifest_blob.name):
            for name, entry in Manifest.from_json(manifest_blob.read_bytes()).files.items():
                self._link(self._blobs.path(entry.sha256), folder / name)
        folder.rename(self.path(digest))
        self.path(digest).chmod(0o555)

    def fault(self, digest: str) -> Fault | None:
        """Return the first damaged file of a checkout, or ``None``.

        Every byte is read: the manifest is checked by the digest, the files by the manifest.
        """
        folder = self.path(digest)
        try:
            return _first_fault(folder, digest)
        except FileNotFoundError:
            # without the lock, another process may drop it at any time
            return Fault(folder.name, "is missing")

    def touch(self, digest: str) -> None:
        """Record that an artifact is read now."""
        try:
            os.utime(self.path(digest))
        except OSError as error:
            # a registry on a read-only file system stays usable
            _LOG.debug("cannot record the time of use: %s", error)

    def used(self, digest: str) -> float:
        """Return the time of the last read of an artifact, in seconds since the epoch."""
        return self.path(digest).stat().st_mtime

    def drop(self, digest: str, staging: Path) -> None:
        """Move a checkout to ``staging``, to be removed with it."""
        folder = self.path(digest)
        if folder.is_dir():
            folder.chmod(0o755)
            folder.rename(staging / folder.name)

    def all(self) -> list[str]:
        """Return the digests of all checkouts on disk."""
        return [f"sha256:{path.name}" for path in self._layout.checkouts.iterdir()]

    def _link(self, blob: Path, target: Path) -> None:
        try:
            target.hardlink_to(blob)
        except FileNotFoundError:
            # a missing blob is reported by ``fault``
            return
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            _LOG.info("copying %s, hard links are rejected: %s", blob, error.strerror)
            shutil.copyfile(blob, target)
            target.chmod(0o444)


def _first_fault(folder: Path, digest: str) -> Fault | None:
    manifest = folder / MANIFEST_NAME
    if problem := file_fault(manifest, digest.removeprefix("sha256:")):
        return Fault(MANIFEST_NAME, problem)
    files = Manifest.from_json(manifest.read_bytes()).files
    extra = {path.name for path in folder.iterdir()} - {MANIFEST_NAME, *files}
    if extra:
        return Fault(min(extra), "does not belong to this artifact")
    for name, entry in files.items():
        if problem := file_fault(folder / name, entry.sha256):
            return Fault(name, problem)
    return None
