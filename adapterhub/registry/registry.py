"""The local registry: versions of adapters, stored once and found by reference."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from adapterhub.adapters.strict_json import check_plain
from adapterhub.backbones.folder import default_root
from adapterhub.errors import RegistryError, SignatureError
from adapterhub.refs import AdapterRef, check_name, parse_ref
from adapterhub.registry import aliases, index, signatures
from adapterhub.registry.blobs import Blobs
from adapterhub.registry.failures import translate_os_errors
from adapterhub.registry.journaled_index import JournaledIndex
from adapterhub.registry.layout import Layout
from adapterhub.registry.query import Query, find
from adapterhub.registry.sigstore import Signature, parse_signature, read_public_key
from adapterhub.registry.storage import Storage, find_problems, no_hook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from adapterhub.registry.aliases import AliasMove, AliasRule, StoredEvaluation
    from adapterhub.registry.database import Stamp
    from adapterhub.registry.signatures import StoredSignature, TrustedKey
    from adapterhub.registry.version import Problem, Version

#: Most references whose versions are remembered until the index changes.
MAX_RESOLVED = 4096
#: Default age in seconds below which ``collect`` keeps unused files.
GRACE_SECONDS = 24 * 3600.0


def _in_use_nowhere(_blob: str) -> bool:
    return False


class Registry:
    """A registry in a folder, safe for use by any number of processes and threads at once.

    Args:
        root: Home folder that contains the registry folder; ``$ADAPTERHUB_HOME`` or the user's
            data folder by default. Created if it does not exist.
        on_step: Hook called with the name of every step that changes something on disk.

    Raises:
        RegistryError: When the folder cannot be created, read or written.
    """

    def __init__(
        self, root: Path | None = None, *, on_step: Callable[[str], None] = no_hook
    ) -> None:
        home = root if root is not None else default_root()
        self._layout = Layout(home.absolute() / "registry")
        self._database = JournaledIndex(self._layout)
        self._blobs = Blobs(self._layout)
        self._storage = Storage(self._layout, self._database, self._blobs, on_step)
        self._on_step = on_step
        #: stamp of the index, and what references resolved to at that stamp
        self._resolved: tuple[Stamp, dict[AdapterRef, Version]] = ((), {})
        self._layout.make()
        self._database.prepare()

    @property
    def folder(self) -> Path:
        """The folder of the registry itself."""
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

        If ``name`` has a version with the same digest, that version is returned with its own
        ``info``; its damaged blobs are restored, and tags and signatures are added.

        Args:
            folder: Artifact folder; it is not changed.
            name: Name of the adapter, ``part`` or ``owner/part``.
            info: JSON metadata of the version, such as training seconds.
            tags: Tags to find the version by.
            signatures: Signatures of the artifact, see ``add_signature``.

        Raises:
            RefError: When the name or a tag is malformed.
            ArtifactError: When the folder differs from its manifest; nothing is changed.
            SignatureError: When a signature is malformed or invalid; nothing is changed.
            RegistryError: When the registry cannot be written; nothing is changed.
        """
        check_name(name)
        contents = tuple(signatures)

        def check(copy: Path) -> tuple[Signature, ...]:
            return tuple(self._check_signature(each, copy, name) for each in contents)

        return self._storage.put(folder, name, _info_text(info or {}, name), tuple(tags), check)

    def resolve(self, ref: str | AdapterRef) -> Version:
        """Return the version of a reference.

        Without ``@`` it is the version of the alias ``prod``; without that alias the newest one
        that is not tagged ``trial``. Methods that change a version take the latest one instead.

        Raises:
            RefError: When the text is not a reference.
            NotFoundError: With near names, or the existing versions.
            RegistryError: When a shortened digest is ambiguous.
        """
        wanted, stamp = _to_ref(ref), self._database.stamp()
        taken, known = self._resolved
        if not stamp or stamp != taken or len(known) >= MAX_RESOLVED:
            # taken before the read, so that a change during it has another stamp
            known = {}
            self._resolved = (stamp, known)
        found = known.get(wanted)
        if found is None:
            with self._database.reading() as db:
                found = known[wanted] = index.resolve(db, wanted)
        return found

    def materialize(self, version: Version) -> Path:
        """Return a read-only folder with the files of a version, after checking every byte.

        Raises:
            NotFoundError: When the version was removed and its files were collected.
            IntegrityError: Naming a damaged file.
        """
        return self._storage.materialize(version)

    def list(self, query: Query | None = None) -> tuple[Version, ...]:
        """Return the versions that pass every filter of ``query``, by name and then number."""
        with self._database.reading() as db:
            return find(db, query or Query())

    def versions(self, name: str) -> tuple[Version, ...]:
        """Return the versions of a name, the oldest first; none if the name is unknown."""
        check_name(name)
        with self._database.reading() as db:
            return index.versions_of(db, name)

    def last_numbers(self) -> dict[str, int]:
        """Return the highest version number of every name, removed versions included."""
        with self._database.reading() as db:
            return index.last_numbers(db)

    def remove(self, ref: str | AdapterRef) -> Version:
        """Remove the version of a reference; its files stay until ``collect``.

        Its number is not reused.

        Raises:
            RefError: When the text is not a reference.
            NotFoundError: With near names, or the existing versions.
            RegistryError: When an alias points to the version.
        """
        wanted = _to_ref(ref).newest
        with self._database.writing() as db:
            version = index.resolve(db, wanted)
            index.delete(db, version)
            self._on_step("unlisted")
        self._on_step("removed")
        return version

    def set_alias(
        self, ref: str | AdapterRef, alias: str, *, why: str = "", expected: int | None = None
    ) -> AliasMove | None:
        """Point an alias to the version of a reference.

        Args:
            ref: Reference of the version.
            alias: Alias other than ``latest``.
            why: Reason, for the history.
            expected: Version number that the alias must point to now; 0 if it must not exist.

        Returns:
            The move, or ``None`` if the alias pointed to the version already.

        Raises:
            RefError: When ``alias`` is malformed.
            NotFoundError: When there is no such version.
            RegistryError: When the alias does not point to ``expected``.
        """
        with self._database.writing() as db:
            version = index.resolve(db, _to_ref(ref).newest)
            return aliases.set_alias(db, version, alias, why=why, expected=expected)

    def remove_alias(self, name: str, alias: str, *, why: str = "") -> AliasMove:
        """Remove an alias.

        Raises:
            NotFoundError: When there is no such alias.
        """
        with self._database.writing() as db:
            return aliases.remove_alias(db, name, alias, why=why)

    def rollback(self, name: str, alias: str, *, why: str = "") -> AliasMove:
        """Point an alias to the version that it pointed to before.

        Raises:
            NotFoundError: When there is no such alias, or no earlier version.
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
        """Set the rule that the promotion gate checks before it moves an alias.

        Args:
            name: Name of the adapter.
            alias: Alias, which need not exist yet.
            rule: New rule; ``None`` removes it.

        Raises:
            RefError: When ``name`` or ``alias`` is malformed.
        """
        AdapterRef(name, alias=alias)
        with self._database.writing() as db:
            aliases.set_rule(db, name, alias, rule)

    def rule(self, name: str, alias: str) -> AliasRule | None:
        """Return the rule of an alias, if it has one."""
        with self._database.reading() as db:
            return aliases.rule_of(db, name, alias)

    def record_evaluation(self, evaluation: StoredEvaluation) -> None:
        """Store an evaluation of an artifact.

        Raises:
            RegistryError: When the registry does not have the artifact.
        """
        with self._database.writing() as db:
            aliases.add_evaluation(db, evaluation)

    def evaluations(self, version: Version) -> tuple[StoredEvaluation, ...]:
        """Return the evaluations of the artifact of a version, the newest first."""
        with self._database.reading() as db:
            return aliases.evaluations_of(db, version.digest)

    def tag(
        self, ref: str | AdapterRef, *, add: Iterable[str] = (), remove: Iterable[str] = ()
    ) -> Version:
        """Add and remove tags of a version and return it with its new tags.

        Raises:
            RefError: When a tag is malformed.
            NotFoundError: When there is no such version.
        """
        with self._database.writing() as db:
            version = index.resolve(db, _to_ref(ref).newest)
            return index.change_tags(db, version, add=add, remove=remove)

    def add_signature(self, ref: str | AdapterRef, content: bytes) -> Signature:
        """Store a signature of the version of a reference.

        It replaces an earlier one by the same key. A signature by a trusted key is verified
        first, so that an invalid one never replaces a valid one; others are stored unverified.

        Args:
            ref: Reference of the version.
            content: Sigstore bundle made with a key pair.

        Raises:
            NotFoundError: When there is no such version.
            SignatureError: When it is malformed or invalid; nothing is changed.
            MissingExtraError: When its key is trusted, without the extra ``sign``.
            RegistryError: When the registry cannot be written; nothing is changed.
        """
        wanted = _to_ref(ref)
        place = f"signature of {wanted}"
        signature = parse_signature(content, place)
        if any(key.key == signature.key for key in self.trusted_keys()):
            self._check_signature(content, self.materialize(self.resolve(wanted)), place)
        self._storage.add_signature(wanted, signature)
        return signature

    def signatures(self, version: Version) -> tuple[Signature, ...]:
        """Return the signatures of the artifact of a version, sorted by key.

        Raises:
            IntegrityError: Naming a damaged signature.
        """
        return tuple(
            signatures.read_signature(self._blobs, version, stored)
            for stored in self.stored_signatures(version.digest)
        )

    def signature(self, version: Version, key: str) -> Signature:
        """Return the signature by a key of the artifact of a version.

        Raises:
            SignatureError: When there is none.
            IntegrityError: When it is damaged.
        """
        for stored in self.stored_signatures(version.digest):
            if stored.key == key:
                return signatures.read_signature(self._blobs, version, stored)
        raise SignatureError(f"has no signature by the key {key[:16]}…", place=str(version.ref))

    def stored_signatures(self, digest: str) -> tuple[StoredSignature, ...]:
        """Return key and digest of the signatures of an artifact; none if it is unknown."""
        with self._database.reading() as db:
            return signatures.signatures_of(db, digest)

    def trust(self, name: str, public_key: bytes) -> TrustedKey:
        """Trust the signatures by a key.

        Args:
            name: Name of the key in this registry.
            public_key: Public key in PEM.

        Raises:
            RefError: When the name is malformed.
            SignatureError: When it is not a supported public key.
            RegistryError: When the name belongs to another key, or the key has another name.
            MissingExtraError: Without the extra ``sign``.
        """
        key, pem = read_public_key(public_key)
        with self._database.writing() as db:
            return signatures.add_key(db, name, key, pem.decode("ascii"))

    def distrust(self, name: str) -> TrustedKey:
        """Stop trusting the signatures by a key; they stay stored.

        Raises:
            NotFoundError: When no key has this name.
        """
        with self._database.writing() as db:
            return signatures.remove_key(db, name)

    def trusted_keys(self) -> tuple[TrustedKey, ...]:
        """Return the trusted keys, sorted by name."""
        with self._database.reading() as db:
            return signatures.trusted_keys(db)

    def set_requires_signed(self, required: bool) -> None:
        """Store whether only adapters signed by a trusted key are loaded."""
        with self._database.writing() as db:
            signatures.set_requires_signed(db, required)

    def requires_signed(self) -> bool:
        """Return whether only adapters signed by a trusted key are loaded.

        ``ADAPTERHUB_REQUIRE_SIGNED`` switches this on for one process.
        """
        with self._database.reading() as db:
            return signatures.requires_signed(db)

    def staging(self) -> AbstractContextManager[Path]:
        """Create a temporary folder in the file system of the registry, removed afterwards.

        Raises:
            RegistryError: When the registry cannot be written.
        """
        return self._layout.staged()

    def verify(self) -> tuple[Problem, ...]:
        """Read every stored byte and return what is damaged or missing."""
        with translate_os_errors(self.folder):
            return find_problems(self._database, self._blobs)

    def collect(
        self,
        *,
        grace: float = GRACE_SECONDS,
        in_use: Callable[[str], bool] = _in_use_nowhere,
    ) -> int:
        """Delete files that no version uses and return the freed bytes.

        Args:
            grace: Age in seconds, since its removal, creation or last read from this registry,
                below which a file is kept, so that a version resolved a moment ago can be read.
            in_use: Whether something other than a version uses a blob, by its sha256 in hex.
        """
        return self._storage.collect(grace, in_use)

    def _check_signature(self, content: bytes, folder: Path, place: str) -> Signature:
        return signatures.check_if_trusted(content, folder, self.trusted_keys(), place)


def _to_ref(ref: str | AdapterRef) -> AdapterRef:
    return ref if isinstance(ref, AdapterRef) else parse_ref(ref)


def _info_text(info: Mapping[str, Any], name: str) -> str:
    check_plain(info, f"info of {name}")
    try:
        return json.dumps(dict(info), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RegistryError(f"info must be plain JSON: {error}", place=name) from error
