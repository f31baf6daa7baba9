"""The local registry: versions of adapters, stored once, found by reference.

What is on disk is right at every moment: blobs are moved to their places and versions
committed while the index's write lock is held, blobs first. A process killed anywhere leaves
at most files that nothing refers to, which ``collect`` deletes.
"""

from __future__ import annotations

import json
import logging
import math
import time
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from adapterhub.errors import IntegrityError, NotFoundError, RegistryError, SignatureError
from adapterhub.refs import AdapterRef, check_name, parse_ref
from adapterhub.registry import aliases, index, rules, signatures, trust
from adapterhub.registry.blobs import Blobs, write_durable
from adapterhub.registry.checkouts import Checkouts
from adapterhub.registry.database import Database
from adapterhub.registry.faults import os_faults
from adapterhub.registry.intake import StagedArtifact, stage_artifact
from adapterhub.registry.layout import Layout, default_root
from adapterhub.registry.query import Query, find
from adapterhub.registry.signature_file import Signature, parse_signature, signature_name
from adapterhub.registry.signatures import StoredSignature
from adapterhub.registry.signing import check_signature, read_public_key
from adapterhub.registry.verify import find_problems

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from adapterhub.registry.aliases import AliasMove
    from adapterhub.registry.rules import AliasRule, StoredEvaluation
    from adapterhub.registry.trust import TrustedKey
    from adapterhub.registry.version import Problem, Version

_LOG = logging.getLogger(__name__)
#: Seconds that ``collect`` leaves files alone for, where not told otherwise.
GRACE_SECONDS = 24 * 3600.0


def _no_hook(_step: str) -> None:
    """Do nothing."""


def _spare_none(_blob: str) -> bool:
    return False


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

    def put(
        self,
        folder: Path,
        name: str,
        *,
        info: Mapping[str, Any] | None = None,
        tags: Iterable[str] = (),
        signatures: Iterable[bytes] = (),
    ) -> Version:
        """Store an artifact folder as the next version of ``name``.

        Where ``name`` has a version with the same digest, that one is returned, with its own
        ``info``; damaged blobs of it are restored, tags and signatures added.

        Args:
            folder: the artifact, left as it is.
            name: ``part`` or ``owner/part``.
            info: JSON values kept beside the version, such as training seconds.
            tags: words to find it by.
            signatures: to keep beside it, see ``add_signature``.

        Raises:
            RefError: when the name or a tag is malformed.
            ArtifactError: when the folder is not what its manifest says; nothing is changed.
            SignatureError: when a signature can be none, or does not hold; nothing is changed.
            RegistryError: when the registry can't be written; nothing is changed.
        """
        check_name(name)
        info_text = _info_text(info or {}, name)
        self._layout.sweep_staging()
        with self._changing() as staging:
            staged = stage_artifact(folder, staging, self._on_step)
            signed = tuple(self._checked_signature(each, staging, name) for each in signatures)
            parts = tuple(self._stage_signature(each, staging) for each in signed)
            new: set[str] = set()
            try:
                return self._commit(staged, name, info_text, new, tuple(tags), parts)
            except BaseException:
                self._sweep_after_failure(new)
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
            NotFoundError: when the version was removed and its files collected meanwhile.
            IntegrityError: naming the file whose bytes are not those that were stored.
        """
        with os_faults(self.folder):
            if self._checkouts.fault(version.digest) is not None:
                self._check_out(version)
            self._checkouts.touch(version.digest)
        return self._checkouts.path(version.digest)

    def list(self, query: Query | None = None) -> tuple[Version, ...]:
        """Return the versions that pass every filter of ``query``, by name and then number."""
        with self._database.reading() as db:
            return find(db, query or Query())

    def versions(self, name: str) -> tuple[Version, ...]:
        """Return the versions of one name, the oldest first; none where it is unknown."""
        check_name(name)
        with self._database.reading() as db:
            return index.versions_of(db, name)

    def remove(self, ref: str | AdapterRef) -> Version:
        """Remove the version that a reference names; its files stay until ``collect``.

        Its number is not given again.

        Raises:
            RefError: when the text is no reference.
            NotFoundError: with near names, or the versions that there are.
            RegistryError: when an alias points to it.
        """
        wanted = _to_ref(ref)
        with self._database.writing() as db:
            version = index.resolve(db, wanted)
            index.delete(db, version)
            self._on_step("unlisted")
        self._on_step("removed")
        return version

    def set_alias(
        self, ref: str | AdapterRef, alias: str, *, why: str = "", expected: int | None = None
    ) -> AliasMove | None:
        """Point an alias of a name to the version that a reference names.

        Args:
            ref: the version.
            alias: a word other than ``latest``.
            why: for the history.
            expected: the version that the alias must point to now, where that was decided upon;
                0 where there must be no such alias yet.

        Returns:
            The move, or ``None`` where the alias pointed there already.

        Raises:
            RefError: when ``alias`` is none.
            NotFoundError: when there is no such version.
            RegistryError: when the alias points elsewhere than ``expected``.
        """
        with self._database.writing() as db:
            version = index.resolve(db, _to_ref(ref))
            return aliases.set_alias(db, version, alias, why=why, expected=expected)

    def remove_alias(self, name: str, alias: str, *, why: str = "") -> AliasMove:
        """Remove an alias.

        Raises:
            NotFoundError: when there is no such alias.
        """
        with self._database.writing() as db:
            return aliases.remove_alias(db, name, alias, why=why)

    def rollback(self, name: str, alias: str, *, why: str = "") -> AliasMove:
        """Point an alias to the version that it pointed to before.

        Raises:
            NotFoundError: when there is no such alias, or nothing to go back to.
        """
        with self._database.writing() as db:
            return aliases.rollback(db, name, alias, why=why)

    def history(
        self, name: str | None = None, alias: str | None = None, *, limit: int = 1000
    ) -> tuple[AliasMove, ...]:
        """Return the moves of aliases, the newest first."""
        with self._database.reading() as db:
            return aliases.history(db, name, alias, limit)

    def set_rule(self, name: str, alias: str, rule: AliasRule | None) -> None:
        """Say what a version has to pass before the promotion gate moves an alias to it.

        Args:
            name: of the adapter.
            alias: that may not be there yet.
            rule: the new one; ``None`` takes it away.

        Raises:
            RefError: when ``name`` or ``alias`` is malformed.
        """
        AdapterRef(name, alias=alias)
        with self._database.writing() as db:
            rules.set_rule(db, name, alias, rule)

    def rule(self, name: str, alias: str) -> AliasRule | None:
        """Return the rule of an alias, if it has one."""
        with self._database.reading() as db:
            return rules.rule_of(db, name, alias)

    def record_evaluation(self, evaluation: StoredEvaluation) -> None:
        """Keep an evaluation beside the artifact that it is of.

        Raises:
            RegistryError: when the registry does not hold the artifact.
        """
        with self._database.writing() as db:
            rules.add_evaluation(db, evaluation)

    def evaluations(self, version: Version) -> tuple[StoredEvaluation, ...]:
        """Return the evaluations of a version's artifact, the newest first."""
        with self._database.reading() as db:
            return rules.evaluations_of(db, version.digest)

    def tag(
        self, ref: str | AdapterRef, *, add: Iterable[str] = (), remove: Iterable[str] = ()
    ) -> Version:
        """Give a version words to find it by, or take them away; return it as it then is.

        Raises:
            RefError: when a tag is none.
            NotFoundError: when there is no such version.
        """
        with self._database.writing() as db:
            version = index.resolve(db, _to_ref(ref))
            return index.change_tags(db, version, add=add, remove=remove)

    def add_signature(self, ref: str | AdapterRef, content: bytes) -> Signature:
        """Keep a signature beside the version that a reference names.

        It takes the place of an earlier one by the same key. One by a key that is trusted here
        must hold, so that a right signature is never lost to a wrong one; one by another key
        is kept as it is.

        Args:
            ref: the version.
            content: a Sigstore bundle made with a key pair.

        Raises:
            NotFoundError: when there is no such version.
            SignatureError: when it can be no signature, or does not hold; nothing is changed.
            MissingExtraError: when its key is trusted, without the extra ``sign``.
            RegistryError: when the registry can't be written; nothing is changed.
        """
        wanted = _to_ref(ref)
        place = f"signature of {wanted}"
        signature = parse_signature(content, place)
        if self._trusted(signature.key) is not None:
            self._checked_signature(content, self.materialize(self.resolve(wanted)), place)
        self._layout.sweep_staging()
        with self._changing() as staging:
            part = self._stage_signature(signature, staging)
            new: set[str] = set()
            try:
                with self._database.writing() as db:
                    self._list_signature(db, index.resolve(db, wanted).digest, part, new)
            except BaseException:
                self._sweep_after_failure(new)
                raise
        self._on_step("committed signature")
        return signature

    def signatures(self, version: Version) -> tuple[Signature, ...]:
        """Return the signatures of a version's artifact, sorted by key.

        Raises:
            IntegrityError: naming a signature whose bytes are not those that were stored.
        """
        return tuple(self._read_signature(version, stored) for stored in self.signed_by(version))

    def signature(self, version: Version, key: str) -> Signature:
        """Return the signature of a version's artifact that names a key.

        Raises:
            SignatureError: when there is none.
            IntegrityError: when its bytes are not those that were stored.
        """
        for stored in self.signed_by(version):
            if stored.key == key:
                return self._read_signature(version, stored)
        raise SignatureError(f"has no signature by the key {key[:16]}…", place=str(version.ref))

    def signed_by(self, version: Version) -> tuple[StoredSignature, ...]:
        """Return what signatures a version's artifact has, sorted by key, without reading them."""
        with self._database.reading() as db:
            return signatures.signatures_of(db, version.digest)

    def trust(self, name: str, public_key: bytes) -> TrustedKey:
        """Let the signatures by a key count.

        Args:
            name: to call it by here.
            public_key: in PEM.

        Raises:
            RefError: when the name is malformed.
            SignatureError: when it is no public key that can be used.
            RegistryError: when the name means another key, or the key has another name.
            MissingExtraError: without the extra ``sign``.
        """
        key, pem = read_public_key(public_key)
        with self._database.writing() as db:
            return trust.add(db, name, key, pem.decode("ascii"))

    def distrust(self, name: str) -> TrustedKey:
        """Let the signatures by a key count no longer; they are kept.

        Raises:
            NotFoundError: when no key has this name.
        """
        with self._database.writing() as db:
            return trust.remove(db, name)

    def trusted_keys(self) -> tuple[TrustedKey, ...]:
        """Return the keys whose signatures count, sorted by name."""
        with self._database.reading() as db:
            return trust.trusted_keys(db)

    def require_signed(self, required: bool) -> None:
        """Switch on or off that adapters are loaded only if a trusted key has signed them."""
        with self._database.writing() as db:
            trust.require_signed(db, required)

    def requires_signed(self) -> bool:
        """Return whether adapters are loaded only if a trusted key has signed them.

        ``ADAPTERHUB_REQUIRE_SIGNED`` switches it on for one process.
        """
        with self._database.reading() as db:
            return trust.requires_signed(db)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Lend a new folder in the registry's file system, removed with what is left in it.

        Raises:
            RegistryError: when the registry can't be written.
        """
        with self._layout.staged() as folder:
            yield folder

    def verify(self) -> tuple[Problem, ...]:
        """Read every byte that is stored and return what is damaged or missing."""
        with os_faults(self.folder):
            return find_problems(self._database, self._blobs)

    def collect(
        self, *, grace: float = GRACE_SECONDS, spare: Callable[[str], bool] = _spare_none
    ) -> int:
        """Delete files that no version has; return the bytes freed.

        Args:
            grace: seconds since a file was removed, written or read from this registry before
                it may go, so that nobody loses what was resolved a moment ago. A file that is
                open stays readable whatever happens to its name.
            spare: tells of a blob, by its sha256 in hex, whether something beside the
                versions needs it.
        """
        self._layout.sweep_staging()
        oldest = time.time() - grace
        with self._changing() as staging, self._database.writing() as db:
            for digest in self._checkouts.all():
                if not index.has_artifact(db, digest) and self._checkouts.used(digest) < oldest:
                    self._checkouts.drop(digest, staging)
                    self._on_step("dropped checkout")
            return sum(
                self._delete_blob(db, blob)
                for blob in list(self._blobs.all())
                if self._blob_age(db, blob) < oldest and not spare(blob)
            )

    def _trusted(self, key: str) -> TrustedKey | None:
        return next((held for held in self.trusted_keys() if held.key == key), None)

    def _read_signature(self, version: Version, stored: StoredSignature) -> Signature:
        path = self._blobs.path(stored.sha256)
        try:
            content = path.read_bytes()
        except OSError as error:
            problem = f"cannot be read: {error.strerror}"
        else:
            if sha256(content).hexdigest() == stored.sha256:
                return Signature(stored.key, content)
            problem = "is damaged"
        raise IntegrityError(
            f"{signature_name(stored.key)} {problem}",
            place=str(version.ref),
            hint="Add the signature again to restore it",
        )

    def _checked_signature(self, content: bytes, folder: Path, place: str) -> Signature:
        signature = parse_signature(content, place)
        trusted = self._trusted(signature.key)
        if trusted is not None:
            check_signature(folder, content, trusted.pem.encode())
        return signature

    def _stage_signature(self, signature: Signature, staging: Path) -> _StagedSignature:
        # a name that no file of an artifact can have
        path = staging / f".{signature.key}"
        blob = write_durable(path, iter((signature.content,)))
        self._on_step("staged signature")
        return _StagedSignature(path, StoredSignature(signature.key, blob), len(signature.content))

    def _list_signature(
        self, db: sqlite3.Connection, digest: str, part: _StagedSignature, new: set[str]
    ) -> None:
        self._place(part.path, part.stored.sha256, new)
        self._on_step("placed signature")
        signatures.add(db, digest, part.stored, part.size)
        self._on_step("listed signature")

    def _place(self, staged: Path, blob: str, new: set[str]) -> None:
        if not self._blobs.path(blob).exists():
            new.add(blob)
        self._blobs.place(staged, blob)

    def _commit(
        self,
        staged: StagedArtifact,
        name: str,
        info: str,
        new: set[str],
        tags: tuple[str, ...],
        parts: tuple[_StagedSignature, ...],
    ) -> Version:
        """Move the blobs to their places, noting in ``new`` those that were not there."""
        with self._database.writing() as db:
            self._on_step("locked")
            for file, entry in staged.files.items():
                self._place(staged.folder / file, entry.sha256, new)
                self._on_step(f"placed {file}")
            version = index.registered(db, name, staged.digest)
            if version is None:
                version = index.add(db, name, staged, info)
            self._on_step("listed")
            for part in parts:
                self._list_signature(db, version.digest, part, new)
            if tags:
                version = index.change_tags(db, version, add=tags, remove=())
                self._on_step("tagged")
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

    def _sweep_after_failure(self, new: Iterable[str]) -> None:
        # what was committed after all is in use and spared
        try:
            with os_faults(self.folder), self._database.writing() as db:
                for blob in new:
                    if not index.uses_blob(db, blob):
                        self._delete_blob(db, blob)
        except RegistryError as error:
            _LOG.warning("blobs of a failed put are left for collect(): %s", error)

    def _delete_blob(self, db: sqlite3.Connection, blob: str) -> int:
        freed = self._blobs.delete(blob)
        index.forget_removed(db, blob)
        self._on_step("deleted blob")
        return freed

    def _blob_age(self, db: sqlite3.Connection, blob: str) -> float:
        """Return since when nothing has needed a blob; never where a version has it."""
        if index.uses_blob(db, blob):
            return math.inf
        removed = index.removed_at(db, blob)
        return self._blobs.written(blob) if removed is None else removed

    @contextmanager
    def _changing(self) -> Iterator[Path]:
        with os_faults(self.folder), self._layout.staged() as staging:
            yield staging


class _StagedSignature(NamedTuple):
    """A signature that lies in a staging folder."""

    path: Path
    stored: StoredSignature
    size: int


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
