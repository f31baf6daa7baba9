"""The local registry: versions of adapters, stored once, found by reference.

What is on disk is right at every moment: blobs are moved to their places and versions
committed while the index's write lock is held, blobs first. A process killed anywhere leaves
at most files that nothing refers to, which ``collect`` deletes.
"""

from __future__ import annotations

import json
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from adapterhub.errors import IntegrityError, NotFoundError, RegistryError
from adapterhub.refs import AdapterRef, check_name, parse_ref
from adapterhub.registry import index
from adapterhub.registry.blobs import Blobs
from adapterhub.registry.checkouts import Checkouts
from adapterhub.registry.database import Database
from adapterhub.registry.faults import os_faults
from adapterhub.registry.intake import StagedArtifact, stage_artifact
from adapterhub.registry.layout import Layout, default_root
from adapterhub.registry.verify import find_problems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from adapterhub.registry.version import Problem, Version

_LOG = logging.getLogger(__name__)


def _no_hook(_step: str) -> None:
    """Do nothing."""


class Registry:
    """A registry in a folder; any number of processes and threads may use it at once.

    Args:
        root: the home folder, in which the registry has its own; ``$ADAPTERHUB_HOME`` or the
            user's data folder where not given. Made where it is missing.
        on_step: called with the name of every step that changes something on disk.

    Raises:
        RegistryError: when the folder can't be made, read or written.
    """

    def __init__(
        self, root: Path | None = None, *, on_step: Callable[[str], None] = _no_hook
    ) -> None:
        home = root if root is not None else default_root()
        self._layout = Layout(home.absolute() / "registry")
        self._database = Database(self._layout.index)
        self._blobs = Blobs(self._layout)
        self._checkouts = Checkouts(self._layout, self._blobs)
        self._on_step = on_step
        self._layout.make()
        self._database.prepare()

    @property
    def folder(self) -> Path:
        """The registry's own folder."""
        return self._layout.folder

    def put(self, folder: Path, name: str, *, info: Mapping[str, Any] | None = None) -> Version:
        """Store an artifact folder as the next version of ``name``.

        Where ``name`` has a version with the same digest, that one is returned, with its own
        ``info``; damaged blobs of it are restored.

        Args:
            folder: the artifact, left as it is.
            name: ``part`` or ``owner/part``.
            info: JSON values kept beside the version, such as training seconds.

        Raises:
            RefError: when the name is malformed.
            ArtifactError: when the folder is not what its manifest says; nothing is changed.
            RegistryError: when the registry can't be written; nothing is changed.
        """
        check_name(name)
        info_text = _info_text(info or {}, name)
        self._layout.sweep_staging()
        with self._changing() as staging:
            staged = stage_artifact(folder, staging, self._on_step)
            try:
                return self._commit(staged, name, info_text)
            except BaseException:
                self._sweep_after_failure(staged)
                raise

    def resolve(self, ref: str | AdapterRef) -> Version:
        """Return the version that a reference names; without ``@`` the latest.

        Raises:
            RefError: when the text is no reference.
            NotFoundError: with near names, or the versions that there are.
            RegistryError: when a shortened digest fits several versions.
        """
        with self._database.reading() as db:
            return index.resolve(db, _to_ref(ref))

    def materialize(self, version: Version) -> Path:
        """Return a read-only folder with the files of a version, every byte checked now.

        Raises:
            NotFoundError: when the version was removed meanwhile.
            IntegrityError: naming the file whose bytes are not those that were stored.
        """
        with os_faults(self.folder):
            if self._checkouts.fault(version.digest) is not None:
                self._check_out(version)
        return self._checkouts.path(version.digest)

    def list(
        self, prefix: str | None = None, *, task: str | None = None, backbone: str | None = None
    ) -> tuple[Version, ...]:
        """Return the versions that fit every filter given, by name and then number.

        Args:
            prefix: what the name begins with.
            task: name of the task.
            backbone: name of the backbone.
        """
        with self._database.reading() as db:
            return index.find(db, prefix=prefix, task=task, backbone=backbone)

    def versions(self, name: str) -> tuple[Version, ...]:
        """Return the versions of one name, the oldest first; none where it is unknown."""
        check_name(name)
        with self._database.reading() as db:
            return index.versions_of(db, name)

    def remove(self, ref: str | AdapterRef) -> Version:
        """Remove the version that a reference names, and the blobs that only it used.

        Its number is not given again.

        Raises:
            RefError: when the text is no reference.
            NotFoundError: with near names, or the versions that there are.
        """
        wanted = _to_ref(ref)
        with os_faults(self.folder):
            with self._database.writing() as db:
                version = index.resolve(db, wanted)
                blobs = index.delete(db, version)
                self._on_step("unlisted")
            self._on_step("removed")
            self._sweep(blobs, [version.digest])
        return version

    def verify(self) -> tuple[Problem, ...]:
        """Read every byte that is stored and return what is damaged or missing."""
        with os_faults(self.folder):
            return find_problems(self._database, self._blobs)

    def collect(self) -> int:
        """Delete what killed processes left and nothing refers to; return the bytes freed."""
        self._layout.sweep_staging()
        with os_faults(self.folder):
            return self._sweep(list(self._blobs.all()), self._checkouts.all())

    def _commit(self, staged: StagedArtifact, name: str, info: str) -> Version:
        with self._database.writing() as db:
            self._on_step("locked")
            for file, entry in staged.files.items():
                self._blobs.place(staged.folder / file, entry.sha256)
                self._on_step(f"placed {file}")
            version = index.registered(db, name, staged.digest)
            if version is None:
                version = index.add(db, name, staged, info)
            self._on_step("listed")
        self._on_step("committed")
        return version

    def _check_out(self, version: Version) -> None:
        # under the lock no blob is removed meanwhile, and nobody else builds or drops the same
        with self._changing() as staging, self._database.writing() as db:
            if not index.has_artifact(db, version.digest):
                raise NotFoundError("the registry no longer holds it", place=str(version.ref))
            if not self._checkouts.path(version.digest).is_dir():
                self._checkouts.build(version.digest, staging)
                self._on_step("checked out")
            fault = self._checkouts.fault(version.digest)
            if fault is not None:
                # the next call builds it anew, from blobs that may have been restored
                self._checkouts.drop(version.digest, staging)
                raise _damaged(version, *fault)

    def _sweep_after_failure(self, staged: StagedArtifact) -> None:
        # what was committed after all is in use and spared
        try:
            self._sweep([entry.sha256 for entry in staged.files.values()], ())
        except RegistryError as error:
            _LOG.warning("blobs of a failed put are left for collect(): %s", error)

    def _sweep(self, blobs: Iterable[str], checkouts: Iterable[str]) -> int:
        """Delete those of the blobs and checkouts that no version refers to."""
        freed = 0
        with self._changing() as staging, self._database.writing() as db:
            for digest in checkouts:
                if not index.has_artifact(db, digest):
                    self._checkouts.drop(digest, staging)
                    self._on_step("dropped checkout")
            for sha256 in blobs:
                if not index.uses_blob(db, sha256):
                    freed += self._blobs.delete(sha256)
                    self._on_step("deleted blob")
        return freed

    @contextmanager
    def _changing(self) -> Iterator[Path]:
        with os_faults(self.folder), self._layout.staged() as staging:
            yield staging


def _to_ref(ref: str | AdapterRef) -> AdapterRef:
    return ref if isinstance(ref, AdapterRef) else parse_ref(ref)


def _info_text(info: Mapping[str, Any], name: str) -> str:
    try:
        return json.dumps(dict(info), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RegistryError(f"info must be plain JSON: {error}", place=name) from error


def _damaged(version: Version, file: str, problem: str) -> IntegrityError:
    return IntegrityError(
        f"{file} {problem}",
        place=str(version.ref),
        hint="It is not served. Put the same artifact again to restore it",
    )
