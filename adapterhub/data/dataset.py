"""A data set in memory, and its sources."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

DataFormat = Literal["auto", "jsonl", "csv", "tsv", "parquet", "conll"]


@dataclass(frozen=True, slots=True)
class HubSource:
    """A split of a data set on the Hugging Face Hub; only a commit as revision never changes."""

    id: str
    split: str
    revision: str | None = None
    config: str | None = None


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file of examples; ``columns`` names those of a CoNLL file, in order."""

    path: str
    format: DataFormat = "auto"
    columns: tuple[str, ...] = ("tokens", "pos", "chunk", "tags")


@dataclass(frozen=True, slots=True)
class Dataset:
    """Examples with their origin.

    Args:
        origin: File name or ``hub:owner/name``, for messages and records.
        examples: Values by column or field.
        numbers: Number of each example in its source, from 1, not counting header and blank
            lines; in a CoNLL file an example is a sentence.
        lines: Line on which each example starts, from 1; empty where the source has no lines.
        part: Part of ``origin`` that was read, if not all, for messages.
        untyped: Whether every value is text or missing, as in a CSV file.
        notes: What was changed in the values, a line for each kind of change.
    """

    origin: str
    examples: tuple[dict[str, Any], ...]
    numbers: tuple[int, ...] = ()
    lines: tuple[int, ...] = ()
    part: str = ""
    untyped: bool = False
    notes: tuple[str, ...] = ()

    @classmethod
    def whole(
        cls,
        origin: str,
        examples: Sequence[dict[str, Any]],
        lines: Sequence[int] = (),
        part: str = "",
    ) -> Dataset:
        """Return all examples of a source, numbered from 1."""
        numbers = range(1, len(examples) + 1)
        return cls(origin, tuple(examples), tuple(numbers), tuple(lines), part)

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def name(self) -> str:
        """Name of the source in messages."""
        return f"{self.origin} {self.part}" if self.part else self.origin

    def place(self, index: int) -> str:
        """Return ``FILE example N`` for messages, with the line where its number differs."""
        number = self.numbers[index]
        line = self.lines[index] if self.lines else number
        return f"{self.name} example {number}" + (f" (line {line})" if line != number else "")

    def select(self, indices: Sequence[int]) -> Dataset:
        """Return the examples at ``indices``, in that order."""
        return replace(
            self,
            examples=tuple(self.examples[index] for index in indices),
            numbers=tuple(self.numbers[index] for index in indices),
            lines=tuple(self.lines[index] for index in indices) if self.lines else (),
        )


def concatenate(first: Dataset, second: Dataset) -> Dataset:
    """Return the examples of both; their numbers remain those of each source."""
    return Dataset(
        f"{first.origin} + {second.origin}",
        (*first.examples, *second.examples),
        (*first.numbers, *second.numbers),
    )
