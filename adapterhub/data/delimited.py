"""CSV and TSV with a header line."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Literal

from adapterhub.data.dataset import Dataset, numbered
from adapterhub.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator


def parse_delimited(text: str, origin: str, kind: Literal["csv", "tsv"]) -> Dataset:
    """Return one example of texts for each record after the header; an empty cell is ``None``.

    CSV is read as RFC 4180 has it: a value in quotes may hold commas, doubled quotes and
    line ends. In TSV quotes are characters like others, as in its media type
    ``text/tab-separated-values`` and in the files of GLUE.

    Args:
        text: of the file.
        origin: how errors name the file.
        kind: of file.

    Raises:
        DataError: naming the line that has more or fewer values than the header, or a bad
            header.
    """
    records = _records(text, origin, kind)
    line, header = next(records)
    _check_header(header, f"{origin} line {line}", kind)
    examples: list[dict[str, str | None]] = []
    lines: list[int] = []
    for line, values in records:
        if len(values) != len(header):
            raise _ragged(len(values), len(header), f"{origin} line {line}", kind)
        examples.append(dict(zip(header, (value or None for value in values), strict=True)))
        lines.append(line)
    return numbered(origin, examples, lines)


def _records(
    text: str, origin: str, kind: Literal["csv", "tsv"]
) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each record starts, from 1, and its values; no blank lines."""
    stream = io.StringIO(text, newline="")
    if kind == "csv":
        reader = csv.reader(stream, strict=True)
    else:
        reader = csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
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
        raise DataError(str(error), place=f"{origin} line {start}", hint=hint) from error


def _check_header(header: list[str], place: str, kind: str) -> None:
    if "" in header:
        raise DataError(f"column {header.index('') + 1} has no name", place=place)
    for name in header:
        if header.count(name) > 1:
            raise DataError(f"two columns are named {name!r}", place=place)
    other = {"csv": "\t", "tsv": ","}[kind]
    if len(header) == 1 and other in header[0]:
        expected, found = {"csv": ("commas", "tabs"), "tsv": ("tabs", "commas")}[kind]
        raise DataError(
            f"the header has no {expected} but {found}",
            place=place,
            hint=f"Set the format to {'tsv' if kind == 'csv' else 'csv'}",
        )


def _ragged(found: int, expected: int, place: str, kind: str) -> DataError:
    return DataError(
        f"has {found} values, the header has {expected}",
        place=place,
        hint="Put values that hold a comma in quotes" if kind == "csv" and found > expected else "",
    )
