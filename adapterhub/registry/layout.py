"""Paths of a registry on disk, and its staging folders."""

from __future__ import annotations

import math
import os
import secrets
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapterhub.registry.failures import INDEX_NAME, translate_os_errors
from adapterhub.registry.private_files import make_private_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Age in seconds from which a staging folder is taken for the remains of a killed process.
STALE_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of one registry, all in one file system.

    Args:
        folder: Absolute path of the registry folder.
    """

    folder: Path

    @property
    def index(self) -> Path:
        return self.folder / INDEX_NAME

    @property
    def journal(self) -> Path:
        return self.folder / "journal.log"

    @property
    def blobs(self) -> Path:
        return self.folder / "blobs" / "sha256"

    @property
    def checkouts(self) -> Path:
        return self.folder / "checkouts"

    @property
    def staging(self) -> Path:
        return self.folder / "staging"

    def blob(self, sha256: str) -> Path:
        """Return the path of the blob with this digest, in hex."""
        return self.blobs / sha256[:2] / sha256

    def checkout(self, digest: str) -> Path:
        """Return the folder of the checkout with this ``sha256:`` digest."""
        return self.checkouts / digest.removeprefix("sha256:")

    def has_blobs(self) -> bool:
        """Return whether there is any blob."""
        return any(any(folder.iterdir()) for folder in self.blobs.iterdir())

    def make(self) -> None:
        """Create the folders that do not exist; only their owner may enter the registry."""
        with translate_os_errors(self.folder):
            make_private_folder(self.folder)
            for folder in (self.blobs, self.checkouts, self.staging):
                folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def staged(self) -> Iterator[Path]:
        """Create a staging folder, removed with its content afterwards."""
        folder = self.staging / secrets.token_hex(16)
        with translate_os_errors(folder):
            folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def sweep_staging(self) -> None:
        """Remove old staging folders that killed processes left."""
        oldest = time.time() - STALE_SECONDS
        with translate_os_errors(self.staging):
            for folder in list(self.staging.iterdir()):
                if _modified(folder) < oldest:
                    shutil.rmtree(folder, ignore_errors=True)


def _modified(folder: Path) -> float:
    try:
        return folder.lstat().st_mtime
    except FileNotFoundError:
        # removed by its owner since it was listed
        return math.inf


def sync_folder(folder: Path) -> None:
    """Sync the directory entries of ``folder`` to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
