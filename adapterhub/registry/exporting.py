"""A version as one file, to be carried where no network leads.

An export is an uncompressed tar file with ``export.json``, the artifact's files under
``artifact/`` and its signatures under ``signatures/``; equal versions give equal bytes.
"""

from __future__ import annotations

import errno
import io
import tarfile
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from adapterhub.adapters.manifest import MANIFEST_NAME, Manifest
from adapterhub.errors import IntegrityError, RegistryError
from adapterhub.registry.archive_reading import MAX_BYTES, MAX_FILES
from adapterhub.registry.export_document import (
    ARTIFACT_FOLDER,
    EXPORT_NAME,
    MAX_DOCUMENT,
    SIGNATURES_FOLDER,
    document_of,
)
from adapterhub.registry.signature_file import signature_name
from adapterhub.registry.whole_file import whole_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from adapterhub.refs import AdapterRef
    from adapterhub.registry.registry import Registry
    from adapterhub.registry.version import Version

_OS_HINTS = {
    errno.EEXIST: "Choose another file, or overwrite it with --force",
    errno.ENOSPC: "Free some space, then run it again",
    errno.EDQUOT: "Free some space, then run it again",
    errno.EFBIG: "Free some space, then run it again",
}


def _no_hook(_step: str) -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class Export:
    """What was exported.

    Args:
        version: whose files they are.
        signatures: keys of the signatures that went with it.
        size: of the file, in bytes.
        sha256: of the file, in hex, to be compared where it arrives.
    """

    version: Version
    signatures: tuple[str, ...]
    size: int
    sha256: str


def export_version(
    registry: Registry,
    ref: str | AdapterRef,
    target: Path,
    *,
    overwrite: bool = False,
    on_step: Callable[[str], None] = _no_hook,
) -> Export:
    """Write a version into one file, which appears whole or not at all.

    Args:
        registry: that holds it.
        ref: which version.
        target: the file; its folder must be there.
        overwrite: a file that is there.
        on_step: called with the name of every step that changes something on disk.

    Raises:
        NotFoundError: when there is no such version.
        IntegrityError: when a byte of it is not as stored.
        RegistryError: when the file is there, or can't be written; nothing is changed.
    """
    with _target_faults(target), whole_file(target, overwrite=overwrite) as file:
        made = write_export(registry, ref, file)
        on_step("written")
    on_step("exported")
    return made


def write_export(registry: Registry, ref: str | AdapterRef, file: BinaryIO) -> Export:
    """Write a version into an open file or pipe.

    Raises:
        NotFoundError: when there is no such version.
        IntegrityError: when a byte of it is not as stored.
        RegistryError: when it is larger than what an import accepts.
        OSError: when ``file`` can't be written.
    """
    version = registry.resolve(ref)
    folder = registry.materialize(version)
    manifest = (folder / MANIFEST_NAME).read_bytes()
    files = dict(Manifest.from_json(manifest).files)
    signatures = registry.signatures(version)
    document = document_of(version)
    count, size = 2 + len(files) + len(signatures), version.size + len(document)
    size += sum(len(each.content) for each in signatures)
    if size > MAX_BYTES or len(document) > MAX_DOCUMENT or count > MAX_FILES:
        raise RegistryError(
            f"is larger than what can be imported: {size} bytes in {count} files",
            place=str(version.ref),
        )
    counted = _Counted(file)
    # as a stream, so that a pipe will do
    stream: Any = counted
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT) as archive:
        _add(archive, EXPORT_NAME, document)
        _add(archive, f"{ARTIFACT_FOLDER}/{MANIFEST_NAME}", manifest)
        for name, entry in sorted(files.items()):
            with (folder / name).open("rb") as source:
                hashing = _Counted(source)
                archive.addfile(
                    _header(f"{ARTIFACT_FOLDER}/{name}", entry.size), cast("Any", hashing)
                )
            if hashing.digest.hexdigest() != entry.sha256:
                raise IntegrityError(f"{name} has changed meanwhile", place=str(version.ref))
        for each in signatures:
            _add(archive, f"{SIGNATURES_FOLDER}/{signature_name(each.key)}", each.content)
    keys = tuple(each.key for each in signatures)
    return Export(version, keys, counted.size, counted.digest.hexdigest())


class _Counted:
    """Counts and hashes what is written to a file, or read from it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0
        self.digest = sha256()

    def write(self, data: bytes) -> int:
        self._note(data)
        self._file.write(data)
        return len(data)

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._note(data)
        return data

    def _note(self, data: bytes) -> None:
        self.size += len(data)
        self.digest.update(data)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    archive.addfile(_header(name, len(content)), io.BytesIO(content))


def _header(name: str, size: int) -> tarfile.TarInfo:
    # owner and time stay 0 and empty, so that equal versions give equal bytes
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o644
    return info


@contextmanager
def _target_faults(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RegistryError(
            f"cannot be written: {error.strerror or error}",
            place=str(target),
            hint=_OS_HINTS.get(error.errno or 0, ""),
        ) from error
