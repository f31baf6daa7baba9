"""A folder of files that appears whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from typing import TYPE_CHECKING

from adapterhub.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def require_free(folder: Path) -> None:
    """Require that ``folder`` does not exist or is an empty folder.

    Raises:
        ArtifactError: otherwise.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ArtifactError("exists and is not a folder", place=str(folder))
    if folder.is_dir() and any(folder.iterdir()):
        raise _occupied(folder)


def _occupied(folder: Path) -> ArtifactError:
    return ArtifactError(
        "exists and is not empty", place=str(folder), hint="Choose another folder or remove it"
    )


def write_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write all files into a sibling folder, sync it to disk, then rename it into place.

    Of two processes that write the same folder one wins and the other gets the error.

    Args:
        folder: must not exist, or be empty.
        contents: file name to bytes, written in this order.

    Raises:
        ArtifactError: when the folder holds something, or can't be written.
    """
    staging = folder.parent / f".{folder.name}.{secrets.token_hex(8)}.partial"
    try:
        staging.mkdir(parents=True)
        for name, content in contents.items():
            _write_synced(staging / name, content)
        _sync_folder(staging)
        _rename(staging, folder)
        _sync_folder(folder.parent)
    except OSError as error:
        raise ArtifactError(f"cannot be written: {error.strerror}", place=str(folder)) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _rename(staging: Path, folder: Path) -> None:
    try:
        # onto an empty folder this is one atomic step too
        staging.rename(folder)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise _occupied(folder) from error
        raise


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
