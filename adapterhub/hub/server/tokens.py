"""Who may do what: tokens with scopes, of which only hashes are kept."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from adapterhub.access.bearer import hash_of, id_of, new_secret, remove
from adapterhub.errors import RefError, RegistryError
from adapterhub.hub.server.records import now
from adapterhub.hub.server.schema import HUB_SCHEMA
from adapterhub.refs import check_name

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable
    from pathlib import Path

    from adapterhub.registry.database import Database

Right = Literal["read", "write"]
#: In place of an owner: all of them.
ALL = "*"
PREFIX = "ah_"


@dataclass(frozen=True, slots=True)
class Scope:
    """One thing that a token allows; ``str`` gives ``write:owner``.

    Args:
        right: to write is to read too.
        owner: whose repositories, or ``*`` for all.
    """

    right: Right
    owner: str

    def __str__(self) -> str:
        return f"{self.right}:{self.owner}"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request.

    Args:
        user: name of the user; ``None`` without a token.
        scopes: of the token.
    """

    user: str | None = None
    scopes: frozenset[Scope] = frozenset()

    def may(self, right: Right, owner: str) -> bool:
        """Return whether a scope allows it."""
        rights: tuple[Right, ...] = ("read", "write") if right == "read" else ("write",)
        return any(Scope(each, who) in self.scopes for each in rights for who in (owner, ALL))

    def owners(self) -> frozenset[str] | None:
        """Return whose repositories the scopes allow to read; ``None`` for all owners'."""
        found = frozenset(scope.owner for scope in self.scopes)
        return None if ALL in found else found


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """What is known of a token, which is not the token.

    Args:
        id: names it, for ``remove``.
        user: whose it is.
        scopes: what it allows.
        created: ISO 8601 in UTC.
    """

    id: str
    user: str
    scopes: tuple[Scope, ...]
    created: str


class Tokens:
    """The tokens of one endpoint.

    Args:
        database: of the endpoint, prepared here.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        database.prepare(HUB_SCHEMA)

    @property
    def path(self) -> Path:
        """The file that the hashes lie in."""
        return self._database.path

    def add(self, user: str, scopes: Iterable[Scope]) -> str:
        """Return a new token; it can't be shown again.

        Raises:
            RefError: when ``user`` or an owner is malformed.
            RegistryError: when there is no scope, or the file can't be written.
        """
        wanted = tuple(scopes)
        if not wanted:
            raise RegistryError(
                "a token needs a scope", place=user, hint="Write read:* or write:owner"
            )
        for name in (user, *(scope.owner for scope in wanted if scope.owner != ALL)):
            _check_owner(name)
        token = new_secret(PREFIX)
        hashed = hash_of(token)
        with self._database.writing() as db:
            db.execute(
                "INSERT INTO tokens (hash, user, created) VALUES (?, ?, ?)", (hashed, user, now())
            )
            db.executemany(
                'INSERT OR IGNORE INTO scopes (hash, "right", owner) VALUES (?, ?, ?)',
                [(hashed, scope.right, scope.owner) for scope in wanted],
            )
        return token

    def caller(self, token: str) -> Caller | None:
        """Return who presents a token, or ``None`` where it is not known."""
        hashed = hash_of(token)
        with self._database.reading() as db:
            row = db.execute("SELECT hash, user FROM tokens WHERE hash = ?", (hashed,)).fetchone()
            if row is None or not hmac.compare_digest(row["hash"], hashed):
                return None
            return Caller(row["user"], frozenset(_scopes(db, hashed)))

    def list(self) -> tuple[TokenInfo, ...]:
        """Return what is known of all tokens, the oldest first."""
        with self._database.reading() as db:
            rows = db.execute("SELECT hash, user, created FROM tokens ORDER BY created, hash")
            return tuple(
                TokenInfo(id_of(row["hash"]), row["user"], _scopes(db, row["hash"]), row["created"])
                for row in rows.fetchall()
            )

    def remove(self, token_id: str) -> None:
        """Make a token worthless.

        Raises:
            NotFoundError: when there is none with this id.
        """
        with self._database.writing() as db:
            remove(db, "tokens", token_id)


def parse_scope(text: str) -> Scope:
    """Read ``read:owner``, ``write:owner`` or either with ``*``.

    Raises:
        RegistryError: when it is none.
    """
    right, _, owner = text.partition(":")
    if right == "read" and owner:
        return Scope("read", owner)
    if right == "write" and owner:
        return Scope("write", owner)
    raise RegistryError(
        "is no scope", place=repr(text), hint="Write read:*, read:owner or write:owner"
    )


def _check_owner(name: str) -> None:
    check_name(name)
    if "/" in name:
        raise RefError("holds a '/'", place=name, hint="An owner is the part before the slash")


def _scopes(db: sqlite3.Connection, hashed: str) -> tuple[Scope, ...]:
    query = 'SELECT "right", owner FROM scopes WHERE hash = ? ORDER BY "right", owner'
    return tuple(Scope(row["right"], row["owner"]) for row in db.execute(query, (hashed,)))
