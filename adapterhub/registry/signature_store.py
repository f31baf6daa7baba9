"""The signatures that a registry keeps, and the keys that it trusts."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from adapterhub.errors import IntegrityError, SignatureError
from adapterhub.registry import signatures, trust
from adapterhub.registry.signature_file import Signature, parse_signature, signature_name
from adapterhub.registry.signing import check_signature, read_public_key

if TYPE_CHECKING:
    from pathlib import Path

    from adapterhub.registry.blobs import Blobs
    from adapterhub.registry.database import Database
    from adapterhub.registry.signatures import StoredSignature
    from adapterhub.registry.trust import TrustedKey
    from adapterhub.registry.version import Version


class SignatureStore:
    """The signatures and trusted keys of one registry; what its methods raise, ``Registry`` says.

    Args:
        database: its index.
        blobs: of the registry, signatures among them.
    """

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs

    def of(self, digest: str) -> tuple[StoredSignature, ...]:
        """Return what signatures an artifact has, sorted by key, without reading them."""
        with self._database.reading() as db:
            return signatures.signatures_of(db, digest)

    def all(self, version: Version) -> tuple[Signature, ...]:
        """Return the signatures of a version's artifact, sorted by key."""
        return tuple(self._read(version, stored) for stored in self.of(version.digest))

    def by(self, version: Version, key: str) -> Signature:
        """Return the signature of a version's artifact that names a key."""
        for stored in self.of(version.digest):
            if stored.key == key:
                return self._read(version, stored)
        raise SignatureError(f"has no signature by the key {key[:16]}…", place=str(version.ref))

    def check(self, content: bytes, folder: Path, place: str) -> Signature:
        """Parse a signature and, where its key is trusted, require that it holds over a folder."""
        signature = parse_signature(content, place)
        trusted = self.trusted(signature.key)
        if trusted is not None:
            check_signature(folder, content, trusted.pem.encode())
        return signature

    def trusted(self, key: str) -> TrustedKey | None:
        """Return the trusted key with this id, if there is one."""
        return next((held for held in self.trusted_keys() if held.key == key), None)

    def trust(self, name: str, public_key: bytes) -> TrustedKey:
        """Let the signatures by a key count."""
        key, pem = read_public_key(public_key)
        with self._database.writing() as db:
            return trust.add(db, name, key, pem.decode("ascii"))

    def distrust(self, name: str) -> TrustedKey:
        """Let the signatures by a key count no longer."""
        with self._database.writing() as db:
            return trust.remove(db, name)

    def trusted_keys(self) -> tuple[TrustedKey, ...]:
        """Return the keys whose signatures count, sorted by name."""
        with self._database.reading() as db:
            return trust.trusted_keys(db)

    def require(self, required: bool) -> None:
        """Switch on or off that adapters are loaded only if a trusted key has signed them."""
        with self._database.writing() as db:
            trust.require_signed(db, required)

    def required(self) -> bool:
        """Return whether adapters are loaded only if a trusted key has signed them."""
        with self._database.reading() as db:
            return trust.requires_signed(db)

    def _read(self, version: Version, stored: StoredSignature) -> Signature:
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
