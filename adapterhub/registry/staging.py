"""Copies of artifact folders into staging, each file checked against the manifest."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from adapterhub.adapters.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST,
    FileEntry,
    Manifest,
    reject_pickle,
)
from adapterhub.errors import ArtifactError
from adapterhub.registry.blobs import read_chunks, write_durable
from adapterhub.registry.failures import translate_os_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class StagedArtifact:
    """A checked artifact with its files in a staging folder.

    Args:
        folder: Staging folder.
        manifest: Parsed manifest.
        digest: ``sha256:`` and the sha256 of the manifest file.
        files: Every file by name, ``manifest.json`` included.
    """

    folder: Path
    manifest: Manifest
    digest: str
    files: Mapping[str, FileEntry]

    @property
    def size(self) -> int:
        """Total size of the files in bytes."""
        return sum(entry.size for entry in self.files.values())


def stage_artifact(folder: Path, staging: Path, on_step: Callable[[str], None]) -> StagedArtifact:
    """Copy the files of an artifact into ``staging``; the copied bytes are those hashed."""
    sizes = _list_files(folder)
    content = _read_manifest(folder, sizes)
    manifest = Manifest.from_json(content)
    _check_listing(folder, manifest, sizes)
    on_step("checked")
    for name, entry in manifest.files.items():
        _stage_file(folder / name, staging / name, entry)
        on_step(f"staged {name}")
    with translate_os_errors(staging):
        digest = write_durable(staging / MANIFEST_NAME, iter((content,)))
    on_step(f"staged {MANIFEST_NAME}")
    files = {**manifest.files, MANIFEST_NAME: FileEntry(sha256=digest, size=len(content))}
    return StagedArtifact(staging, manifest, f"sha256:{digest}", files)


def _list_files(folder: Path) -> dict[str, int]:
    sizes: dict[str, int] = {}
    with _source_faults(folder), os.scandir(folder) as entries:
        for entry in entries:
            _check_kind(entry, str(folder))
            sizes[entry.name] = entry.stat(follow_symlinks=False).st_size
    return sizes


def _check_kind(entry: os.DirEntry[str], place: str) -> None:
    if entry.is_symlink():
        raise ArtifactError(
            f"{entry.name!r} is a link", place=place, hint="Replace it by a copy of its target"
        )
    if not entry.is_file(follow_symlinks=False):
        raise ArtifactError(f"{entry.name!r} is not a regular file", place=place)
    reject_pickle(entry.name, place)


def _read_manifest(folder: Path, sizes: Mapping[str, int]) -> bytes:
    if MANIFEST_NAME not in sizes:
        raise ArtifactError(
            f"has no {MANIFEST_NAME}", place=str(folder), hint="It is not an adapterhub artifact"
        )
    with _open_regular(folder / MANIFEST_NAME) as file:
        content = b"".join(read_chunks(file, MAX_MANIFEST + 1))
    if len(content) > MAX_MANIFEST:
        raise ArtifactError(
            f"is larger than {MAX_MANIFEST} bytes", place=f"{folder}/{MANIFEST_NAME}"
        )
    return content


def _check_listing(folder: Path, manifest: Manifest, sizes: Mapping[str, int]) -> None:
    names = sizes.keys() - {MANIFEST_NAME}
    for name in sorted(names - manifest.files.keys()):
        raise ArtifactError(f"{name!r} is not listed in {MANIFEST_NAME}", place=str(folder))
    for name in sorted(manifest.files.keys() - names):
        raise ArtifactError(f"{name!r} is listed in {MANIFEST_NAME} and missing", place=str(folder))
    for name, entry in manifest.files.items():
        if sizes[name] != entry.size:
            raise _mismatch(folder / name, f"{sizes[name]} bytes", f"{entry.size}")


def _stage_file(source: Path, target: Path, entry: FileEntry) -> None:
    with _open_regular(source) as file:
        # one byte more than listed, so that a longer file has another digest
        chunks = _readable(source, read_chunks(file, entry.size + 1))
        with translate_os_errors(target):
            found = write_durable(target, chunks)
    if found != entry.sha256:
        raise _mismatch(source, f"the sha256 {found}", entry.sha256)


def _readable(source: Path, chunks: Iterator[bytes]) -> Iterator[bytes]:
    with _source_faults(source):
        yield from chunks


@contextmanager
def _open_regular(path: Path) -> Iterator[BinaryIO]:
    with _source_faults(path):
        # does not follow a link or block on a pipe that replaced the file after the listing
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ArtifactError("is not a regular file", place=str(path))
        yield file


@contextmanager
def _source_faults(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArtifactError(f"cannot be read: {error.strerror}", place=str(path)) from error


def _mismatch(path: Path, found: str, listed: str) -> ArtifactError:
    return ArtifactError(
        f"has {found}, {MANIFEST_NAME} says {listed}",
        place=str(path),
        hint="The artifact is damaged, or was changed after it was written",
    )
