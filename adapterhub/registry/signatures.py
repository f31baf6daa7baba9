"""Signatures in the index; their bytes are blobs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapterhub.registry import index

if TYPE_CHECKING:
    import sqlite3


@dataclass(frozen=True, slots=True)
class StoredSignature:
    """Where the bytes of a signature are.

    Args:
        key: that the signature names, 64 hex digits.
        sha256: of its bytes, in hex.
        size: of its bytes.
    """

    key: str
    sha256: str
    size: int


def signatures_of(db: sqlite3.Connection, digest: str) -> tuple[StoredSignature, ...]:
    """Return the signatures of an artifact, sorted by key."""
    query = "SELECT key, sha256, size FROM signatures WHERE digest = ? ORDER BY key"
    return tuple(StoredSignature(**dict(row)) for row in db.execute(query, (digest,)))


def all_signatures(db: sqlite3.Connection) -> dict[str, tuple[StoredSignature, ...]]:
    """Return the signatures of every artifact that has any, by its digest."""
    found: dict[str, tuple[StoredSignature, ...]] = {}
    query = "SELECT digest, key, sha256, size FROM signatures ORDER BY digest, key"
    for row in db.execute(query):
        stored = StoredSignature(row["key"], row["sha256"], row["size"])
        found[row["digest"]] = (*found.get(row["digest"], ()), stored)
    return found


def add(db: sqlite3.Connection, digest: str, stored: StoredSignature) -> None:
    """List a signature; it takes the place of an earlier one by the same key.

    Args:
        db: a connection that holds the write lock.
        digest: of an artifact that the index has.
        stored: whose blob is in its place.
    """
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
