"""Tables of delimited values: CSV with any delimiter, and TSV."""

from __future__ import annotations

import csv
from dataclasses import replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Literal

from adapterhub.data.dataset import Dataset
from adapterhub.errors import DataError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

#: Delimiters that are found in CSV files, and their names.
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
#: Lines from which the delimiter is found.
_SAMPLE_LINES = 200


def parse_delimited(
    lines: Iterable[str],
    origin: str,
    kind: Literal["csv", "tsv"],
    delimiter: str | None = None,
) -> Dataset:
    """Return one example of texts for each record after the header; an empty cell is ``None``.

    CSV follows RFC 4180: a quoted value may hold delimiters, doubled quotes and line ends. In TSV
    quotes are ordinary characters, as in the media type ``text/tab-separated-values`` and in the
    files of GLUE.

    Args:
        lines: Lines of the file with their ends.
        origin: Name in messages.
        kind: ``csv`` or ``tsv``.
        delimiter: Delimiter of a CSV file; found from the first lines where not given.

    Raises:
        DataError: naming the line with more or fewer values than the header, or a bad header.
        RecipeError: when the delimiter is no single character.
    """
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise RecipeError(f"must be one character, not {delimiter!r}", place="data.delimiter")
    remaining = iter(lines)
    sample = list(islice(remaining, _SAMPLE_LINES))
    note = ""
    if kind == "tsv":
        delimiter = "\t"
    elif delimiter is None:
        delimiter, sample = _delimiter(sample)
        if delimiter != ",":
            note = f"{origin}: the values are separated by {DELIMITERS[delimiter]}"
    records = _records(chain(sample, remaining), origin, kind, delimiter)
    line, header = next(records)
    header = [name.strip() for name in header]
    _check_header(header, f"{origin} line {line}", kind)
    found = replace(Dataset.read(origin, _examples(records, header, origin, kind)), untyped=True)
    return found.noting(note) if note else found


def _examples(
    records: Iterable[tuple[int, list[str]]], header: Sequence[str], origin: str, kind: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, values in records:
        if len(values) != len(header):
            raise _ragged(len(values), len(header), f"{origin} line {line}", kind)
        yield line, dict(zip(header, (value or None for value in values), strict=True))


def _delimiter(sample: list[str]) -> tuple[str, list[str]]:
    """Return the delimiter of a CSV file, and its first lines without one that names it.

    It is the one that splits most of the first records into the most columns of the header.
    """
    first = sample[0].strip().lower() if sample else ""
    if first.startswith("sep=") and sample[0].strip()[4:] in DELIMITERS:
        # Excel's note; the line stays, blank, so that line numbers are right
        return sample[0].strip()[4:], ["\n", *sample[1:]]
    if first == "sep=":
        return "\t", ["\n", *sample[1:]]
    best, score = ",", (0.0, 0)
    for delimiter in DELIMITERS:
        try:
            rows = [row for row in csv.reader(sample, delimiter=delimiter) if row]
        except csv.Error:
            continue
        columns = len(rows[0]) if rows else 0
        if columns < 2:
            continue
        fitting = sum(len(row) == columns for row in rows) / len(rows)
        if (fitting, columns) > score:
            best, score = delimiter, (fitting, columns)
    return best, sample


def _records(
    lines: Iterable[str], origin: str, kind: Literal["csv", "tsv"], delimiter: str
) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line of each record, from 1, and its values, without blank lines."""
    if kind == "csv":
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
    else:
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    start = 1
    try:
        for values in reader:
            if values:
                yield start, values
            start = reader.line_num + 1
    except csv.Error as error:
        hint = "Is a quote left open?" if kind == "csv" else ""
        if "field limit" in str(error):
            hint = "JSON Lines has no such limit" + (", or a quote is left open" if hint else "")
        elif kind == "csv" and delimiter == "," and start == 1:
            hint = "If the values are not separated by commas, set data.delimiter"
        raise DataError(str(error), place=f"{origin} line {start}", hint=hint) from error


def _check_header(header: list[str], place: str, kind: str) -> None:
    if "" in header:
        raise DataError(
            f"column {header.index('') + 1} has no name",
            place=place,
            hint="Name it, or save the table without its index" if not header[0] else "",
        )
    for name in header:
        if header.count(name) > 1:
            raise DataError(f"two columns are named {name!r}", place=place)
    if kind == "tsv" and len(header) == 1 and "," in header[0]:
        raise DataError(
            "the header has no tabs but commas", place=place, hint="Set data.format to csv"
        )


def _ragged(found: int, expected: int, place: str, kind: str) -> DataError:
    hint = ""
    if kind == "csv" and found > expected:
        hint = "Put values that hold the delimiter in quotes, or set data.delimiter"
    return DataError(
        f"has {found} values, the header has {expected}",
        place=place,
        hint=hint,
    )
