"""Tables of the index that its journal follows, and the triggers that record their changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True, slots=True)
class JournaledTable:
    """One table whose rows cannot be made again from the artifacts.

    Args:
        key: Columns of the primary key.
        columns: Other columns.
    """

    key: tuple[str, ...]
    columns: tuple[str, ...] = ()


#: Tables in the order in which their rows may refer to each other.
JOURNALED: Mapping[str, JournaledTable] = {
    "settings": JournaledTable(("name",), ("value",)),
    "trusted_keys": JournaledTable(("key",), ("name", "pem", "added")),
    "names": JournaledTable(("name",), ("last_version",)),
    "versions": JournaledTable(("name", "version"), ("digest", "created", "info")),
    "tags": JournaledTable(("name", "version", "tag")),
    "aliases": JournaledTable(("name", "alias"), ("version",)),
    "alias_log": JournaledTable(
        ("id",), ("name", "alias", "time", "who", "from_version", "to_version", "why")
    ),
    "alias_rules": JournaledTable(("name", "alias"), ("rule",)),
    "evaluations": JournaledTable(
        ("id",), ("digest", "time", "who", "data", "data_fingerprint", "result")
    ),
    "signatures": JournaledTable(("digest", "key"), ("sha256", "size", "time")),
    "removed_blobs": JournaledTable(("sha256",), ("time",)),
}

#: Entries that are not in the journal file yet, and some that are.
CREATE_JOURNAL = """CREATE TABLE journal (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    entry TEXT NOT NULL
)"""


def trigger_statements() -> Iterator[str]:
    """Yield the statements that make a connection record every change of a journaled table.

    The triggers are temporary: stored ones would be parsed by every connection, also to read.
    """
    for table, journaled in JOURNALED.items():
        columns = (*journaled.key, *journaled.columns)
        for event in ("INSERT", "UPDATE"):
            yield _trigger(table, event, "put", "NEW", columns)
        yield _trigger(table, "DELETE", "delete", "OLD", journaled.key)


def _trigger(table: str, event: str, change: str, row: str, columns: tuple[str, ...]) -> str:
    values = ", ".join(f"'{column}', {row}.{column}" for column in columns)
    return (
        f"CREATE TEMP TRIGGER journal_{table}_{event.lower()} AFTER {event} ON main.{table} BEGIN "
        f"INSERT INTO journal (entry) VALUES "
        f"(json_object('{change}', '{table}', 'row', json_object({values}))); END"
    )
