"""Files and folders that only their owner may read: databases of keys, and what surrounds them."""

from __future__ import annotations

import errno
import logging
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from adapterhub.errors import RegistryError

if TYPE_CHECKING:
    from pathlib import Path

#: Permissions of a private file and of a private folder.
FILE_MODE, FOLDER_MODE = 0o600, 0o700
_OTHERS = 0o077
#: Suffixes of the files that SQLite keeps beside a database, with pages of it.
_SIBLINGS = ("", "-wal", "-shm", "-journal")
_LOG = logging.getLogger(__name__)


def make_private_folder(folder: Path) -> None:
    """Create a folder with mode 0700 if it does not exist, or remove the access of others.

    A folder on a read-only file system is left as it is.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=FOLDER_MODE)
    try:
        _remove_access(folder)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise _refused(folder, FOLDER_MODE, error) from error


def make_private_database(path: Path) -> None:
    """Create an empty file with mode 0600 if it does not exist, or remove the access of others.

    The files that SQLite keeps beside a database are corrected with it; new ones get its mode.

    Raises:
        RegistryError: When others may read the file and its mode cannot be changed.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, FILE_MODE))
    for suffix in _SIBLINGS:
        sibling = path.with_name(path.name + suffix)
        try:
            _remove_access(sibling)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _refused(sibling, FILE_MODE, error) from error


def is_exposed(path: Path) -> bool:
    """Return whether a database exists, and other users have access to it or to its siblings."""
    return any(_exposed(path.with_name(path.name + suffix)) for suffix in _SIBLINGS)


def _exposed(path: Path) -> bool:
    try:
        return os.name == "posix" and bool(path.stat().st_mode & _OTHERS)
    except FileNotFoundError:
        return False


def _remove_access(path: Path) -> None:
    if not _exposed(path):
        return
    # what its owner may do is not changed
    mode = stat.S_IMODE(path.stat().st_mode) & ~_OTHERS
    path.chmod(mode)
    _LOG.warning("%s: other users had access to it; its mode is %04o now", path, mode)


def _refused(path: Path, mode: int, error: OSError) -> RegistryError:
    return RegistryError(
        f"other users have access to it, and its mode cannot be changed: {error.strerror}",
        place=str(path),
        hint=f"Let its owner run: chmod {mode:o} {path}",
    )
