"""Translation of errors of the operating system and of SQLite into ``RegistryError``."""

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
_FOLDER = "Set ADAPTERHUB_HOME to a folder; this path is a file"
_SPACE = "Free some space, then run it again; nothing was changed"
_BUSY = "Another process keeps the registry locked; run it again later"
_RESTORE = "Restore it from a backup"
#: File of the index, which can be made again.
INDEX_NAME = "index.sqlite3"
#: How to make the index again.
REBUILD = "Make it again with: adapterhub registry rebuild"

_OS_HINTS = {
    errno.EACCES: _WRITABLE,
    errno.EPERM: _WRITABLE,
    errno.EROFS: _WRITABLE,
    errno.ENOTDIR: _FOLDER,
    errno.EEXIST: _FOLDER,
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: _SPACE,
}
_SQLITE_HINTS = {
    sqlite3.SQLITE_BUSY: _BUSY,
    sqlite3.SQLITE_LOCKED: _BUSY,
    sqlite3.SQLITE_PERM: _WRITABLE,
    sqlite3.SQLITE_READONLY: _WRITABLE,
    sqlite3.SQLITE_CANTOPEN: _WRITABLE,
    sqlite3.SQLITE_FULL: _SPACE,
    sqlite3.SQLITE_CORRUPT: _RESTORE,
    sqlite3.SQLITE_NOTADB: _RESTORE,
}


@contextmanager
def translate_os_errors(place: Path) -> Iterator[None]:
    """Raise an ``OSError`` as a ``RegistryError``, at ``place`` if it names no file."""
    try:
        yield
    except OSError as error:
        raise RegistryError(
            f"cannot be used: {error.strerror or error}",
            place=str(error.filename or place),
            hint=_OS_HINTS.get(error.errno or 0, ""),
        ) from error


@contextmanager
def translate_sqlite_errors(place: Path) -> Iterator[None]:
    """Raise an ``sqlite3.Error``, or a value that SQLite cannot hold, as a ``RegistryError``."""
    try:
        yield
    except (UnicodeEncodeError, OverflowError) as error:
        raise RegistryError(
            f"the database cannot hold a value: {error}",
            place=str(place),
            hint="Texts are UTF-8, and numbers have at most 64 bits",
        ) from error
    except sqlite3.Error as error:
        raise RegistryError(
            f"the database cannot be used: {error}",
            place=str(place),
            hint=_sqlite_hint(primary_code(error), place),
        ) from error


def _sqlite_hint(code: int, place: Path) -> str:
    hint = _SQLITE_HINTS.get(code, "")
    lost = code == sqlite3.SQLITE_CANTOPEN and place.parent.is_dir() and not place.exists()
    return REBUILD if place.name == INDEX_NAME and (hint == _RESTORE or lost) else hint


def primary_code(error: sqlite3.Error) -> int:
    """Return the primary result code of SQLite, or 0 if there is none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
