"""Where rows come from, in plain words."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

DataFormat = Literal["auto", "jsonl", "csv", "tsv", "parquet", "conll"]


@dataclass(frozen=True, slots=True)
class HubSource:
    """A data set on the Hugging Face Hub.

    Args:
        id: ``owner/name``.
        split: e.g. ``train``; slices such as ``train[:10%]`` work too.
        revision: commit, branch or tag; only a commit stays the same for ever.
        config: name of the configuration, where the set has several.
    """

    id: str
    split: str
    revision: str | None = None
    config: str | None = None


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file of rows.

    Args:
        path: as given by the user.
        format: ``auto`` reads it off the file's ending.
        columns: names of the columns of a CoNLL file, in order; others name their own.
    """

    path: str
    format: DataFormat = "auto"
    columns: tuple[str, ...] = ("tokens", "pos", "chunk", "tags")


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows and where they came from.

    Args:
        origin: file name or ``hub:owner/name``, for messages and records.
        rows: column or field name to value.
        numbers: of each row in its source, from 1; header and blank lines do not count, and
            in a CoNLL file a row is a sentence.
        lines: line of the file on which each row starts, from 1; empty where the source has
            no lines.
        part: which part of ``origin`` was read, where that is not the whole, for messages.
    """

    origin: str
    rows: tuple[dict[str, Any], ...]
    numbers: tuple[int, ...] = field(default=())
    lines: tuple[int, ...] = ()
    part: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def name(self) -> str:
        """How messages name the source."""
        return f"{self.origin} {self.part}" if self.part else self.origin

    def place(self, index: int) -> str:
        """Return ``FILE row N`` for messages, with the line where that is another number."""
        number = self.numbers[index]
        line = self.lines[index] if self.lines else number
        return f"{self.name} row {number}" + (f" (line {line})" if line != number else "")

    def take(self, indices: Sequence[int]) -> Rows:
        """Return the rows at ``indices``, in that order."""
        return replace(
            self,
            rows=tuple(self.rows[index] for index in indices),
            numbers=tuple(self.numbers[index] for index in indices),
            lines=tuple(self.lines[index] for index in indices) if self.lines else (),
        )


def numbered(
    origin: str, rows: Sequence[dict[str, Any]], lines: Sequence[int] = (), part: str = ""
) -> Rows:
    """Return all rows of a source, numbered from 1."""
    return Rows(origin, tuple(rows), tuple(range(1, len(rows) + 1)), tuple(lines), part)


def joined(first: Rows, second: Rows) -> Rows:
    """Return the rows of both, the first's before the second's; numbers stay those of each file."""
    return Rows(
        f"{first.origin} + {second.origin}",
        (*first.rows, *second.rows),
        (*first.numbers, *second.numbers),
    )
