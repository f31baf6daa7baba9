"""Where rows come from, in plain words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

DataFormat = Literal["auto", "jsonl", "csv", "tsv", "parquet", "conll"]


@dataclass(frozen=True, slots=True)
class HubSource:
    """A data set on the Hugging Face Hub.

    Args:
        id: ``owner/name``.
        split: e.g. ``train``.
        revision: commit, branch or tag.
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
        columns: names of the columns of a CoNLL file, in order.
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
        numbers: of each row in its source, from 1.
    """

    origin: str
    rows: tuple[dict[str, Any], ...]
    numbers: tuple[int, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, index: int) -> str:
        """Return ``FILE row N`` for messages."""
        return f"{self.origin} row {self.numbers[index]}"

    def take(self, indices: list[int]) -> Rows:
        """Return the rows at ``indices``, in that order."""
        return Rows(
            self.origin,
            tuple(self.rows[index] for index in indices),
            tuple(self.numbers[index] for index in indices),
        )
