"""Atomic creation of a file in a folder of the user."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
from contextlib import contextmanager, suppress
from hashlib import sha256
from typing import TYPE_CHECKING, BinaryIO

from adapterhub.registry.layout import sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


@contextmanager
def atomic_file(target: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """Open a new file that becomes ``target`` when the block ends without an error.

    Several processes may write the same target at once. Partial files that killed processes left
    for it are removed first.
    """
    _remove_abandoned(target)
    if not overwrite and os.path.lexists(target):
        raise _exists()
    with _partial(target) as (path, file):
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            _move(path, target, overwrite=overwrite)
            sync_folder(target.parent)
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def _partial(target: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Open a new file, locked until it is closed or the process ends."""
    while True:
        path = target.parent / f"{_prefix(target)}{secrets.token_hex(8)}.partial"
        with path.open("xb") as file:
            # on a file system without locks, no other process removes it either
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            # another process may have removed it as abandoned before it was locked
            if path.exists():
                yield path, file
                return


def _remove_abandoned(target: Path) -> None:
    """Remove the partial files of ``target`` that no process writes any more."""
    pattern = re.compile(re.escape(_prefix(target)) + r"[0-9a-f]{16}\.partial")
    with suppress(OSError):
        for path in list(target.parent.iterdir()):
            if pattern.fullmatch(path.name):
                _remove_unlocked(path)


def _remove_unlocked(path: Path) -> None:
    # removed already, owned by another user, being written, or on a file system without locks
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(descriptor)


def _prefix(target: Path) -> str:
    # a hash, since a target name of the maximum length leaves no room for a suffix
    return f".{sha256(os.fsencode(target.name)).hexdigest()[:16]}."


def _move(partial: Path, target: Path, *, overwrite: bool) -> None:
    if overwrite:
        partial.replace(target)
        return
    try:
        # unlike a rename, a link never replaces a file
        target.hardlink_to(partial)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(target):
            raise _exists() from error
        partial.rename(target)


def _exists() -> FileExistsError:
    return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
