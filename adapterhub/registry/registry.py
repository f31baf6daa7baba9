"""The local registry: versions of adapters, stored once, found by reference.

Here stands what a registry promises. What is on disk is right at every moment, which
``storage`` sees to; signatures and whose count are the matter of ``signature_store``.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from adapterhub.errors import RegistryError
from adapterhub.refs import AdapterRef, check_name, parse_ref
from adapterhub.registry import aliases, index, rules
from adapterhub.registry.blobs import Blobs
from adapterhub.registry.database import Database
from adapterhub.registry.faults import os_faults
from adapterhub.registry.layout import Layout, default_root
from adapterhub.registry.query import Query, find
from adapterhub.registry.signature_file import Signature, parse_signature
from adapterhub.registry.signature_store import SignatureStore
from adapterhub.registry.storage import Storage, no_hook
from adapterhub.registry.verify import find_problems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from adapterhub.registry.aliases import AliasMove
    from adapterhub.registry.rules import AliasRule, StoredEvaluation
    from adapterhub.registry.signatures import StoredSignature
    from adapterhub.registry.trust import TrustedKey
    from adapterhub.registry.version import Problem, Version

#: Seconds that ``collect`` leaves files alone for, where not told otherwise.
GRACE_SECONDS = 24 * 3600.0


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
        self, root: Path | None = None, *, on_step: Callable[[str], None] = no_hook
    ) -> None:
        home = root if root is not None else default_root()
        self._layout = Layout(home.absolute() / "registry")
        self._database = Database(self._layout.index)
        self._blobs = Blobs(self._layout)
        self._storage = Storage(self._layout, self._database, self._blobs, on_step)
        self._signatures = SignatureStore(self._database, self._blobs)
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
        contents = tuple(signatures)

        def check(copy: Path) -> tuple[Signature, ...]:
            return tuple(self._signatures.check(each, copy, name) for each in contents)

        return self._storage.put(folder, name, _info_text(info or {}, name), tuple(tags), check)

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
        return self._storage.materialize(version)

    def list(self, query: Query | None = None) -> tuple[Version, ...]:
        """Return the versions that pass every filter of ``query``, by name and then number."""
        with self._database.reading() as db:
            return find(db, query or Query())

    def versions(self, name: str) -> tuple[Version, ...]:
        """Return the versions of one name, the oldest first; none where it is unknown."""
        check_name(name)
        with self._database.reading() as db:
            return index.versions_of(db, name)

    def last_numbers(self) -> dict[str, int]:
        """Return every name with the last number given under it, of a removed version too."""
        with self._database.reading() as db:
            return index.last_numbers(db)

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
        if self._signatures.trusted(signature.key) is not None:
            self._signatures.check(content, self.materialize(self.resolve(wanted)), place)
        self._storage.add_signature(wanted, signature)
        return signature

    def signatures(self, version: Version) -> tuple[Signature, ...]:
        """Return the signatures of a version's artifact, sorted by key.

        Raises:
            IntegrityError: naming a signature whose bytes are not those that were stored.
        """
        return self._signatures.all(version)

    def signature(self, version: Version, key: str) -> Signature:
        """Return the signature of a version's artifact that names a key.

        Raises:
            SignatureError: when there is none.
            IntegrityError: when its bytes are not those that were stored.
        """
        return self._signatures.by(version, key)

    def signed_by(self, version: Version) -> tuple[StoredSignature, ...]:
        """Return what signatures a version's artifact has, sorted by key, without reading them."""
        return self._signatures.of(version.digest)

    def signatures_of(self, digest: str) -> tuple[StoredSignature, ...]:
        """Return what signatures an artifact has, sorted by key; none where it is unknown."""
        return self._signatures.of(digest)

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
        return self._signatures.trust(name, public_key)

    def distrust(self, name: str) -> TrustedKey:
        """Let the signatures by a key count no longer; they are kept.

        Raises:
            NotFoundError: when no key has this name.
        """
        return self._signatures.distrust(name)

    def trusted_keys(self) -> tuple[TrustedKey, ...]:
        """Return the keys whose signatures count, sorted by name."""
        return self._signatures.trusted_keys()

    def set_requires_signed(self, required: bool) -> None:
        """Switch on or off that adapters are loaded only if a trusted key has signed them."""
        self._signatures.require(required)

    def requires_signed(self) -> bool:
        """Return whether adapters are loaded only if a trusted key has signed them.

        ``ADAPTERHUB_REQUIRE_SIGNED`` switches it on for one process.
        """
        return self._signatures.required()

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
        return self._storage.collect(grace, spare)


def _to_ref(ref: str | AdapterRef) -> AdapterRef:
    return ref if isinstance(ref, AdapterRef) else parse_ref(ref)


def _info_text(info: Mapping[str, Any], name: str) -> str:
    try:
        return json.dumps(dict(info), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RegistryError(f"info must be plain JSON: {error}", place=name) from error
