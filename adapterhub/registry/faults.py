"""Errors of the operating system and of SQLite, told as errors of the registry."""

from __future__ import annotations

import errno
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

from adapterhub.errors import RegistryError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_WRITABLE = "Set ADAPTERHUB_HOME to a folder that you can write, or change its permissions"
_SPACE = "Free some space, then run it again; nothing was changed"
_DAMAGED = "Restore it from a backup; the blobs beside it hold the artifacts themselves"

_OS_HINTS = {
    errno.EACCES: _WRITABLE,
    errno.EPERM: _WRITABLE,
    errno.EROFS: _WRITABLE,
    errno.ENOTDIR: "Set ADAPTERHUB_HOME to a folder; this path holds a file",
    errno.EEXIST: "Set ADAPTERHUB_HOME to a folder; this path holds a file",
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: _SPACE,
}
_SQLITE_HINTS = {
    sqlite3.SQLITE_BUSY: "Another process holds the registry for long; run it again later",
    sqlite3.SQLITE_LOCKED: "Another process holds the registry for long; run it again later",
    sqlite3.SQLITE_PERM: _WRITABLE,
    sqlite3.SQLITE_READONLY: _WRITABLE,
    sqlite3.SQLITE_CANTOPEN: _WRITABLE,
    sqlite3.SQLITE_FULL: _SPACE,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
}


@contextmanager
def os_faults(place: Path) -> Iterator[None]:
    """Translate what the operating system refuses; ``place`` where it names no file.

    Raises:
        RegistryError: in place of an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise RegistryError(
            f"cannot be used: {error.strerror or error}",
            place=str(error.filename or place),
            hint=_OS_HINTS.get(error.errno or 0, ""),
        ) from error


@contextmanager
def sqlite_faults(place: Path) -> Iterator[None]:
    """Translate what SQLite refuses.

    Raises:
        RegistryError: in place of an ``sqlite3.Error``.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise RegistryError(
            f"the index cannot be used: {error}",
            place=str(place),
            hint=_SQLITE_HINTS.get(primary_code(error), ""),
        ) from error


def primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's result code without its extension, or 0 where there is none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
