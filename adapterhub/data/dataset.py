"""Where examples come from, in plain words."""

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
    """A file of examples.

    Args:
        path: as given by the user.
        format: ``auto`` reads it off the file's ending.
        columns: names of the columns of a CoNLL file, in order; others name their own.
    """

    path: str
    format: DataFormat = "auto"
    columns: tuple[str, ...] = ("tokens", "pos", "chunk", "tags")


@dataclass(frozen=True, slots=True)
class Dataset:
    """Examples and where they came from.

    Args:
        origin: file name or ``hub:owner/name``, for messages and records.
        examples: column or field name to value.
        numbers: of each example in its source, from 1; header and blank lines do not count, and
            in a CoNLL file an example is a sentence.
        lines: line of the file on which each example starts, from 1; empty where the source has
            no lines.
        part: which part of ``origin`` was read, where that is not the whole, for messages.
    """

    origin: str
    examples: tuple[dict[str, Any], ...]
    numbers: tuple[int, ...] = field(default=())
    lines: tuple[int, ...] = ()
    part: str = ""

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def name(self) -> str:
        """How messages name the source."""
        return f"{self.origin} {self.part}" if self.part else self.origin

    def place(self, index: int) -> str:
        """Return ``FILE example N`` for messages, with the line where that is another number."""
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


def numbered(
    origin: str, examples: Sequence[dict[str, Any]], lines: Sequence[int] = (), part: str = ""
) -> Dataset:
    """Return all examples of a source, numbered from 1."""
    return Dataset(origin, tuple(examples), tuple(range(1, len(examples) + 1)), tuple(lines), part)


def joined(first: Dataset, second: Dataset) -> Dataset:
    """Return the examples of both, the first's before the second's; numbers stay those of each file."""
    return Dataset(
        f"{first.origin} + {second.origin}",
        (*first.examples, *second.examples),
        (*first.numbers, *second.numbers),
    )
