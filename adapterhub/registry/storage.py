"""Changes of blobs, checkouts and index together.

Blobs are placed before the versions that use them are committed, both under the write lock of the
index. A killed process leaves at most unused files, which ``collect`` deletes.
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from adapterhub.adapters.admission import check_loadable
from adapterhub.adapters.manifest import MANIFEST_NAME, Manifest
from adapterhub.errors import ArtifactError, IntegrityError, NotFoundError, RegistryError
from adapterhub.registry import index, signatures
from adapterhub.registry.blobs import Checkouts, Fault, file_fault, write_durable
from adapterhub.registry.failures import translate_os_errors
from adapterhub.registry.signatures import StoredSignature
from adapterhub.registry.sigstore import signature_name
from adapterhub.registry.staging import StagedArtifact, stage_artifact
from adapterhub.registry.version import Problem

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from adapterhub.refs import AdapterRef
    from adapterhub.registry.blobs import Blobs
    from adapterhub.registry.journaled_index import JournaledIndex
    from adapterhub.registry.layout import Layout
    from adapterhub.registry.sigstore import Signature
    from adapterhub.registry.version import Version

_LOG = logging.getLogger(__name__)


def no_hook(_step: str) -> None:
    """Do nothing at a step."""


class Storage:
    """The files of one registry; see ``Registry`` for the errors that its methods raise."""

    def __init__(
        self, layout: Layout, database: JournaledIndex, blobs: Blobs, on_step: Callable[[str], None]
    ) -> None:
        self._layout = layout
        self._database = database
        self._blobs = blobs
        self._checkouts = Checkouts(layout, blobs)
        self._on_step = on_step

    def put(
        self,
        folder: Path,
        name: str,
        info: str,
        tags: tuple[str, ...],
        check: Callable[[Path], tuple[Signature, ...]],
    ) -> Version:
        """Store an artifact folder as the next version of ``name``, unless it exists already.

        Args:
            folder: Artifact folder; it is not changed.
            name: Well-formed name of the adapter.
            info: JSON text of the metadata.
            tags: Tags of the version.
            check: Function from the folder of the copy to the signatures to store; it raises
                if one is invalid.
        """
        self._layout.sweep_staging()
        with self._staging() as staging:
            staged = stage_artifact(folder, staging, self._on_step)
            check_loadable(staging, staged.manifest, str(folder))
            parts = tuple(self._stage_signature(each, staging) for each in check(staging))
            with self._changing() as change:
                self._on_step("locked")
                version = self._list(change, staged, name, info)
                for part in parts:
                    self._list_signature(change, version.digest, part)
                if tags:
                    version = index.change_tags(change.db, version, add=tags, remove=())
                    self._on_step("tagged")
        self._on_step("committed")
        return version

    def add_signature(self, ref: AdapterRef, signature: Signature) -> None:
        """Store a signature of the version of a reference."""
        self._layout.sweep_staging()
        with self._staging() as staging:
            part = self._stage_signature(signature, staging)
            with self._changing() as change:
                self._list_signature(change, index.resolve(change.db, ref).digest, part)
        self._on_step("committed signature")

    def materialize(self, version: Version) -> Path:
        """Return a read-only folder with the files of a version, after checking every byte."""
        with translate_os_errors(self._layout.folder):
            if self._checkouts.fault(version.digest) is not None:
                self._check_out(version)
            self._checkouts.touch(version.digest)
        return self._checkouts.path(version.digest)

    def collect(self, grace: float, in_use: Callable[[str], bool]) -> int:
        """Delete files that no version uses and return the freed bytes."""
        self._layout.sweep_staging()
        oldest = time.time() - grace
        with self._staging() as staging, self._database.writing() as db:
            for digest in self._checkouts.all():
                if not index.has_artifact(db, digest) and self._checkouts.used(digest) < oldest:
                    self._checkouts.drop(digest, staging)
                    self._on_step("dropped checkout")
            return sum(
                self._delete_blob(db, blob)
                for blob in list(self._blobs.all())
                if self._blob_age(db, blob) < oldest and not in_use(blob)
            )

    @contextmanager
    def _staging(self) -> Iterator[Path]:
        with translate_os_errors(self._layout.folder), self._layout.staged() as staging:
            yield staging

    @contextmanager
    def _changing(self) -> Iterator[_Change]:
        """Take the write lock; if the block fails, delete the blobs that it added."""
        new: set[str] = set()
        try:
            with self._database.writing() as db:
                yield _Change(db, new)
        except BaseException:
            self._sweep_after_failure(new)
            raise

    def _list(self, change: _Change, staged: StagedArtifact, name: str, info: str) -> Version:
        for file, entry in staged.files.items():
            self._place(change, staged.folder / file, entry.sha256)
            self._on_step(f"placed {file}")
        version = index.registered(change.db, name, staged.digest)
        if version is None:
            version = index.add(change.db, name, staged, info)
        self._on_step("listed")
        return version

    def _stage_signature(self, signature: Signature, staging: Path) -> _StagedSignature:
        # not a valid name of an artifact file, so it cannot collide with one
        path = staging / f".{signature.key}"
        blob = write_durable(path, iter((signature.content,)))
        self._on_step("staged signature")
        stored = StoredSignature(signature.key, blob, len(signature.content))
        return _StagedSignature(path, stored)

    def _list_signature(self, change: _Change, digest: str, part: _StagedSignature) -> None:
        self._place(change, part.path, part.stored.sha256)
        self._on_step("placed signature")
        signatures.add_signature(change.db, digest, part.stored)
        self._on_step("listed signature")

    def _place(self, change: _Change, staged: Path, blob: str) -> None:
        if not self._blobs.path(blob).exists():
            change.new.add(blob)
        self._blobs.place(staged, blob)

    def _check_out(self, version: Version) -> None:
        # the lock keeps other processes from removing blobs, and from building or dropping this
        with self._staging() as staging, self._database.writing() as db:
            if not index.has_artifact(db, version.digest):
                raise NotFoundError("the registry does not have it now", place=str(version.ref))
            if not self._checkouts.path(version.digest).is_dir():
                self._checkouts.build(version.digest, staging)
                self._on_step("checked out")
            fault = self._checkouts.fault(version.digest)
            if fault is not None:
                # the next call builds it again, from blobs that may have been repaired
                self._checkouts.drop(version.digest, staging)
                raise _damaged(version, *fault)

    def _sweep_after_failure(self, new: Iterable[str]) -> None:
        # blobs that were committed nevertheless are in use and kept
        try:
            with translate_os_errors(self._layout.folder), self._database.writing() as db:
                for blob in new:
                    if not index.uses_blob(db, blob):
                        self._delete_blob(db, blob)
        except RegistryError as error:
            _LOG.warning("blobs of a failed put are left to collect(): %s", error)

    def _delete_blob(self, db: sqlite3.Connection, blob: str) -> int:
        freed = self._blobs.delete(blob)
        index.forget_removed(db, blob)
        self._on_step("deleted blob")
        return freed

    def _blob_age(self, db: sqlite3.Connection, blob: str) -> float:
        """Return the time since when a blob is unused; infinity if a version uses it."""
        if index.uses_blob(db, blob):
            return math.inf
        removed = index.removed_at(db, blob)
        return self._blobs.written(blob) if removed is None else removed


class _Change(NamedTuple):
    """A connection with the write lock, and the new blobs of the change."""

    db: sqlite3.Connection
    new: set[str]


class _StagedSignature(NamedTuple):
    """A signature in a staging folder."""

    path: Path
    stored: StoredSignature


def _damaged(version: Version, file: str, problem: str) -> IntegrityError:
    return IntegrityError(
        f"{file} {problem}",
        place=str(version.ref),
        hint="It is not loaded. Put the same artifact again to restore it",
    )


def find_problems(database: JournaledIndex, blobs: Blobs) -> tuple[Problem, ...]:
    """Return the damage of the index or, if it is intact, of the files of every version.

    Signatures are included; versions that are removed during the check are left out.
    """
    damage = database.damage()
    if damage:
        return tuple(Problem((), database.path.name, text) for text in damage)
    with database.reading() as db:
        owners = index.artifacts(db)
        signed = {digest: signatures.signatures_of(db, digest) for digest in owners}
    problems: list[Problem] = []
    # each blob is read once, although artifacts share them
    checked: dict[str, str] = {}
    for digest, refs in owners.items():
        found = [Problem(refs, *fault) for fault in _artifact_faults(digest, blobs, checked)]
        if found and _still_there(database, digest):
            problems += found
        for stored in signed[digest]:
            problem = file_fault(blobs.path(stored.sha256), stored.sha256)
            if problem and _still_signed(database, digest, stored):
                problems.append(Problem(refs, signature_name(stored.key), problem))
    return tuple(problems)


def _artifact_faults(digest: str, blobs: Blobs, checked: dict[str, str]) -> Iterator[Fault]:
    manifest = blobs.path(digest.removeprefix("sha256:"))
    if problem := file_fault(manifest, manifest.name):
        yield Fault(MANIFEST_NAME, problem)
        return
    try:
        files = Manifest.from_json(manifest.read_bytes()).files
    except FileNotFoundError:
        yield Fault(MANIFEST_NAME, "is missing")
        return
    except ArtifactError as error:
        yield Fault(MANIFEST_NAME, f"cannot be parsed: {error}")
        return
    for name, entry in files.items():
        if entry.sha256 not in checked:
            checked[entry.sha256] = file_fault(blobs.path(entry.sha256), entry.sha256)
        if checked[entry.sha256]:
            yield Fault(name, checked[entry.sha256])


def _still_there(database: JournaledIndex, digest: str) -> bool:
    with database.reading() as db:
        return index.has_artifact(db, digest)


def _still_signed(database: JournaledIndex, digest: str, stored: StoredSignature) -> bool:
    with database.reading() as db:
        return stored in signatures.signatures_of(db, digest)
