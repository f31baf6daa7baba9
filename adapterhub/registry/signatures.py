"""Signatures that a registry stores: listed in the index, with their content as blobs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from adapterhub.errors import IntegrityError
from adapterhub.registry import index, trust
from adapterhub.registry.sigstore import Signature, check_signature, parse_signature, signature_name

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable
    from pathlib import Path

    from adapterhub.registry.blobs import Blobs
    from adapterhub.registry.version import Version


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


def all_signatures(db: sqlite3.Connection) -> dict[str, tuple[StoredSignature, ...]]:
    """Return the signatures of every signed artifact, by digest."""
    found: dict[str, tuple[StoredSignature, ...]] = {}
    query = "SELECT digest, key, sha256, size FROM signatures ORDER BY digest, key"
    for row in db.execute(query):
        stored = StoredSignature(row["key"], row["sha256"], row["size"])
        found[row["digest"]] = (*found.get(row["digest"], ()), stored)
    return found


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
    content: bytes, folder: Path, keys: Iterable[trust.TrustedKey], place: str
) -> Signature:
    """Parse a signature and, if its key is trusted, verify it over a folder."""
    signature = parse_signature(content, place)
    for trusted in keys:
        if trusted.key == signature.key:
            check_signature(folder, content, trusted.pem.encode())
    return signature
