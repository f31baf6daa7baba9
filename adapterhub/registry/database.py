"""SQLite databases: connections, transactions and schema upgrades.

A connection is used for one operation, so a database can be used from any thread and across
``fork``. Writers take the write lock with ``BEGIN IMMEDIATE`` and wait for each other.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapterhub.errors import RegistryError
from adapterhub.registry.failures import (
    primary_code,
    translate_os_errors,
    translate_sqlite_errors,
)
from adapterhub.registry.private_files import make_private_database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

#: Longest wait for the transaction of another process, in seconds.
BUSY_SECONDS = 60.0
#: Age in seconds from which the modification time of a file identifies its content.
_CLOCK_TICK = 0.1
#: Modification time, size and inode of the files of a database.
Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """One upgrade of a schema; ``PRAGMA user_version`` counts the upgrades that were applied.

    Args:
        name: Short description.
        statements: SQL statements, executed in order in one transaction.
    """

    name: str
    statements: tuple[str, ...]


class Database:
    """One SQLite file in WAL mode, with mode 0600.

    Args:
        path: Absolute path of the file.
        changes: Upgrades of the schema, the oldest first.
        busy_seconds: Longest wait for the transaction of another process.
    """

    def __init__(
        self,
        path: Path,
        changes: tuple[SchemaChange, ...] = (),
        *,
        busy_seconds: float = BUSY_SECONDS,
    ) -> None:
        self.path = path
        self._changes = changes
        self._busy_seconds = busy_seconds

    def prepare(self) -> None:
        """Create the file, which only its owner may read, if necessary and upgrade its schema."""
        with translate_os_errors(self.path):
            make_private_database(self.path)
        with translate_sqlite_errors(self.path), closing(self._connect("rwc")) as db:
            self._use_wal(db)
            if self._schema_of(db) < len(self._changes):
                with _transaction(db, "IMMEDIATE"):
                    # another process may have upgraded it since
                    _apply(db, self._changes, self._schema_of(db))

    def reading(self) -> AbstractContextManager[sqlite3.Connection]:
        """Open a connection that sees one snapshot of the database."""
        return self._transaction("DEFERRED")

    def writing(self) -> AbstractContextManager[sqlite3.Connection]:
        """Open a connection with the write lock; commit at the end, or roll back on an error."""
        return self._transaction("IMMEDIATE")

    def stamp(self) -> Stamp:
        """Return a value that changes with the content; empty if the content has just changed."""
        return stamp_of(self.path, self.path.with_name(f"{self.path.name}-wal"))

    def damage(self) -> tuple[str, ...]:
        """Return the damage that SQLite finds in the file; nothing if it is intact."""
        with translate_sqlite_errors(self.path), closing(self._connect("rw")) as db:
            try:
                found = tuple(str(row[0]) for row in db.execute("PRAGMA integrity_check(20)"))
            except sqlite3.DatabaseError as error:
                if primary_code(error) not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                    raise
                return (str(error),)
        return () if found == ("ok",) else found

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[sqlite3.Connection]:
        with (
            translate_sqlite_errors(self.path),
            closing(self._connect("rw")) as db,
            _transaction(db, kind),
        ):
            yield db

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
        # SQLite itself does not wait when two processes change the mode of a new file
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
                f"the file system supports the journal mode {mode!r} only, not WAL",
                place=str(self.path),
                hint="Set ADAPTERHUB_HOME to a local folder",
            )

    def _schema_of(self, db: sqlite3.Connection) -> int:
        schema = int(db.execute("PRAGMA user_version").fetchone()[0])
        if schema > len(self._changes):
            raise RegistryError(
                f"the database has schema version {schema}, this adapterhub supports up to "
                f"{len(self._changes)}",
                place=str(self.path),
                hint="Upgrade adapterhub to use it",
            )
        return schema


def stamp_of(*paths: Path) -> Stamp:
    """Return a value that changes with the content of files; empty if it has just changed."""
    found = []
    for path in paths:
        with suppress(FileNotFoundError):
            found.append(path.stat())
    # a mere reader creates an empty WAL and removes it
    found = [stat for stat in found if stat.st_size]
    # a change in the same tick of the clock as an earlier one would not be visible
    if any(time.time() - stat.st_mtime < _CLOCK_TICK for stat in found):
        return ()
    return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in found)


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
