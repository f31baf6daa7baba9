"""A version as one file, to be carried where no network leads, and back into a registry.

An export is an uncompressed tar file with ``export.json``, the artifact's files under
``artifact/`` and its signatures under ``signatures/``; equal versions give equal bytes.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import secrets
import tarfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from adapterhub import strict_json as strict
from adapterhub.errors import (
    ArtifactError,
    IntegrityError,
    NotFoundError,
    RefError,
    RegistryError,
    SignatureError,
)
from adapterhub.manifest import MANIFEST_NAME, Manifest, check_file_name
from adapterhub.refs import check_name, check_tag
from adapterhub.registry.archive_reading import MAX_BYTES, MAX_FILES, Entry, read_archive
from adapterhub.registry.faults import os_faults
from adapterhub.registry.intake import MAX_MANIFEST
from adapterhub.registry.layout import sync_folder
from adapterhub.registry.signature_file import (
    MAX_SIGNATURE,
    is_signature_name,
    parse_signature,
    signature_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from adapterhub.refs import AdapterRef
    from adapterhub.registry.registry import Registry
    from adapterhub.registry.version import Version

EXPORT_NAME = "export.json"
FORMAT = 1
#: Largest ``export.json``, in bytes.
MAX_DOCUMENT = 1024 * 1024

_ARTIFACT = "artifact"
_SIGNATURES = "signatures"
#: Deepest nesting of what is kept beside a version.
_MAX_DEPTH = 32
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    """``export.json``."""

    format: int
    name: str
    version: int
    digest: str
    created: str
    tags: tuple[str, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)


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
    with _target_faults(target):
        if not overwrite and os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        partial = target.parent / f".{secrets.token_hex(8)}.partial"
        try:
            with partial.open("xb") as file:
                made = write_export(registry, ref, file)
                on_step("written")
                file.flush()
                os.fsync(file.fileno())
            _move(partial, target, overwrite=overwrite)
            sync_folder(target.parent)
        finally:
            partial.unlink(missing_ok=True)
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
    document = _dump(version)
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
        _add(archive, f"{_ARTIFACT}/{MANIFEST_NAME}", manifest)
        for name, entry in sorted(files.items()):
            with (folder / name).open("rb") as source:
                hashing = _Counted(source)
                archive.addfile(_header(f"{_ARTIFACT}/{name}", entry.size), cast("Any", hashing))
            if hashing.digest.hexdigest() != entry.sha256:
                raise IntegrityError(f"{name} has changed meanwhile", place=str(version.ref))
        for each in signatures:
            _add(archive, f"{_SIGNATURES}/{signature_name(each.key)}", each.content)
    keys = tuple(each.key for each in signatures)
    return Export(version, keys, counted.size, counted.digest.hexdigest())


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
        self.artifact = staging / _ARTIFACT
        self._staging = staging
        self._place = place
        self._names: set[tuple[str, str]] = set()
        self._left = MAX_BYTES
        for folder in ("", _ARTIFACT, _SIGNATURES):
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

    def document(self) -> _Document | None:
        """Return ``export.json`` where there is one, agreeing with what is beside it."""
        top = {name for folder, name in self._names if not folder}
        if not any(folder == _ARTIFACT for folder, _ in self._names):
            self._take_bare(top)
            return None
        if top - {EXPORT_NAME}:
            raise ArtifactError(f"{min(top)!r} is no file of an export", place=self._place)
        if not top:
            return None
        document = _read_document((self._staging / "top" / EXPORT_NAME).read_bytes(), self._place)
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
        for path in sorted((self._staging / _SIGNATURES).iterdir()):
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
                (self.artifact / name).rename(self._staging / _SIGNATURES / name)

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
    if folder == _SIGNATURES and is_signature_name(name):
        return folder, name
    if (slash and folder != _ARTIFACT) or not name:
        raise ArtifactError(f"{path!r} is no file of an export", place=place)
    if name != MANIFEST_NAME:
        check_file_name(name, place)
    return folder, name


def _limit(folder: str, name: str) -> int:
    if folder == _SIGNATURES:
        return MAX_SIGNATURE
    return MAX_MANIFEST if name == MANIFEST_NAME else MAX_BYTES


def _dump(version: Version) -> bytes:
    document = {
        "format": FORMAT,
        "name": version.name,
        "version": version.version,
        "digest": version.digest,
        "created": version.created,
        "tags": list(version.tags),
        "info": dict(version.info),
    }
    return (json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False) + "\n").encode()


def _read_document(content: bytes, place: str) -> _Document:
    place = f"{place}: {EXPORT_NAME}"
    if len(content) > MAX_DOCUMENT:
        raise ArtifactError(f"is larger than {MAX_DOCUMENT} bytes", place=place)
    found = strict.parse_object(content, place)
    if found.get("format") != FORMAT:
        raise ArtifactError(
            f"has the format {found.get('format')!r}, this adapterhub reads {FORMAT}",
            place=place,
            hint="Upgrade adapterhub to import it",
        )
    document = _DOCUMENT(found, place)
    check_name(document.name)
    for tag in document.tags:
        check_tag(tag)
    for tag, count in Counter(document.tags).items():
        if count > 1:
            raise ArtifactError(f"has the tag {tag!r} twice", place=place)
    return document


def _shallow(value: Any, place: str) -> dict[str, Any]:
    """Read an object that is not nested so deep that it can't be shown."""
    level: list[Any] = [strict.mapping(value, place)]
    for _ in range(_MAX_DEPTH):
        inner = [x.values() if isinstance(x, dict) else x for x in level]
        level = [x for items in inner for x in items if isinstance(x, dict | list)]
    if level:
        raise ArtifactError(f"is nested deeper than {_MAX_DEPTH}", place=place)
    return dict(value)


_DOCUMENT = strict.record(
    _Document,
    {
        "format": strict.count,
        "name": strict.text,
        "version": strict.count,
        "digest": strict.matching(
            re.compile(r"sha256:[0-9a-f]{64}"), "'sha256:' and 64 hex digits"
        ),
        "created": strict.text,
        "tags": strict.texts,
        "info": _shallow,
    },
)


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
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
        partial.rename(target)


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
