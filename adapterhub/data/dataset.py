"""A data set and its sources."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from adapterhub.data.store import pick, store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

#: Formats of files.
FileFormat = Literal[
    "jsonl", "json", "csv", "tsv", "parquet", "conll", "conllu", "voc", "text", "arrow"
]


#: Notes that several files together have at most.
_SHOWN_NOTES = 20


@dataclass(frozen=True, slots=True)
class HubSource:
    """A split of a data set on the Hugging Face Hub; only a commit as revision never changes."""

    id: str
    split: str
    revision: str | None = None
    config: str | None = None


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file of examples, or a folder that is one data set.

    Args:
        path: Path of the file or folder.
        format: Format of the file; ``auto`` infers it from the name.
        columns: Names of the columns of a CoNLL file, in order.
        encoding: Encoding of text; by default UTF-8, or what a byte-order mark says.
        delimiter: Character between the values of a CSV file; found where not given.
    """

    path: str
    format: FileFormat | Literal["auto"] = "auto"
    columns: tuple[str, ...] = ("tokens", "pos", "chunk", "tags")
    encoding: str | None = None
    delimiter: str | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """Examples with their origin.

    Args:
        origin: File name or ``hub:owner/name``, for messages and records.
        examples: Values by column or field; in a temporary file where they are many.
        numbers: Number of each example in its source, from 1, not counting header and blank
            lines; in a CoNLL file an example is a sentence.
        lines: Line on which each example starts, from 1; empty where the source has no lines.
        part: Part of ``origin`` that was read, if not all, for messages.
        untyped: Whether every value is text or missing, as in a CSV file.
        notes: What was recognized or changed, a line for each kind of change.
        names: Name of each source in messages, where there are several.
        name_indices: Index in ``names`` of the source of each example.
    """

    origin: str
    examples: Sequence[dict[str, Any]]
    numbers: Sequence[int] = ()
    lines: Sequence[int] = ()
    part: str = ""
    untyped: bool = False
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    name_indices: Sequence[int] = ()

    @classmethod
    def whole(
        cls,
        origin: str,
        examples: Iterable[dict[str, Any]],
        lines: Sequence[int] = (),
        part: str = "",
    ) -> Dataset:
        """Return all examples of a source, numbered from 1."""
        kept = store(examples)
        return cls(origin, kept, range(1, len(kept) + 1), lines, part)

    @classmethod
    def read(cls, origin: str, numbered: Iterable[tuple[int, dict[str, Any]]]) -> Dataset:
        """Return all examples of a file, given with the line on which each starts."""
        lines = array("q")

        def examples() -> Iterator[dict[str, Any]]:
            for line, example in numbered:
                lines.append(line)
                yield example

        return cls.whole(origin, examples(), lines)

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def name(self) -> str:
        """Name of the source in messages."""
        return f"{self.origin} {self.part}" if self.part else self.origin

    def place(self, index: int) -> str:
        """Return ``FILE example N`` for messages, with the line where its number differs."""
        name = self.names[self.name_indices[index]] if self.names else self.name
        number = self.numbers[index]
        line = self.lines[index] if self.lines else number
        shown = f" (line {line})" if line not in (number, 0) else ""
        return f"{name} example {number}{shown}"

    def map(self, change: Callable[[dict[str, Any], int], dict[str, Any]]) -> Dataset:
        """Return the examples changed by a function of the example and its index."""
        changed = (change(example, index) for index, example in enumerate(self.examples))
        return replace(self, examples=store(changed))

    def noting(self, *notes: str) -> Dataset:
        """Return the data set with further notes."""
        return replace(self, notes=(*self.notes, *notes))

    def select(self, indices: Sequence[int]) -> Dataset:
        """Return the examples at ``indices``, in that order."""
        return replace(
            self,
            examples=pick(self.examples, indices),
            numbers=_at(self.numbers, indices),
            lines=_at(self.lines, indices),
            name_indices=_at(self.name_indices, indices),
        )


def concatenate(*parts: Dataset) -> Dataset:
    """Return the examples of several data sets; their numbers remain those of each source."""
    if len(parts) == 1:
        return parts[0]
    names: list[str] = []
    indices = array("q")
    for each in parts:
        indices.extend(len(names) + index for index in each.name_indices or [0] * len(each))
        names += each.names or (each.name,)
    origins = list(dict.fromkeys(each.origin for each in parts))
    first, *rest = origins
    notes = list(dict.fromkeys(note for each in parts for note in each.notes))
    if len(notes) > _SHOWN_NOTES:
        notes[_SHOWN_NOTES:] = [f"and {len(notes) - _SHOWN_NOTES} more notes, of other files"]
    more = f" and {len(rest)} more" if len(rest) > 1 else "".join(f" + {each}" for each in rest)
    return Dataset(
        origin=f"{first}{more}",
        examples=store(chain.from_iterable(each.examples for each in parts)),
        numbers=array("q", chain.from_iterable(each.numbers for each in parts)),
        # 0 where a source has no lines
        lines=array("q", chain.from_iterable(each.lines or [0] * len(each) for each in parts)),
        untyped=any(each.untyped for each in parts),
        notes=tuple(notes),
        names=tuple(names),
        name_indices=indices,
    )


def _at(values: Sequence[int], indices: Sequence[int]) -> Sequence[int]:
    return array("q", (values[index] for index in indices)) if values else ()
