"""The run folder: its files, checks, lock, and the errors of its disk."""

from __future__ import annotations

import errno
import json
import os
import re
from contextlib import contextmanager
from hashlib import file_digest
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
#: Files of a checkpoint: parameters and states, counters, and the sha256 of both.
TENSORS, COUNTERS, DIGESTS = "state.safetensors", "state.json", "digests.json"
_LOCK_NAME = ".train.lock"

_SPACE = "Free some space, then run it again with --resume; no checkpoint was damaged"
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
        TrainingError: when it does, or when the checkpoint to continue from is damaged.
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
    if resume and checkpoint:
        checkpoint_folder(folder)
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
        any((folder / name / DIGESTS).is_file() for name in CHECKPOINT_FOLDERS)
        or (folder / CHECKPOINT_NAME).exists()
    )


def checkpoint_folder(folder: Path) -> Path | None:
    """Return the folder of a whole checkpoint, also after a kill between the two renames.

    Raises:
        TrainingError: when the only checkpoint has changed since it was written.
    """
    for name in CHECKPOINT_FOLDERS:
        if (folder / name).is_dir() and not _damage(folder / name):
            return folder / name
    target = folder / CHECKPOINT_NAME
    if not target.exists():
        # at most a first checkpoint whose write was interrupted
        return None
    raise TrainingError(
        f"the checkpoint is damaged: {_damage(target)}",
        place=str(target),
        hint="Restore it from a copy, or remove this run folder and train anew",
    )


def _damage(checkpoint: Path) -> str:
    """Return what differs from the digests that were written; empty for a whole checkpoint."""
    try:
        digests = json.loads((checkpoint / DIGESTS).read_text(encoding="utf-8"))
        changed = [n for n in (TENSORS, COUNTERS) if digests[n] != file_sha256(checkpoint / n)]
    except FileNotFoundError as error:
        return f"{os.path.basename(error.filename)} is missing"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return f"{DIGESTS} can't be read"
    return f"{changed[0]} does not match its digest" if changed else ""


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file in hex."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


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
