"""Where a registry keeps what on disk."""

from __future__ import annotations

import math
import os
import secrets
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adapterhub.registry.faults import os_faults

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Overrides the folder that holds a user's registry.
HOME_VARIABLE = "ADAPTERHUB_HOME"
#: Age in seconds past which a staging folder can only be what a killed process left.
STALE_SECONDS = 24 * 3600.0


def default_root() -> Path:
    """Return ``$ADAPTERHUB_HOME``, or the user's own data folder where it is not set."""
    home = os.environ.get(HOME_VARIABLE)
    if home:
        return Path(home).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("adapterhub"))


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of one registry; all of them lie in one file system.

    Args:
        folder: absolute path of the registry's own folder.
    """

    folder: Path

    @property
    def index(self) -> Path:
        return self.folder / "index.sqlite3"

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
        """Return the folder of the checked-out artifact with this ``sha256:`` digest."""
        return self.checkouts / digest.removeprefix("sha256:")

    def make(self) -> None:
        """Make the folders that are not there.

        Raises:
            RegistryError: when they can't be made.
        """
        with os_faults(self.folder):
            for folder in (self.blobs, self.checkouts, self.staging):
                folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def staged(self) -> Iterator[Path]:
        """Lend a new folder in the registry's file system, removed with what is left in it."""
        folder = self.staging / secrets.token_hex(16)
        with os_faults(folder):
            folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def sweep_staging(self) -> None:
        """Remove the staging folders that processes killed long ago left."""
        oldest = time.time() - STALE_SECONDS
        with os_faults(self.staging):
            for folder in list(self.staging.iterdir()):
                if _modified(folder) < oldest:
                    shutil.rmtree(folder, ignore_errors=True)


def _modified(folder: Path) -> float:
    try:
        return folder.lstat().st_mtime
    except FileNotFoundError:
        # its owner has just removed it
        return math.inf


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
