"""A file that appears whole or not at all, in a folder that is not ours."""

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
def whole_file(target: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """Lend a new file that takes the place of ``target`` at the end, or leaves nothing.

    What a killed process left while it wrote the same target is removed first; several may write
    it at once.

    Args:
        target: its folder must be there.
        overwrite: a file that is there.

    Raises:
        OSError: when there is a file that may not be overwritten, or it can't be written.
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
    """Lend a new file whose lock is held until it is closed, or the process is gone."""
    while True:
        path = target.parent / f"{_prefix(target)}{secrets.token_hex(8)}.partial"
        with path.open("xb") as file:
            # some file systems have no locks; on these nobody removes it either
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            # another may have taken it for abandoned before it was locked
            if path.exists():
                yield path, file
                return


def _remove_abandoned(target: Path) -> None:
    """Remove what nobody writes any more of the files that were to become ``target``."""
    pattern = re.compile(re.escape(_prefix(target)) + r"[0-9a-f]{16}\.partial")
    with suppress(OSError):
        for path in list(target.parent.iterdir()):
            if pattern.fullmatch(path.name):
                _remove_unlocked(path)


def _remove_unlocked(path: Path) -> None:
    # gone meanwhile, another user's, being written, or the file system has no locks
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(descriptor)


def _prefix(target: Path) -> str:
    # a name may be as long as names may be, so it can't be part of another
    return f".{sha256(os.fsencode(target.name)).hexdigest()[:16]}."


def _move(partial: Path, target: Path, *, overwrite: bool) -> None:
    if overwrite:
        partial.replace(target)
        return
    try:
        # unlike a rename, this never takes the place of a file
        target.hardlink_to(partial)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(target):
            raise _exists() from error
        partial.rename(target)


def _exists() -> FileExistsError:
    return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
