"""Folders with the files of an artifact under their own names, for peft and people to read."""

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
    """A file that is not what it should be, and in which way."""

    file: str
    problem: str


class Checkouts:
    """The checked-out artifacts of one registry.

    Only who holds the index's write lock may ``build`` or ``drop``.
    """

    def __init__(self, layout: Layout, blobs: Blobs) -> None:
        self._layout = layout
        self._blobs = blobs

    def path(self, digest: str) -> Path:
        """Return where the artifact is or would be checked out."""
        return self._layout.checkout(digest)

    def build(self, digest: str, staging: Path) -> None:
        """Check an artifact out, in one step, as it is; ``fault`` tells whether it is whole.

        Raises:
            ArtifactError: when the manifest is of a schema that is not known here.
        """
        folder = staging / "checkout"
        folder.mkdir()
        manifest_blob = self._blobs.path(digest.removeprefix("sha256:"))
        self._link(manifest_blob, folder / MANIFEST_NAME)
        # file names are taken from a manifest only when its own bytes are right
        if not file_fault(manifest_blob, manifest_blob.name):
            for name, entry in Manifest.from_json(manifest_blob.read_bytes()).files.items():
                self._link(self._blobs.path(entry.sha256), folder / name)
        folder.rename(self.path(digest))
        self.path(digest).chmod(0o555)

    def fault(self, digest: str) -> Fault | None:
        """Return the first file that is not what the digest says, if there is one.

        Every byte is read. The manifest is trusted by the digest, the rest by the manifest.

        Raises:
            ArtifactError: when the manifest is of a schema that is not known here.
        """
        folder = self.path(digest)
        try:
            return _first_fault(folder, digest)
        except FileNotFoundError:
            # without the lock, another process may drop it at any moment
            return Fault(folder.name, "is missing")

    def touch(self, digest: str) -> None:
        """Note that an artifact is read now."""
        try:
            os.utime(self.path(digest))
        except OSError as error:
            # a registry that is shared read-only is read all the same
            _LOG.debug("the time of use is not kept: %s", error)

    def used(self, digest: str) -> float:
        """Return when an artifact was last read, in seconds since the epoch."""
        return self.path(digest).stat().st_mtime

    def drop(self, digest: str, staging: Path) -> None:
        """Take a checkout away; what is moved to ``staging`` is left to its owner to remove."""
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
            # a blob is missing, which ``fault`` tells
            return
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            _LOG.info("copying %s, the file system refuses hard links: %s", blob, error.strerror)
            shutil.copyfile(blob, target)
            target.chmod(0o444)


def _first_fault(folder: Path, digest: str) -> Fault | None:
    manifest = folder / MANIFEST_NAME
    if problem := file_fault(manifest, digest.removeprefix("sha256:")):
        return Fault(MANIFEST_NAME, problem)
    files = Manifest.from_json(manifest.read_bytes()).files
    extra = {path.name for path in folder.iterdir()} - {MANIFEST_NAME, *files}
    if extra:
        return Fault(min(extra), "is no file of this artifact")
    for name, entry in files.items():
        if problem := file_fault(folder / name, entry.sha256):
            return Fault(name, problem)
    return None
