"""Export of a version to a single file.

An export is an uncompressed tar file with ``export.json``, the files of the artifact in
``artifact/`` and its signatures in ``signatures/``. Equal versions give equal bytes.
"""

from __future__ import annotations

import errno
import io
import tarfile
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from adapterhub.adapters.local_paths import require_portable
from adapterhub.adapters.manifest import MANIFEST_NAME, Manifest
from adapterhub.errors import IntegrityError, RegistryError
from adapterhub.registry.archive.atomic_file import atomic_file
from adapterhub.registry.archive.document import (
    ARTIFACT_FOLDER,
    EXPORT_NAME,
    MAX_DOCUMENT,
    SIGNATURES_FOLDER,
    document_of,
)
from adapterhub.registry.archive.members import MAX_BYTES, MAX_FILES
from adapterhub.registry.sigstore import signature_name
from adapterhub.registry.storage import no_hook

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


@dataclass(frozen=True, slots=True)
class Export:
    """Result of an export.

    Args:
        version: Exported version.
        signatures: Keys of the exported signatures.
        size: Size of the file in bytes.
        sha256: Digest of the file in hex, to be compared at its destination.
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
    on_step: Callable[[str], None] = no_hook,
) -> Export:
    """Write a version to a file atomically.

    Args:
        registry: Registry that has the version.
        ref: Reference of the version.
        target: Path of the file, in an existing folder.
        overwrite: Whether to replace an existing file.
        on_step: Hook called with the name of every step that changes something on disk.

    Raises:
        NotFoundError: When there is no such version.
        ArtifactError: When a file of the version names a local path.
        IntegrityError: When a stored file is damaged.
        RegistryError: When the file exists or cannot be written; nothing is changed.
    """
    with _target_faults(target), atomic_file(target, overwrite=overwrite) as file:
        made = write_export(registry, ref, file)
        on_step("written")
    on_step("exported")
    return made


def write_export(registry: Registry, ref: str | AdapterRef, file: BinaryIO) -> Export:
    """Write a version to an open file or pipe.

    Raises:
        NotFoundError: When there is no such version.
        ArtifactError: When a file of the version names a local path.
        IntegrityError: When a stored file is damaged.
        RegistryError: When the version is larger than an import accepts.
        OSError: When ``file`` cannot be written.
    """
    version = registry.resolve(ref)
    folder = registry.materialize(version)
    require_portable(folder, str(version.ref))
    manifest = (folder / MANIFEST_NAME).read_bytes()
    files = dict(Manifest.from_json(manifest).files)
    signatures = registry.signatures(version)
    document = document_of(version)
    count, size = 2 + len(files) + len(signatures), version.size + len(document)
    size += sum(len(each.content) for each in signatures)
    if size > MAX_BYTES or len(document) > MAX_DOCUMENT or count > MAX_FILES:
        raise RegistryError(
            f"is too large to be imported: {size} bytes in {count} files",
            place=str(version.ref),
        )
    counted = _Counted(file)
    # written as a stream, so that the file can be a pipe
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
                raise IntegrityError(f"{name} changed during the export", place=str(version.ref))
        for each in signatures:
            _add(archive, f"{SIGNATURES_FOLDER}/{signature_name(each.key)}", each.content)
    keys = tuple(each.key for each in signatures)
    return Export(version, keys, counted.size, counted.digest.hexdigest())


class _Counted:
    """File that counts and hashes the bytes written to it or read from it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0
        self.digest = sha256()

    def write(self, data: bytes) -> int:
        self._update(data)
        self._file.write(data)
        return len(data)

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._update(data)
        return data

    def _update(self, data: bytes) -> None:
        self.size += len(data)
        self.digest.update(data)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    archive.addfile(_header(name, len(content)), io.BytesIO(content))


def _header(name: str, size: int) -> tarfile.TarInfo:
    # owner and time keep their defaults, so that equal versions give equal bytes
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
