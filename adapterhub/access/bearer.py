"""Secrets that a client shows to be let in, of which only hashes are kept.

A table of them has the column ``hash`` as its primary key, and is read by who knows the secret.
"""

from __future__ import annotations

import secrets
from hashlib import sha256
from typing import TYPE_CHECKING, Literal

from adapterhub.errors import NotFoundError

if TYPE_CHECKING:
    import sqlite3

#: First hex digits of the hash, by which people name a secret.
ID_DIGITS = 12
_SCHEME = "bearer "


def new_secret(prefix: str) -> str:
    """Return a new secret; ``prefix`` lets people and scanners see what it is."""
    # 32 random bytes: a plain hash of them can't be searched
    return prefix + secrets.token_urlsafe(32)


def hash_of(secret: str) -> str:
    """Return what is kept of a secret, in hex."""
    return sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def id_of(hashed: str) -> str:
    """Return the name of the secret with this hash."""
    return hashed[:ID_DIGITS]


def bearer_of(authorization: str) -> str:
    """Return the secret in a header ``Authorization: Bearer …``, empty where there is none."""
    if not authorization.lower().startswith(_SCHEME):
        return ""
    return authorization[len(_SCHEME) :].strip()


def remove(db: sqlite3.Connection, table: Literal["tokens", "keys"], secret_id: str) -> None:
    """Make a secret worthless.

    Args:
        db: a connection that may write.
        table: that it is in.
        secret_id: as ``id_of`` gives it.

    Raises:
        NotFoundError: when there is none with this id.
    """
    query = f"DELETE FROM {table} WHERE substr(hash, 1, {ID_DIGITS}) = ?"
    if not db.execute(query, (secret_id,)).rowcount:
        raise NotFoundError(f"is the id of none of the {table}", place=secret_id)
