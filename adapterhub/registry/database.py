"""The SQLite file behind the index: opening, transactions and schema upgrades.

A connection lives for one operation, so a registry can be used from any thread and across
``fork``. Writers take the one write lock with ``BEGIN IMMEDIATE`` and wait for each other.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

from adapterhub.errors import RegistryError
from adapterhub.registry.faults import primary_code, sqlite_faults
from adapterhub.registry.schema import SCHEMA_CHANGES, SchemaChange

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Longest wait for another process's transaction, in seconds.
BUSY_SECONDS = 60.0
#: Seconds after which a time of change tells that nothing changed since.
_SETTLED = 0.1
#: Time of change and size of the files that a database lies in.
Stamp = tuple[tuple[int, int], ...]


class Database:
    """One SQLite file in WAL mode.

    Args:
        path: absolute path of the file.
        busy_seconds: longest wait for another process's transaction.
    """

    def __init__(self, path: Path, *, busy_seconds: float = BUSY_SECONDS) -> None:
        self.path = path
        self._busy_seconds = busy_seconds

    def prepare(self, changes: tuple[SchemaChange, ...] = SCHEMA_CHANGES) -> None:
        """Make the file where it is missing and bring its schema up to date.

        Raises:
            RegistryError: when it can't be made, or a newer adapterhub has upgraded it.
        """
        with sqlite_faults(self.path), closing(self._connect("rwc")) as db:
            self._use_wal(db)
            if self._schema_of(db, changes) < len(changes):
                with _transaction(db, "IMMEDIATE"):
                    # another process may have been first
                    _apply(db, changes, self._schema_of(db, changes))

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection that sees one state of the index throughout.

        Raises:
            RegistryError: when the index can't be read.
        """
        with (
            sqlite_faults(self.path),
            closing(self._connect("rw")) as db,
            _transaction(db, "DEFERRED"),
        ):
            yield db

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection that holds the write lock; commits at the end, or changes nothing.

        Raises:
            RegistryError: when the index can't be written.
        """
        with (
            sqlite_faults(self.path),
            closing(self._connect("rw")) as db,
            _transaction(db, "IMMEDIATE"),
        ):
            yield db

    def stamp(self) -> Stamp:
        """Return what changes whenever the content does; empty where it changed just now."""
        found = []
        for path in (self.path, self.path.with_name(f"{self.path.name}-wal")):
            with suppress(FileNotFoundError):
                found.append(path.stat())
        # a later change in the same tick of the clock would not show
        if any(time.time() - stat.st_mtime < _SETTLED for stat in found):
            return ()
        return tuple((stat.st_mtime_ns, stat.st_size) for stat in found)

    def damage(self) -> tuple[str, ...]:
        """Return what SQLite finds wrong with its own file; nothing where it is whole.

        Raises:
            RegistryError: when the index can't be read.
        """
        with sqlite_faults(self.path), closing(self._connect("rw")) as db:
            try:
                found = tuple(str(row[0]) for row in db.execute("PRAGMA integrity_check(20)"))
            except sqlite3.DatabaseError as error:
                if primary_code(error) not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                    raise
                return (str(error),)
        return () if found == ("ok",) else found

    def _connect(self, mode: str) -> sqlite3.Connection:
        db = sqlite3.connect(
            f"{self.path.as_uri()}?mode={mode}",
            uri=True,
            timeout=self._busy_seconds,
            isolation_level=None,
        )
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA synchronous = FULL")
        return db

    def _use_wal(self, db: sqlite3.Connection) -> None:
        # SQLite does not wait by itself when two processes change the mode of a new file
        deadline = time.monotonic() + self._busy_seconds
        while True:
            try:
                mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
                break
            except sqlite3.OperationalError as error:
                if primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        if mode != "wal":
            raise RegistryError(
                f"the file system allows the journal mode {mode!r} only, not WAL",
                place=str(self.path),
                hint="Set ADAPTERHUB_HOME to a local folder",
            )

    def _schema_of(self, db: sqlite3.Connection, changes: tuple[SchemaChange, ...]) -> int:
        schema = int(db.execute("PRAGMA user_version").fetchone()[0])
        if schema > len(changes):
            raise RegistryError(
                f"the index has schema version {schema}, this adapterhub knows up to "
                f"{len(changes)}",
                place=str(self.path),
                hint="Upgrade adapterhub to use it",
            )
        return schema


@contextmanager
def _transaction(db: sqlite3.Connection, kind: str) -> Iterator[None]:
    db.execute(f"BEGIN {kind}")
    try:
        yield
    except BaseException:
        db.rollback()
        raise
    db.execute("COMMIT")


def _apply(db: sqlite3.Connection, changes: tuple[SchemaChange, ...], done: int) -> None:
    for change in changes[done:]:
        for statement in change.statements:
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {len(changes)}")
