"""The run folder: its files, checks, lock, and the errors of its disk."""

from __future__ import annotations

import errno
import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from adapterhub.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOG_NAME, ARTIFACT_NAME, FINISHED_NAME = "log.jsonl", "artifact", "finished.json"
CHECKPOINT_NAME = "checkpoint"
#: Folders that a checkpoint can be in, also after a kill between the two renames of a write.
CHECKPOINT_FOLDERS = (CHECKPOINT_NAME, f".{CHECKPOINT_NAME}.new", f".{CHECKPOINT_NAME}.old")
_LOCK_NAME = ".train.lock"

_SPACE = "Free some space, then continue with --resume; the last checkpoint is whole"
_WRITABLE = "Choose a folder that you can write with --output"
_HINTS = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: _SPACE,
    errno.EACCES: _WRITABLE,
    errno.EPERM: _WRITABLE,
    errno.EROFS: _WRITABLE,
    errno.ENOTDIR: _WRITABLE,
    errno.EEXIST: _WRITABLE,
    errno.EIO: "Check the disk, then continue with --resume",
}
#: How safetensors reports an error of the operating system.
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def check_folder(folder: Path, *, resume: bool) -> None:
    """Check that a run may start in a folder, without changing it.

    Raises:
        TrainingError: when another process trains in it, or it holds another run that would be
            overwritten.
    """
    if (folder / _LOCK_NAME).exists():
        with lock_folder(folder):
            pass
    check_contents(folder, resume=resume)


def check_contents(folder: Path, *, resume: bool) -> None:
    """Check that a folder holds no other run that would be overwritten.

    Raises:
        TrainingError: when it does.
    """
    with disk_errors(folder):
        checkpoint = has_checkpoint(folder)
        finished = (folder / FINISHED_NAME).is_file()
        artifact = (folder / ARTIFACT_NAME).exists()
    if artifact and not (resume and (finished or checkpoint)):
        raise TrainingError(
            "already holds a finished run",
            place=str(folder),
            hint="Store it with --resume, choose another folder with --output, or remove this one",
        )
    if not resume and checkpoint:
        raise TrainingError(
            "holds the checkpoint of an unfinished run",
            place=str(folder),
            hint="Continue with --resume, or remove the folder",
        )


def has_checkpoint(folder: Path) -> bool:
    """Return whether a folder holds a checkpoint, whole or damaged.

    A first checkpoint whose write was interrupted is none.
    """
    return (
        any((folder / name / "digests.json").is_file() for name in CHECKPOINT_FOLDERS)
        or (folder / CHECKPOINT_NAME).exists()
    )


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep other processes from training in a folder.

    The lock ends with the process that holds it. Of several processes of one run, the first
    holds it.

    Raises:
        TrainingError: when another process trains in the folder.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK_NAME)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise TrainingError(
                "another process trains in this folder",
                place=str(folder),
                hint="Wait until it has finished, or choose another folder with --output",
            ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Raise errors of the operating system that concern a run folder as ``TrainingError``.

    Errors of other kinds, such as those of a network, pass.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = error.errno if isinstance(error, OSError) else _errno_of(error)
        if number not in _HINTS:
            raise
        name = getattr(error, "filename", None)
        raise TrainingError(
            f"can't be written: {os.strerror(number).lower()}",
            place=str(name or folder),
            hint=_HINTS[number],
        ) from error


def _errno_of(error: SafetensorError) -> int | None:
    found = _OS_ERROR.search(str(error))
    return int(found[1]) if found else None
