"""Stored signatures and trusted keys of a registry, and whether it requires them."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from adapterhub.errors import (
    IntegrityError,
    NotFoundError,
    RefError,
    RegistryError,
    did_you_mean,
)
from adapterhub.registry import index
from adapterhub.registry.sigstore import Signature, check_signature, parse_signature, signature_name

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable
    from pathlib import Path

    from adapterhub.registry.blobs import Blobs
    from adapterhub.registry.version import Version

#: Environment variable that switches the policy on for one process, whatever the registry says.
REQUIRE_VARIABLE = "ADAPTERHUB_REQUIRE_SIGNED"

_REQUIRE = "require_signed"
_OFF_WORDS = ("", "0", "false", "no", "off")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,95}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedKey:
    """A public key whose signatures are trusted.

    Args:
        name: Name of the key in this registry.
        key: Id of the key, the sha256 of its PEM.
        pem: Public key in PEM.
        added: Time of addition, ISO 8601 in UTC.
    """

    name: str
    key: str
    pem: str
    added: str


def check_key_name(name: str) -> None:
    """Check the name of a key."""
    if not _NAME.fullmatch(name):
        raise RefError(
            "is not a name of a key",
            place=ascii(name)[:80],
            hint="Names have letters, digits, '.', '_', '@', '+' and '-'",
        )


def add_key(db: sqlite3.Connection, name: str, key: str, pem: str) -> TrustedKey:
    """Add a trusted key, or return the one that is trusted by this name already."""
    check_key_name(name)
    for present in trusted_keys(db):
        if (present.name, present.key) == (name, key):
            return present
        if present.name == name:
            raise RegistryError(
                f"is the name of another key, {present.key[:16]}…",
                place=name,
                hint=f"Choose another name, or first: adapterhub trust rm {name}",
            )
        if present.key == key:
            raise RegistryError(f"this key is trusted already, as {present.name}", place=name)
    added = TrustedKey(name=name, key=key, pem=pem, added=index.now())
    db.execute(
        "INSERT INTO trusted_keys (key, name, pem, added) VALUES (?, ?, ?, ?)",
        (added.key, added.name, added.pem, added.added),
    )
    return added


def remove_key(db: sqlite3.Connection, name: str) -> TrustedKey:
    """Remove a trusted key and return it."""
    present = {key.name: key for key in trusted_keys(db)}
    if name not in present:
        hint = did_you_mean(name, present)
        raise NotFoundError("no trusted key has this name", place=name, hint=hint)
    db.execute("DELETE FROM trusted_keys WHERE name = ?", (name,))
    return present[name]


def trusted_keys(db: sqlite3.Connection) -> tuple[TrustedKey, ...]:
    """Return the trusted keys, sorted by name."""
    found = db.execute("SELECT name, key, pem, added FROM trusted_keys ORDER BY name")
    return tuple(TrustedKey(**dict(each)) for each in found)


def set_requires_signed(db: sqlite3.Connection, required: bool) -> None:
    """Store whether only adapters signed by a trusted key are loaded."""
    db.execute(
        "INSERT OR REPLACE INTO settings (name, value) VALUES (?, ?)",
        (_REQUIRE, "on" if required else "off"),
    )


def requires_signed(db: sqlite3.Connection) -> bool:
    """Return whether only adapters signed by a trusted key are loaded."""
    if required_by_environment():
        return True
    found = db.execute("SELECT value FROM settings WHERE name = ?", (_REQUIRE,)).fetchone()
    # an unknown value must not switch the policy off
    return found is not None and found["value"] != "off"


def required_by_environment() -> bool:
    """Return whether the environment switches the policy on."""
    return os.environ.get(REQUIRE_VARIABLE, "").strip().lower() not in _OFF_WORDS


@dataclass(frozen=True, slots=True)
class StoredSignature:
    """A signature as the index lists it.

    Args:
        key: Id of the public key, 64 hex digits.
        sha256: Digest of the signature in hex, which names its blob.
        size: Size of the signature in bytes.
    """

    key: str
    sha256: str
    size: int


def signatures_of(db: sqlite3.Connection, digest: str) -> tuple[StoredSignature, ...]:
    """Return the signatures of an artifact, sorted by key."""
    query = "SELECT key, sha256, size FROM signatures WHERE digest = ? ORDER BY key"
    return tuple(StoredSignature(**dict(row)) for row in db.execute(query, (digest,)))


def add_signature(db: sqlite3.Connection, digest: str, stored: StoredSignature) -> None:
    """List a signature in place of an earlier one by the same key."""
    earlier = db.execute(
        "SELECT sha256 FROM signatures WHERE digest = ? AND key = ?", (digest, stored.key)
    ).fetchone()
    db.execute(
        "INSERT OR REPLACE INTO signatures (digest, key, sha256, size, time) "
        "VALUES (?, ?, ?, ?, ?)",
        (digest, stored.key, stored.sha256, stored.size, index.now()),
    )
    index.forget_removed(db, stored.sha256)
    if earlier and not index.uses_blob(db, earlier["sha256"]):
        db.execute(
            "INSERT OR REPLACE INTO removed_blobs (sha256, time) VALUES (?, ?)",
            (earlier["sha256"], time.time()),
        )


def read_signature(blobs: Blobs, version: Version, stored: StoredSignature) -> Signature:
    """Return a stored signature of a version."""
    try:
        content = blobs.path(stored.sha256).read_bytes()
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


def check_if_trusted(
    content: bytes, folder: Path, keys: Iterable[TrustedKey], place: str
) -> Signature:
    """Parse a signature and, if its key is trusted, verify it over a folder."""
    signature = parse_signature(content, place)
    for trusted in keys:
        if trusted.key == signature.key:
            check_signature(folder, content, trusted.pem.encode())
    return signature
