"""API keys: made, listed and taken back; only their hashes are kept."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from adapterhub.access.bearer import hash_of, id_of, new_secret, remove
from adapterhub.errors import SettingsError
from adapterhub.refs import check_name
from adapterhub.registry.database import Database
from adapterhub.registry.schema import SchemaChange
from adapterhub.server.access.caller import Caller, Role, check_pattern

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from adapterhub.registry import Registry
    from adapterhub.registry.database import Stamp

PREFIX = "ahk_"
FILE = "keys.sqlite3"
#: Highest limit of either kind; a key without one has no limit.
MAX_LIMIT = 1_000_000

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
)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key, which is not the key.

    Args:
        id: names it, for ``remove`` and in logs.
        name: whose it is, or what for.
        caller: what it allows.
        created: ISO 8601 in UTC.
    """

    id: str
    name: str
    caller: Caller
    created: str


class KeyStore:
    """The keys of one server; any number of processes may use it at once.

    Args:
        database: of the keys, prepared here.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        database.prepare(KEY_SCHEMA)
        self._stamp: Stamp = ()
        self._callers: dict[str, Caller] = {}

    @property
    def path(self) -> Path:
        """The file that the hashes lie in."""
        return self._database.path

    def create(
        self,
        name: str,
        role: Role = "use",
        *,
        adapters: Iterable[str] | None = None,
        rate: int | None = None,
        concurrency: int | None = None,
    ) -> str:
        """Return a new key; it can't be shown again.

        Args:
            name: whose it is, or what for.
            role: ``use``, or ``manage`` for who may change what is served too.
            adapters: that may be asked for, as in ``Caller.allows``; all where not given.
            rate: most requests a minute.
            concurrency: most requests at once.

        Raises:
            RefError: when the name or an adapter is malformed.
            SettingsError: when a limit or the list is none.
            RegistryError: when the file can't be written.
        """
        check_name(name)
        allowed = None if adapters is None else sorted(set(adapters))
        if allowed is not None and not allowed:
            raise SettingsError("is an empty list", place="adapters", hint="Leave it out for all")
        for pattern in allowed or ():
            check_pattern(pattern)
        _check_limit("rate", rate)
        _check_limit("concurrency", concurrency)
        key = new_secret(PREFIX)
        listed = None if allowed is None else json.dumps(allowed)
        created = datetime.now(UTC).isoformat(timespec="microseconds")
        with self._database.writing() as db:
            db.execute(
                "INSERT INTO keys (hash, name, role, adapters, rate, concurrency, created) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (hash_of(key), name, role, listed, rate, concurrency, created),
            )
        return key

    def list(self) -> tuple[ApiKey, ...]:
        """Return what is known of all keys, the oldest first."""
        with self._database.reading() as db:
            rows = db.execute("SELECT * FROM keys ORDER BY created, hash").fetchall()
        return tuple(
            ApiKey(id_of(row["hash"]), row["name"], _caller(row), row["created"]) for row in rows
        )

    def callers(self) -> Mapping[str, Caller]:
        """Return the hash of each key and what it allows, as the file has it now.

        Cheap where nothing was changed, so that it may be asked for every request.

        Raises:
            RegistryError: when the file can't be read.
        """
        stamp = self._database.stamp()
        if not stamp or stamp != self._stamp:
            with self._database.reading() as db:
                rows = db.execute("SELECT * FROM keys").fetchall()
            self._callers = {row["hash"]: _caller(row) for row in rows}
            # what was changed since the stamp was taken has another one
            self._stamp = stamp
        return self._callers

    def remove(self, key_id: str) -> None:
        """Make a key worthless, in servers that run too.

        Raises:
            NotFoundError: when there is none with this id.
        """
        with self._database.writing() as db:
            remove(db, "keys", key_id)


def open_keys(registry: Registry) -> KeyStore:
    """Return the keys beside a registry.

    Raises:
        RegistryError: when they can't be read or written.
    """
    return KeyStore(Database(registry.folder / FILE))


def _caller(row: sqlite3.Row) -> Caller:
    return Caller(
        id_of(row["hash"]),
        row["role"],
        None if row["adapters"] is None else tuple(json.loads(row["adapters"])),
        rate=row["rate"],
        concurrency=row["concurrency"],
    )


def _check_limit(name: str, limit: int | None) -> None:
    if limit is not None and not 1 <= limit <= MAX_LIMIT:
        raise SettingsError(f"must be from 1 to {MAX_LIMIT}, found {limit}", place=name)
