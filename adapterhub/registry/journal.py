"""The journal: an append-only file beside the index that the index can be made from again.

A line holds a checksum, the number of the entry, and the entry: a row that was put into a table of
the index, or the key of one that was deleted. Entries are appended after the transaction that made
them, so the index may be ahead of its journal, and never behind it.
"""

from __future__ import annotations

import json
import os
import secrets
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterhub.errors import RegistryError
from adapterhub.registry.journal_schema import JOURNALED
from adapterhub.registry.layout import sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_TAIL = 4096
_HEAD = '{"begin": "journal"}'
#: State of the journaled tables: table to key to row.
Rows = dict[str, dict[tuple[Any, ...], dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Tail:
    """End of a journal file.

    Args:
        seq: Number of the last entry that is whole.
        clean: Whether the file ends with it, and not with the remains of a killed process.
    """

    seq: int
    clean: bool


@dataclass(frozen=True, slots=True)
class Replay:
    """Result of reading a whole journal.

    Args:
        rows: Rows at its end.
        digests: Digests of artifacts and signatures that it names anywhere.
        seq: Number of the last entry.
        damaged: Number of lines that could not be read.
    """

    rows: Rows
    digests: frozenset[str]
    seq: int
    damaged: int


class Journal:
    """The journal file of one registry.

    ``append`` and ``replace`` require the write lock of the index.

    Args:
        path: Absolute path of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def tail(self) -> Tail | None:
        """Return the end of the file; ``None`` if there is no file, or nothing whole in it."""
        try:
            with self.path.open("rb") as file:
                return _tail(file.fileno(), os.fstat(file.fileno()).st_size)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RegistryError(
                f"cannot be read: {error.strerror}", place=str(self.path)
            ) from error

    def append(self, entries: Iterable[tuple[int, str]]) -> None:
        """Add entries at the end and sync them to disk."""
        content = "".join(_line(seq, entry) for seq, entry in entries).encode()
        with self.path.open("ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def replace(self, seq: int, entries: Iterable[str]) -> None:
        """Write a new file whose entries all have the number ``seq``, and move it into place."""
        partial = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}")
        try:
            with partial.open("x", encoding="utf-8") as file:
                file.write(_line(seq, _HEAD))
                file.writelines(_line(seq, entry) for entry in entries)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.path)
            sync_folder(self.path.parent)
        finally:
            partial.unlink(missing_ok=True)

    def replay(self) -> Replay | None:
        """Read the whole file; ``None`` if there is none, or nothing whole in it."""
        rows: Rows = {table: {} for table in JOURNALED}
        digests: set[str] = set()
        last, damaged = -1, 0
        for found in self._entries():
            if found is None:
                damaged += 1
                continue
            last = max(last, found[0])
            _apply(rows, digests, json.loads(found[1]))
        return None if last < 0 else Replay(rows, frozenset(digests), last, damaged)

    def _entries(self) -> Iterator[tuple[int, str] | None]:
        try:
            with self.path.open("rb") as file:
                yield from map(_parse, file)
        except FileNotFoundError:
            return


def put_entry(table: str, row: dict[str, Any]) -> str:
    """Return the entry of a row, as the triggers write it."""
    return json.dumps({"put": table, "row": row}, ensure_ascii=False, separators=(",", ":"))


def _apply(rows: Rows, digests: set[str], entry: dict[str, Any]) -> None:
    table = str(entry.get("put") or entry.get("delete"))
    if table not in JOURNALED:
        return
    row = entry["row"]
    key = tuple(row[column] for column in JOURNALED[table].key)
    digests.update(value for value in (row.get("digest"), row.get("sha256")) if value)
    if "put" in entry:
        # a row that is put again comes after those that it may refer to
        rows[table].pop(key, None)
        rows[table][key] = row
    else:
        rows[table].pop(key, None)


def _line(seq: int, entry: str) -> str:
    text = f"{seq} {entry}"
    return f"{zlib.crc32(text.encode()):08x} {text}\n"


def _parse(line: bytes) -> tuple[int, str] | None:
    """Return number and entry of a line; ``None`` if it is damaged or not whole."""
    checksum, _, text = line.partition(b" ")
    if not text.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text[:-1]):
        return None
    seq, _, entry = text[:-1].decode("utf-8").partition(" ")
    return int(seq), entry


def _tail(descriptor: int, size: int) -> Tail | None:
    length = _TAIL
    while True:
        start = max(0, size - length)
        lines = os.pread(descriptor, size - start, start).splitlines(keepends=True)
        # the first line of a part of the file may have lost its beginning
        for number, line in enumerate(reversed(lines if start == 0 else lines[1:])):
            if found := _parse(line):
                return Tail(found[0], clean=number == 0)
        if start == 0:
            return None
        length *= 8
