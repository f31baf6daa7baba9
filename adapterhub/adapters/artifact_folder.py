"""Files of an artifact folder: atomic writing, strict listing and checked reading."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from hashlib import sha256
from typing import TYPE_CHECKING

from adapterhub.adapters.manifest import MANIFEST_NAME, check_file_name, reject_pickle
from adapterhub.adapters.peft_format import CONFIG_NAME
from adapterhub.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from adapterhub.adapters.manifest import Manifest

#: State of a training run in a checkpoint. Source: ``transformers/trainer.py``.
_TRAINER_FILE = re.compile(
    r"(optimizer(_\d+)?|scheduler|scaler|lr_scheduler)\.(pt|bin)|training_args\.bin"
    r"|rng_state(_\d+)?\.pth|trainer_state\.json"
)
WEIGHTS_NAME = "adapter_model.safetensors"
CARD_NAME = "README.md"
REQUIRED_FILES: tuple[str, ...] = (CONFIG_NAME, WEIGHTS_NAME, CARD_NAME)


def require_free(folder: Path) -> None:
    """Require that ``folder`` does not exist or is an empty folder."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ArtifactError("exists and is not a folder", place=str(folder))
    if folder.is_dir() and any(folder.iterdir()):
        raise _occupied(folder)


def write_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write all files into a sibling folder, sync it to disk, then rename it into place.

    If two processes write the same folder, one succeeds and the other raises ``ArtifactError``.
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


def list_files(folder: Path, max_bytes: int) -> dict[str, int]:
    """Return the size in bytes of each file of an artifact.

    Raises:
        ArtifactError: When the folder holds anything but plain files with allowed names, or more
            than ``max_bytes``.
    """
    sizes: dict[str, int] = {}
    for entry in _scan(folder):
        _require_plain(entry, folder)
        if entry.name != MANIFEST_NAME:
            check_file_name(entry.name, str(folder))
        sizes[entry.name] = entry.stat(follow_symlinks=False).st_size
    _check_size(folder, sizes.values(), max_bytes)
    return sizes


def check_peft_files(folder: Path, max_bytes: int) -> None:
    """Require plain files for configuration and tensors, and no pickle beside them.

    The state that transformers' Trainer saves beside an adapter is not read.
    """
    entries = {entry.name: entry for entry in _scan(folder)}
    for name in entries.keys() - set(trainer_files(folder)):
        reject_pickle(name, str(folder))
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if name not in entries:
            raise ArtifactError(f"has no {name}", place=str(folder))
        _require_plain(entries[name], folder)
    sizes = [entries[name].stat().st_size for name in (CONFIG_NAME, WEIGHTS_NAME)]
    _check_size(folder, sizes, max_bytes)


def trainer_files(folder: Path) -> list[str]:
    """Return the names of the files that transformers' Trainer saves to continue a training run."""
    return [entry.name for entry in _scan(folder) if _TRAINER_FILE.fullmatch(entry.name)]


def check_listing(folder: Path, manifest: Manifest, sizes: Mapping[str, int]) -> None:
    """Require that the folder holds the files of its manifest, in their sizes, and no others."""
    listed = manifest.files.keys()
    for name in REQUIRED_FILES:
        if name not in listed:
            raise ArtifactError(f"does not list {name!r}", place=f"{folder}/{MANIFEST_NAME}")
    for name in sorted(listed - sizes.keys()):
        raise ArtifactError(f"{name!r} is listed and missing", place=str(folder))
    for name in sorted(sizes.keys() - listed - {MANIFEST_NAME}):
        raise ArtifactError(f"{name!r} is not listed in {MANIFEST_NAME}", place=str(folder))
    for name in sorted(listed):
        if sizes[name] != manifest.files[name].size:
            raise ArtifactError(
                f"has {sizes[name]} bytes, {MANIFEST_NAME} says {manifest.files[name].size}",
                place=f"{folder}/{name}",
            )


def read_verified(folder: Path, manifest: Manifest) -> dict[str, bytes]:
    """Read every file once and compare its digest, so that the verified bytes are parsed."""
    contents = {name: read_file(folder, name) for name in sorted(manifest.files)}
    for name, content in contents.items():
        if (found := sha256(content).hexdigest()) != manifest.files[name].sha256:
            raise ArtifactError(
                f"has sha256 {found}, {MANIFEST_NAME} says {manifest.files[name].sha256}",
                place=f"{folder}/{name}",
                hint="The file was changed or damaged; fetch the artifact again",
            )
    return contents


def read_file(folder: Path, name: str, *, limit: int = -1) -> bytes:
    """Read one file, or no more than its first ``limit + 1`` bytes."""
    try:
        with (folder / name).open("rb") as file:
            return file.read(limit + 1) if limit >= 0 else file.read()
    except OSError as error:
        raise ArtifactError(
            f"cannot be read: {error.strerror}", place=f"{folder}/{name}"
        ) from error


def _occupied(folder: Path) -> ArtifactError:
    return ArtifactError(
        "exists and is not empty", place=str(folder), hint="Choose another folder or remove it"
    )


def _rename(staging: Path, folder: Path) -> None:
    try:
        # atomic also where the target is an empty folder
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


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ArtifactError(f"cannot be read: {error.strerror}", place=str(folder)) from error


def _require_plain(entry: os.DirEntry[str], folder: Path) -> None:
    if not entry.is_file(follow_symlinks=False):
        kind = "a link" if entry.is_symlink() else "not a plain file"
        raise ArtifactError(f"{entry.name!r} is {kind}", place=str(folder))


def _check_size(folder: Path, sizes: Iterable[int], max_bytes: int) -> None:
    if (total := sum(sizes)) > max_bytes:
        raise ArtifactError(f"holds {total} bytes, the limit is {max_bytes}", place=str(folder))
