"""Sequences that move to a temporary file when they outgrow memory."""

from __future__ import annotations

import json
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from operator import eq
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias, overload

if TYPE_CHECKING:
    from collections.abc import Iterable

Example: TypeAlias = dict[str, Any]

#: JSON of examples in bytes up to which they stay in memory; there they take several times that.
MEMORY_BYTES = 32 * 1024**2


class Records:
    """Byte strings in a temporary file without a name, read by their index.

    The process holds 8 bytes for each. The file is in the folder that the environment variable
    ``TMPDIR`` names and disappears with the object.
    """

    def __init__(self) -> None:
        # a name in no folder: nothing is left behind where the process is killed
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the object
        self._ends = array("q")
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._ends)

    def append(self, record: bytes) -> None:
        """Add a record at the end; none may follow the first that is read."""
        self._file.write(record)
        self._ends.append((self._ends[-1] if self._ends else 0) + len(record))

    def __getitem__(self, index: int) -> bytes:
        start = self._ends[index - 1] if index else 0
        with self._lock:
            self._file.seek(start)
            return self._file.read(self._ends[index] - start)


class StoredExamples(Sequence[Example]):
    """Examples in a temporary file; each is decoded when it is read, and a copy of its own."""

    def __init__(self, records: Records, indices: Sequence[int]) -> None:
        self._records = records
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        if isinstance(index, slice):
            return StoredExamples(self._records, self._indices[index])
        return _decoded(self._records[self._indices[index]])

    def __iter__(self) -> Iterator[Example]:
        for index in self._indices:
            yield _decoded(self._records[index])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StoredExamples):
            return NotImplemented
        return len(self) == len(other) and all(map(eq, self, other))

    # as any sequence that may not be hashed
    __hash__ = None  # type: ignore[assignment]

    def select(self, indices: Sequence[int]) -> StoredExamples:
        """Return the examples at ``indices``, in that order, from the same file."""
        return StoredExamples(self._records, array("q", (self._indices[i] for i in indices)))


def _decoded(record: bytes) -> Example:
    # of bytes, json would look for the encoding each time
    example: Example = json.loads(record.decode())
    return example


def store(examples: Iterable[Example]) -> Sequence[Example]:
    """Return examples as a sequence: in memory, or in a temporary file where they are many.

    Examples with values that are not JSON, such as images, stay in memory.
    """
    kept: list[Example] = []
    size = 0
    remaining = iter(examples)
    for example in remaining:
        kept.append(example)
        try:
            size += len(json.dumps(example))
        except (TypeError, ValueError, RecursionError):
            return (*kept, *remaining)
        if size > MEMORY_BYTES:
            return _stored(kept, remaining)
    return tuple(kept)


def _stored(kept: list[Example], remaining: Iterator[Example]) -> Sequence[Example]:
    records = Records()
    for example in kept:
        records.append(json.dumps(example).encode())
    kept.clear()
    for example in remaining:
        try:
            records.append(json.dumps(example).encode())
        except (TypeError, ValueError, RecursionError):
            before = StoredExamples(records, range(len(records)))
            return (*before, example, *remaining)
    return StoredExamples(records, range(len(records)))


def pick(examples: Sequence[Example], indices: Sequence[int]) -> Sequence[Example]:
    """Return the examples at ``indices``, in that order."""
    if isinstance(examples, StoredExamples):
        return examples.select(indices)
    return tuple(examples[index] for index in indices)
