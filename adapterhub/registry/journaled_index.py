"""The index together with its journal: every change is in both, and a lost index is noticed."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from adapterhub.errors import RegistryError
from adapterhub.registry.database import Database, stamp_of
from adapterhub.registry.failures import REBUILD
from adapterhub.registry.journal import Journal, put_entry
from adapterhub.registry.journal_schema import JOURNALED, trigger_statements
from adapterhub.registry.schema import SCHEMA_CHANGES

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

    from adapterhub.registry.database import Stamp
    from adapterhub.registry.journal import Tail
    from adapterhub.registry.layout import Layout

_LOG = logging.getLogger(__name__)
_TRIGGERS = tuple(trigger_statements())


class JournaledIndex:
    """The index of one registry.

    An index that lacks what its journal holds (lost, emptied, or replaced by an older copy) raises
    ``RegistryError`` at every use, so that nothing is taken for unused or missing.

    Args:
        layout: Paths of the registry.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._database = Database(layout.index, SCHEMA_CHANGES)
        self._journal = Journal(layout.journal)

    @property
    def path(self) -> Path:
        """Path of the database."""
        return self._database.path

    def prepare(self) -> None:
        """Create index and journal if they do not exist, upgrade the schema, complete the journal.

        Nothing is created beside blobs that no index lists.
        """
        self._database.prepare()
        self._complete_journal()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Open a connection that sees one snapshot of the index."""
        # read first, since an entry is in the journal after it is in the index
        tail = self._journal.tail()
        with self._database.reading() as db:
            self._require_current(db, tail)
            yield db

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Open a connection with the write lock; commit at the end, or roll back on an error."""
        with self._database.writing() as db:
            tail = self._journal.tail()
            self._require_current(db, tail)
            for statement in _TRIGGERS:
                db.execute(statement)
            before = last_seq(db)
            yield db
            if tail is not None and last_seq(db) != before:
                db.execute("DELETE FROM journal WHERE seq <= ?", (tail.seq,))
        self._complete_journal()

    def stamp(self) -> Stamp:
        """Return a value that changes with index and journal; empty if they have just changed."""
        index, journal = self._database.stamp(), stamp_of(self._journal.path)
        return (*index, *journal) if index and journal else ()

    def damage(self) -> tuple[str, ...]:
        """Return what is wrong with the index; nothing if it is intact."""
        found = self._database.damage()
        if found:
            return tuple(f"is damaged: {text}" for text in found)
        tail = self._journal.tail()
        with self._database.reading() as db:
            problem = self._problem(db, tail)
        return (f"{problem}. {REBUILD}",) if problem else ()

    def _require_current(self, db: sqlite3.Connection, tail: Tail | None) -> None:
        if problem := self._problem(db, tail):
            raise RegistryError(problem, place=str(self.path), hint=REBUILD)

    def _problem(self, db: sqlite3.Connection, tail: Tail | None) -> str:
        if tail is None:
            lost = _is_empty(db) and self._layout.has_blobs()
            return "is empty, and there are artifacts beside it" if lost else ""
        seq = last_seq(db)
        if tail.seq > seq:
            kind = "empty" if _is_empty(db) else "older than its journal"
            return f"is {kind}: it has {seq} of the {tail.seq} changes in {self._journal.path.name}"
        return ""

    def _complete_journal(self) -> None:
        """Append the changes that the journal lacks; a journal that was lost is written anew."""
        try:
            tail = self._journal.tail()
            with self._database.reading() as db:
                if self._problem(db, tail) or _is_complete(db, tail):
                    return
            with self._database.writing() as db:
                self._append_missing(db)
        except (OSError, RegistryError) as error:
            # the next change, or the next process, tries again
            _LOG.warning("%s is behind the index: %s", self._journal.path, error)

    def _append_missing(self, db: sqlite3.Connection) -> None:
        tail, seq = self._journal.tail(), last_seq(db)
        if self._problem(db, tail) or _is_complete(db, tail):
            return
        first = tail.seq + 1 if tail else 0
        query = "SELECT seq, entry FROM journal WHERE seq >= ? ORDER BY seq"
        missing = [(row["seq"], row["entry"]) for row in db.execute(query, (first,))]
        if tail and tail.clean and len(missing) == seq - tail.seq:
            self._journal.append(missing)
        else:
            self._journal.replace(seq, entries(db))


def entries(db: sqlite3.Connection) -> Iterator[str]:
    """Yield an entry for every journaled row of an index."""
    for table, journaled in JOURNALED.items():
        columns = ", ".join((*journaled.key, *journaled.columns))
        for row in db.execute(f"SELECT {columns} FROM {table}"):
            yield put_entry(table, dict(row))


def last_seq(db: sqlite3.Connection) -> int:
    """Return the number of changes that an index has had."""
    found = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'journal'").fetchone()
    return int(found["seq"]) if found else 0


def _is_complete(db: sqlite3.Connection, tail: Tail | None) -> bool:
    return tail is not None and tail.clean and tail.seq == last_seq(db)


def _is_empty(db: sqlite3.Connection) -> bool:
    return db.execute("SELECT 1 FROM names LIMIT 1").fetchone() is None
