"""A version out of one file: what an export holds, checked and put into a registry."""

from __future__ import annotations

import os
import re
from hashlib import sha256
from typing import TYPE_CHECKING, BinaryIO

from adapterhub.adapters.manifest import MANIFEST_NAME, Manifest, check_file_name
from adapterhub.errors import ArtifactError, NotFoundError, RefError, SignatureError
from adapterhub.refs import check_name
from adapterhub.registry.archive_reading import MAX_BYTES, MAX_FILES, Entry, read_archive
from adapterhub.registry.export_document import (
    ARTIFACT_FOLDER,
    EXPORT_NAME,
    SIGNATURES_FOLDER,
    Document,
    read_document,
)
from adapterhub.registry.faults import os_faults
from adapterhub.registry.intake import MAX_MANIFEST
from adapterhub.registry.signature_file import (
    MAX_SIGNATURE,
    is_signature_name,
    parse_signature,
    signature_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from adapterhub.registry.registry import Registry
    from adapterhub.registry.version import Version


def _no_hook(_step: str) -> None:
    """Do nothing."""


def import_version(
    registry: Registry,
    source: Path,
    *,
    name: str | None = None,
    on_step: Callable[[str], None] = _no_hook,
) -> Version:
    """Store the version that a file holds, with its tags and signatures.

    Reads what ``export_version`` wrote, and a tar or zip file of an artifact's folder. A version
    that is there already is returned.

    Args:
        registry: to store it in.
        source: the file.
        name: instead of the name that it was exported under.
        on_step: called with the name of every step that changes something on disk.

    Raises:
        ArtifactError: when the file is no export, is cut off, holds what may be no part of an
            artifact, or is not what its manifest says; nothing is changed.
        RefError: when the name is malformed or missing; nothing is changed.
        SignatureError: when a signature can be none, or does not hold; nothing is changed.
        RegistryError: when the registry can't be written; nothing is changed.
    """
    try:
        # a pipe in place of a file is not waited on
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
    on_step: Callable[[str], None] = _no_hook,
) -> Version:
    """Store the version that an open file or pipe holds; see ``import_version``.

    Args:
        registry: to store it in.
        file: at its beginning.
        place: what errors call it.
        name: instead of the name that it was exported under.
        on_step: called with the name of every step that changes something on disk.
    """
    if name is not None:
        check_name(name)
    with os_faults(registry.folder), registry.staging() as staging:
        intake = _Intake(staging, place)
        for entry in read_archive(file, place):
            intake.take(entry)
            on_step("read a file")
        document = intake.document()
        chosen = name or (document.name if document else None)
        if chosen is None:
            raise RefError("does not say its name", place=place, hint="Give one with --name")
        return registry.put(
            intake.artifact,
            chosen,
            info=document.info if document else {},
            tags=document.tags if document else (),
            signatures=intake.signatures(),
        )


class _Intake:
    """Puts the files of an archive into a folder, each where it belongs, and checks them."""

    def __init__(self, staging: Path, place: str) -> None:
        self.artifact = staging / ARTIFACT_FOLDER
        self._staging = staging
        self._place = place
        self._names: set[tuple[str, str]] = set()
        self._left = MAX_BYTES
        for folder in ("", ARTIFACT_FOLDER, SIGNATURES_FOLDER):
            (staging / (folder or "top")).mkdir()

    def take(self, entry: Entry) -> None:
        """Write one file; its name and size are checked before."""
        folder, name = _belongs(entry.name, self._place)
        if (folder, name) in self._names:
            raise ArtifactError(f"{entry.name!r} is there twice", place=self._place)
        self._names.add((folder, name))
        if len(self._names) > MAX_FILES:
            raise ArtifactError(f"has more than {MAX_FILES} files", place=self._place)
        limit = min(_limit(folder, name), self._left)
        if entry.size > limit:
            raise self._too_large(entry)
        written = 0
        with (self._staging / (folder or "top") / name).open("xb") as target:
            for chunk in entry.chunks:
                written += len(chunk)
                if written > limit:
                    raise self._too_large(entry)
                target.write(chunk)
        self._left -= written

    def document(self) -> Document | None:
        """Return ``export.json`` where there is one, agreeing with what is beside it."""
        top = {name for folder, name in self._names if not folder}
        if not any(folder == ARTIFACT_FOLDER for folder, _ in self._names):
            self._take_bare(top)
            return None
        if top - {EXPORT_NAME}:
            raise ArtifactError(f"{min(top)!r} is no file of an export", place=self._place)
        if not top:
            return None
        document = read_document((self._staging / "top" / EXPORT_NAME).read_bytes(), self._place)
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
        for path in sorted((self._staging / SIGNATURES_FOLDER).iterdir()):
            content = path.read_bytes()
            signature = parse_signature(content, f"{self._place}: {path.name}")
            if signature_name(signature.key) != path.name:
                raise SignatureError(
                    f"{path.name!r} is by the key {signature.key[:16]}…", place=self._place
                )
            contents.append(content)
        return tuple(contents)

    def _take_bare(self, top: set[str]) -> None:
        """Take files at the top for an artifact's, signatures beside them apart."""
        for name in top:
            (self._staging / "top" / name).rename(self.artifact / name)
        listed = Manifest.from_json(self._manifest()).files
        for name in top:
            if is_signature_name(name) and name not in listed:
                (self.artifact / name).rename(self._staging / SIGNATURES_FOLDER / name)

    def _manifest(self) -> bytes:
        try:
            return (self.artifact / MANIFEST_NAME).read_bytes()
        except FileNotFoundError as error:
            raise ArtifactError(
                f"has no {MANIFEST_NAME}",
                place=self._place,
                hint="It must hold an artifact; make it with adapterhub export",
            ) from error

    def _too_large(self, entry: Entry) -> ArtifactError:
        return ArtifactError(
            f"{entry.name!r} is larger than what is read",
            place=self._place,
            hint=f"All files together may have {MAX_BYTES} bytes",
        )


def _belongs(path: str, place: str) -> tuple[str, str]:
    """Return the folder, empty for the top, and the name of a file in an archive."""
    if re.search(r"[\x00-\x1f\x7f]", path):
        raise ArtifactError(f"{path!r} holds a control character", place=place)
    if path.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", path):
        raise ArtifactError(f"{path!r} is an absolute path", place=place)
    if ".." in re.split(r"[/\\]", path):
        raise ArtifactError(f"{path!r} leaves its folder", place=place)
    folder, slash, name = path.rpartition("/")
    if folder == SIGNATURES_FOLDER and is_signature_name(name):
        return folder, name
    if (slash and folder != ARTIFACT_FOLDER) or not name:
        raise ArtifactError(f"{path!r} is no file of an export", place=place)
    if name != MANIFEST_NAME:
        check_file_name(name, place)
    return folder, name


def _limit(folder: str, name: str) -> int:
    if folder == SIGNATURES_FOLDER:
        return MAX_SIGNATURE
    return MAX_MANIFEST if name == MANIFEST_NAME else MAX_BYTES
