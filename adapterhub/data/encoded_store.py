"""Encoded examples that move to a temporary file when they outgrow memory."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

from adapterhub.data.packing import EncodedExample
from adapterhub.data.store import Records

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Numbers (tokens, positions, targets) of examples up to which they stay in memory.
MEMORY_NUMBERS = 2_000_000
#: 32-bit integers before the numbers of an example: number, truncated, and four counts.
_HEADER = 6


class StoredEncoded(Sequence[EncodedExample]):
    """Encoded texts in a temporary file as 32-bit integers; each is decoded when it is read."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> EncodedExample: ...
    @overload
    def __getitem__(self, index: slice) -> list[EncodedExample]: ...
    def __getitem__(self, index: int | slice) -> EncodedExample | list[EncodedExample]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return _decoded(self._records[index % len(self)])


def store_encoded(examples: Iterable[EncodedExample]) -> Sequence[EncodedExample]:
    """Return encoded examples as a sequence: in memory, or in a file where they are many.

    Images and recordings stay where they are.
    """
    kept: list[EncodedExample] = []
    numbers = 0
    remaining = iter(examples)
    for example in remaining:
        kept.append(example)
        if example.media is None:
            numbers += len(example) + len(example.select) + len(example.targets)
        if numbers > MEMORY_NUMBERS:
            return _stored(kept, remaining)
    return kept


def _stored(kept: list[EncodedExample], remaining: Iterator[EncodedExample]) -> StoredEncoded:
    records = Records()
    for example in kept:
        records.append(_encoded(example))
    kept.clear()
    for example in remaining:
        records.append(_encoded(example))
    return StoredEncoded(records)


def _encoded(example: EncodedExample) -> bytes:
    parts = (example.input_ids, example.select, example.targets, example.segment_ids)
    numbers = array("i", [example.number, int(example.truncated), *map(len, parts)])
    for part in parts:
        numbers.extend(part)
    return numbers.tobytes()


def _decoded(record: bytes) -> EncodedExample:
    numbers = array("i")
    numbers.frombytes(record)
    number, truncated, *counts = numbers[:_HEADER]
    at = _HEADER
    parts: list[list[int]] = []
    for count in counts:
        parts.append(numbers[at : at + count].tolist())
        at += count
    input_ids, select, targets, segment_ids = parts
    return EncodedExample(
        number, input_ids, select, targets, segment_ids, truncated=bool(truncated)
    )
