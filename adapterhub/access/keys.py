"""API keys: creation, lookup and removal; only their hashes are stored."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING

from adapterhub.access.caller import ALL, Caller, Role, Scope, check_pattern, parse_scope
from adapterhub.errors import NotFoundError, RefError, SettingsError
from adapterhub.refs import check_name
from adapterhub.registry.database import Database, SchemaChange

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable
    from pathlib import Path

    from adapterhub.registry import Registry
    from adapterhub.registry.database import Stamp

#: Prefix by which people and secret scanners recognise a key.
PREFIX = "ahk_"
KEYS_FILE = "keys.sqlite3"
#: Index of the Hub endpoint, whose tokens lay in it before all keys were in one file.
HUB_FILE = "hub.sqlite3"
#: Largest rate or concurrency limit.
MAX_LIMIT = 1_000_000

_SCHEME = "bearer "
#: Hex digits of the hash that make up the id of a key.
_ID_DIGITS = 12

#: Append-only: a change that was released is never edited.
KEY_SCHEMA: tuple[SchemaChange, ...] = (
    SchemaChange(
        "keys",
        (
            # adapters is a JSON list, or null for all
            """CREATE TABLE keys (
                hash TEXT PRIMARY KEY,
                name TEXT NOT NULL,
                role TEXT NOT NULL CHECK (role IN ('use', 'manage')),
                adapters TEXT,
                rate INTEGER,
                concurrency INTEGER,
                created TEXT NOT NULL
            ) WITHOUT ROWID""",
        ),
    ),
    SchemaChange(
        "scopes for the Hub endpoint, and keys without a role",
        (
            "ALTER TABLE keys RENAME TO keys_before",
            # adapters is a JSON list, or null for all; scopes is a JSON list
            """CREATE TABLE keys (
                hash TEXT PRIMARY KEY,
                name TEXT NOT NULL,
                role TEXT CHECK (role IN ('use', 'manage')),
                scopes TEXT NOT NULL,
                adapters TEXT,
                rate INTEGER,
                concurrency INTEGER,
                created TEXT NOT NULL
            ) WITHOUT ROWID""",
            "INSERT INTO keys (hash, name, role, scopes, adapters, rate, concurrency, created) "
            "SELECT hash, name, role, '[]', adapters, rate, concurrency, created FROM keys_before",
            "DROP TABLE keys_before",
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is stored about a key.

    Args:
        caller: Who shows the key and what it allows.
        created: Time of creation, ISO 8601 in UTC.
    """

    caller: Caller
    created: str

    @property
    def id(self) -> str:
        """Id of the key, for ``KeyStore.remove`` and logs."""
        return str(self.caller.key_id)

    @property
    def name(self) -> str:
        """Name of the user or the purpose of the key."""
        return str(self.caller.name)


class KeyStore:
    """The API keys of one registry folder, safe for use by several processes at once.

    Args:
        path: SQLite file of the keys, created if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path, KEY_SCHEMA)
        self._database.prepare()
        self._stamp: Stamp = ()
        self._callers: dict[str, Caller] = {}

    @property
    def path(self) -> Path:
        """Path of the file with the hashes."""
        return self._database.path

    def create(
        self,
        name: str,
        role: Role | None = "use",
        *,
        scopes: Iterable[Scope] = (),
        adapters: Iterable[str] | None = None,
        rate: int | None = None,
        concurrency: int | None = None,
    ) -> str:
        """Create a key and return it; it cannot be shown again.

        Args:
            name: User or purpose of the key.
            role: Role on the inference server; ``None`` for a key of the Hub endpoint only.
            scopes: Rights on the Hub endpoint.
            adapters: Patterns of allowed adapters, see ``Caller.allows``; all if ``None``.
            rate: Limit of requests per minute.
            concurrency: Limit of concurrent requests.

        Raises:
            RefError: When the name, an owner or an adapter pattern is malformed.
            SettingsError: When a limit is out of range, or the key would allow nothing.
            RegistryError: When the file cannot be written.
        """
        granted = sorted({str(scope) for scope in scopes})
        if role is None and not granted:
            raise SettingsError(
                "a key needs a role or a scope", place=name, hint="Write read:* or write:owner"
            )
        check_name(name)
        for owner in (name, *(parse_scope(scope).owner for scope in granted)) if granted else ():
            _check_owner(owner)
        allowed = None if adapters is None else sorted(set(adapters))
        if allowed is not None and not allowed:
            raise SettingsError("is an empty list", place="adapters", hint="Omit it to allow all")
        for pattern in allowed or ():
            check_pattern(pattern)
        _check_limit("rate", rate)
        _check_limit("concurrency", concurrency)
        # a plain hash is enough for 32 random bytes, which cannot be guessed
        key = PREFIX + secrets.token_urlsafe(32)
        created = datetime.now(UTC).isoformat(timespec="microseconds")
        values = (hash_key(key), name, role, json.dumps(granted))
        limits = (None if allowed is None else json.dumps(allowed), rate, concurrency)
        with self._database.writing() as db:
            db.execute(_INSERT, (*values, *limits, created))
        return key

    def list(self) -> tuple[ApiKey, ...]:
        """Return all keys, the oldest first."""
        with self._database.reading() as db:
            rows = db.execute("SELECT * FROM keys ORDER BY created, hash").fetchall()
        return tuple(ApiKey(_caller(row), row["created"]) for row in rows)

    def find(self, key: str) -> Caller | None:
        """Return the caller that a key belongs to, or ``None`` if there is no such key.

        Raises:
            RegistryError: When the file cannot be read.
        """
        return self._current().get(hash_key(key))

    def has_server_keys(self) -> bool:
        """Return whether a key has a role on the inference server."""
        return any(caller.role is not None for caller in self._current().values())

    def remove(self, key_id: str) -> None:
        """Revoke a key, with immediate effect in running servers.

        Raises:
            NotFoundError: When there is no key with this id.
        """
        query = f"DELETE FROM keys WHERE substr(hash, 1, {_ID_DIGITS}) = ?"
        with self._database.writing() as db:
            if not db.execute(query, (key_id,)).rowcount:
                raise NotFoundError("no key has this id", place=key_id)

    def import_hub_tokens(self, path: Path) -> None:
        """Move the tokens that older versions kept in the index of the Hub endpoint.

        Args:
            path: Index of the Hub endpoint; nothing happens if it does not exist.
        """
        if not path.exists():
            return
        hub = Database(path)
        with hub.reading() as db:
            if not _has_tokens(db):
                return
        # the lock on the old file keeps a token that is removed meanwhile from coming back
        with hub.writing() as old, self._database.writing() as new:
            for row in old.execute("SELECT hash, user, created FROM tokens").fetchall():
                query = 'SELECT "right", owner FROM scopes WHERE hash = ?'
                scopes = [f"{right}:{owner}" for right, owner in old.execute(query, row[:1])]
                values = (row["hash"], row["user"], None, json.dumps(sorted(scopes)))
                new.execute(_INSERT, (*values, None, None, None, row["created"]))
            old.execute("DELETE FROM tokens")

    def _current(self) -> dict[str, Caller]:
        """Return the callers by the hash of their key, read again only if the file changed."""
        stamp = self._database.stamp()
        if not stamp or stamp != self._stamp:
            with self._database.reading() as db:
                rows = db.execute("SELECT * FROM keys").fetchall()
            self._callers = {row["hash"]: _caller(row) for row in rows}
            # taken before the read, so that a change during it has another stamp
            self._stamp = stamp
        return self._callers


def open_keys(registry: Registry) -> KeyStore:
    """Return the keys that are stored beside a registry.

    Raises:
        RegistryError: When they cannot be read or written.
    """
    keys = KeyStore(registry.folder / KEYS_FILE)
    keys.import_hub_tokens(registry.folder / HUB_FILE)
    return keys


def hash_key(key: str) -> str:
    """Return the stored hash of a key, in hex."""
    return sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def id_of_key(key: str) -> str:
    """Return the id of a key."""
    return hash_key(key)[:_ID_DIGITS]


def bearer_token(authorization: str) -> str:
    """Return the key in an ``Authorization: Bearer …`` header, empty if there is none."""
    if not authorization.lower().startswith(_SCHEME):
        return ""
    return authorization[len(_SCHEME) :].strip()


_INSERT = (
    "INSERT OR IGNORE INTO keys (hash, name, role, scopes, adapters, rate, concurrency, created) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)


def _has_tokens(db: sqlite3.Connection) -> bool:
    table = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'tokens'"
    if db.execute(table).fetchone() is None:
        return False
    return db.execute("SELECT 1 FROM tokens LIMIT 1").fetchone() is not None


def _caller(row: sqlite3.Row) -> Caller:
    return Caller(
        row["hash"][:_ID_DIGITS],
        row["role"],
        None if row["adapters"] is None else tuple(json.loads(row["adapters"])),
        rate=row["rate"],
        concurrency=row["concurrency"],
        name=row["name"],
        scopes=frozenset(map(parse_scope, json.loads(row["scopes"]))),
    )


def _check_owner(name: str) -> None:
    if name == ALL:
        return
    check_name(name)
    if "/" in name:
        raise RefError("contains a '/'", place=name, hint="An owner is the part before the slash")


def _check_limit(name: str, limit: int | None) -> None:
    if limit is not None and not 1 <= limit <= MAX_LIMIT:
        raise SettingsError(f"must be from 1 to {MAX_LIMIT}, found {limit}", place=name)
