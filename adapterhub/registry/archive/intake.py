"""Import of a version from an archive: every file is checked before it is stored."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import TYPE_CHECKING, BinaryIO

from adapterhub.adapters.manifest import MANIFEST_NAME, MAX_MANIFEST, Manifest, check_file_name
from adapterhub.adapters.peft_format import CONFIG_NAME
from adapterhub.adapters.strict_json import MAX_JSON
from adapterhub.errors import ArtifactError, NotFoundError, RefError, SignatureError
from adapterhub.refs import check_name
from adapterhub.registry.archive.document import (
    ARTIFACT_FOLDER,
    EXPORT_NAME,
    MAX_DOCUMENT,
    SIGNATURES_FOLDER,
    Document,
    read_document,
)
from adapterhub.registry.archive.members import MAX_BYTES, MAX_FILES, Member, read_members
from adapterhub.registry.failures import translate_os_errors
from adapterhub.registry.sigstore import (
    MAX_SIGNATURE,
    is_signature_name,
    parse_signature,
    signature_name,
)
from adapterhub.registry.storage import no_hook

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from adapterhub.registry.registry import Registry
    from adapterhub.registry.version import Version

#: Largest size of files in bytes by their names, where it is not that of an artifact.
_LIMITS = {MANIFEST_NAME: MAX_MANIFEST, EXPORT_NAME: MAX_DOCUMENT, CONFIG_NAME: MAX_JSON}
#: Staging folder of the files at the top of an archive.
_TOP = "top"


def import_version(
    registry: Registry,
    source: Path,
    *,
    name: str | None = None,
    on_step: Callable[[str], None] = no_hook,
) -> Version:
    """Store the version in a file, with its tags and signatures.

    Reads the files that ``export_version`` writes, and tar or zip files of an artifact folder.
    A version that the registry has already is returned.

    Args:
        registry: Registry to store the version in.
        source: Archive.
        name: Name in the registry instead of the exported one.
        on_step: Hook called with the name of every step that changes something on disk.

    Raises:
        ArtifactError: When the file is not an export, is cut off, contains a file that cannot
            belong to an artifact, or differs from its manifest; nothing is changed.
        RefError: When the name is malformed or missing; nothing is changed.
        SignatureError: When a signature is malformed or invalid; nothing is changed.
        RegistryError: When the registry cannot be written; nothing is changed.
    """
    try:
        # does not block on a pipe in place of a file
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            return read_export(registry, file, str(source), name=name, on_step=on_step)
    except FileNotFoundError as error:
        raise NotFoundError("there is no such file", place=str(source)) from error
    except OSError as error:
        raise ArtifactError(f"cannot be read: {error.strerror}", place=str(source)) from error


def read_export(
    registry: Registry,
    file: BinaryIO,
    place: str,
    *,
    name: str | None = None,
    on_step: Callable[[str], None] = no_hook,
) -> Version:
    """Store the version in an open file or pipe, see ``import_version``.

    Args:
        registry: Registry to store the version in.
        file: Archive at its beginning.
        place: Name of the archive in error messages.
        name: Name in the registry instead of the exported one.
        on_step: Hook called with the name of every step that changes something on disk.
    """
    if name is not None:
        check_name(name)
    with translate_os_errors(registry.folder), registry.staging() as staging:
        intake = _Intake(staging, place)
        for member in read_members(file, place):
            intake.add(member)
            on_step("read a file")
        document = intake.document()
        chosen = name or (document.name if document else None)
        if chosen is None:
            raise RefError("has no name", place=place, hint="Give one with --name")
        return registry.put(
            intake.artifact,
            chosen,
            info=document.info if document else {},
            tags=document.tags if document else (),
            signatures=intake.signatures(),
        )


class _Intake:
    """Writes the members of an archive to the staging folders of their kind."""

    def __init__(self, staging: Path, place: str) -> None:
        self.artifact = staging / ARTIFACT_FOLDER
        self._signatures = staging / SIGNATURES_FOLDER
        self._top = staging / _TOP
        self._staging = staging
        self._place = place
        self._count = 0
        self._left = MAX_BYTES
        for folder in (self.artifact, self._signatures, self._top):
            folder.mkdir()

    def add(self, member: Member) -> None:
        """Write one file after its name and size were checked."""
        folder, name = _location(member.name, self._place)
        path = self._staging / (folder or _TOP) / name
        if path.exists():
            raise ArtifactError(f"{member.name!r} occurs twice", place=self._place)
        self._count += 1
        if self._count > MAX_FILES:
            raise ArtifactError(f"has more than {MAX_FILES} files", place=self._place)
        limit = min(_limit(folder, name), self._left)
        if member.size > limit:
            raise self._too_large(member)
        written = 0
        with path.open("xb") as target:
            for chunk in member.chunks:
                written += len(chunk)
                if written > limit:
                    raise self._too_large(member)
                target.write(chunk)
        self._left -= written

    def document(self) -> Document | None:
        """Return the content of ``export.json`` if there is one, checked against the artifact."""
        top = {path.name for path in self._top.iterdir()}
        if not any(self.artifact.iterdir()):
            self._take_artifact_folder(top)
            return None
        if top - {EXPORT_NAME}:
            raise ArtifactError(f"{min(top)!r} does not belong to an export", place=self._place)
        if not top:
            return None
        document = read_document((self._top / EXPORT_NAME).read_bytes(), self._place)
        digest = f"sha256:{sha256(self._manifest()).hexdigest()}"
        if document.digest != digest:
            raise ArtifactError(
                f"{EXPORT_NAME} says {document.digest}, {MANIFEST_NAME} has {digest}",
                place=self._place,
                hint="The file was changed after it was exported",
            )
        return document

    def signatures(self) -> tuple[bytes, ...]:
        """Return the signatures, sorted by name."""
        contents = []
        for path in sorted(self._signatures.iterdir()):
            content = path.read_bytes()
            signature = parse_signature(content, f"{self._place}: {path.name}")
            if signature_name(signature.key) != path.name:
                raise SignatureError(
                    f"{path.name!r} is by the key {signature.key[:16]}…", place=self._place
                )
            contents.append(content)
        return tuple(contents)

    def _take_artifact_folder(self, top: set[str]) -> None:
        """Treat the files at the top as those of an artifact, except for signatures."""
        for name in top:
            (self._top / name).rename(self.artifact / name)
        listed = Manifest.from_json(self._manifest()).files
        for name in top:
            if is_signature_name(name) and name not in listed:
                (self.artifact / name).rename(self._signatures / name)

    def _manifest(self) -> bytes:
        try:
            return (self.artifact / MANIFEST_NAME).read_bytes()
        except FileNotFoundError as error:
            raise ArtifactError(
                f"has no {MANIFEST_NAME}",
                place=self._place,
                hint="It must contain an artifact; create it with adapterhub export",
            ) from error

    def _too_large(self, member: Member) -> ArtifactError:
        return ArtifactError(
            f"{member.name!r} is too large",
            place=self._place,
            hint=f"All files together may have {MAX_BYTES} bytes",
        )


def _location(path: str, place: str) -> tuple[str, str]:
    """Return the folder, empty for the top, and the name of a file in an archive."""
    folder, _, name = path.rpartition("/")
    if folder == SIGNATURES_FOLDER and is_signature_name(name):
        return folder, name
    if folder not in ("", ARTIFACT_FOLDER) or path != (f"{folder}/{name}" if folder else name):
        raise ArtifactError(f"{path!r} does not belong to an export", place=place)
    if name != MANIFEST_NAME:
        check_file_name(name, place)
    return folder, name


def _limit(folder: str, name: str) -> int:
    if folder == SIGNATURES_FOLDER:
        return MAX_SIGNATURE
    return _LIMITS.get(name, MAX_BYTES)
