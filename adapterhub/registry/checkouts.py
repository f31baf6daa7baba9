"""Checked-out artifacts: folders with the files under their own names."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from typing import TYPE_CHECKING, NamedTuple

from adapterhub.adapters.manifest import MANIFEST_NAME, Manifest
from adapterhub.registry.blobs import file_fault

if TYPE_CHECKING:
    from pathlib import Path

    from adapterhub.registry.blobs import Blobs
    from adapterhub.registry.layout import Layout

_LOG = logging.getLogger(__name__)
_NO_LINKS = frozenset({errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


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
