"""Parsers of the supported file formats: JSON Lines, CSV, TSV, CoNLL columns and Parquet."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from adapterhub.data.class_names import named_classes
from adapterhub.data.dataset import Dataset
from adapterhub.data.files import check_size
from adapterhub.errors import DataError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

#: Separator of CoNLL columns; words may hold other white space, such as a no-break space.
_GAP = re.compile("[ \t]+")
_DOCUMENT_START = "-DOCSTART-"
#: Comments of CoNLL-U. Source: https://universaldependencies.org/format.html
_COMMENT = re.compile(r"#\s*(sent_id|text|newdoc|newpar|global\.columns)\b")


def parse_json_lines(text: str, origin: str) -> Dataset:
    """Return one example for each line that is not blank.

    Raises:
        DataError: naming the line that is not a plain JSON object.
    """
    examples: list[dict[str, Any]] = []
    lines: list[int] = []
    # only line feeds end a line: a JSON string may hold U+2028 and others unescaped
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            examples.append(_parse_object(line, f"{origin} line {number}"))
            lines.append(number)
    return Dataset.whole(origin, examples, lines)


def parse_delimited(text: str, origin: str, kind: Literal["csv", "tsv"]) -> Dataset:
    """Return one example of texts for each record after the header; an empty cell is ``None``.

    CSV follows RFC 4180: a quoted value may hold commas, doubled quotes and line ends. In TSV
    quotes are ordinary characters, as in the media type ``text/tab-separated-values`` and in the
    files of GLUE.

    Raises:
        DataError: naming the line with more or fewer values than the header, or a bad header.
    """
    records = _records(text, origin, kind)
    line, header = next(records)
    header = [name.strip() for name in header]
    _check_header(header, f"{origin} line {line}", kind)
    examples: list[dict[str, str | None]] = []
    lines: list[int] = []
    for line, values in records:
        if len(values) != len(header):
            raise _ragged(len(values), len(header), f"{origin} line {line}", kind)
        examples.append(dict(zip(header, (value or None for value in values), strict=True)))
        lines.append(line)
    return replace(Dataset.whole(origin, examples, lines), untyped=True)


def parse_conll(text: str, origin: str, columns: Sequence[str]) -> Dataset:
    """Return one example per sentence, with a list per column and a value per word.

    Lines whose first column is ``-DOCSTART-`` are skipped, and so are comments before a sentence.

    Raises:
        DataError: naming the line with another number of columns.
        RecipeError: when there are no column names or duplicates.
    """
    if not columns or len(set(columns)) < len(columns):
        raise RecipeError("needs a distinct name for each column", place="data.columns")
    examples: list[dict[str, Any]] = []
    lines: list[int] = []
    words: list[list[str]] = []
    # only line feeds end a line; the added blank line ends the last sentence
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        values = _GAP.split(stripped) if (stripped := line.strip(" \t\r")) else []
        if values and not words and _is_comment(stripped, values, columns):
            continue
        if values and values[0] != _DOCUMENT_START:
            if len(values) != len(columns):
                raise _wrong_columns(len(values), columns, f"{origin} line {number}")
            if not words:
                lines.append(number)
            words.append(values)
        elif words:
            examples.append(dict(zip(columns, map(list, zip(*words, strict=True)), strict=True)))
            words = []
    return Dataset.whole(origin, examples, lines)


def _is_comment(line: str, values: Sequence[str], columns: Sequence[str]) -> bool:
    """Return whether a line before a sentence is a comment, as in CoNLL-U."""
    if not line.startswith("#"):
        return False
    # a word may begin with the sign, and its line then has all columns
    return len(values) != len(columns) or _COMMENT.match(line) is not None


def read_parquet(path: Path, origin: str) -> Dataset:
    """Return the examples of a Parquet file as plain Python values, with the names of classes.

    Raises:
        DataError: when it is not a Parquet file, damaged, or too large once unpacked.
    """
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            groups = range(file.metadata.num_row_groups)
            check_size(sum(file.metadata.row_group(i).total_byte_size for i in groups), origin)
            table = file.read()
    except (ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"can't be read as Parquet: {reason}", place=origin) from error
    metadata = table.schema.metadata or {}
    examples = named_classes(table.to_pylist(), metadata.get(b"huggingface"), origin)
    return Dataset.whole(origin, examples)


def _parse_object(line: str, place: str) -> dict[str, Any]:
    try:
        example = json.loads(line, object_pairs_hook=_unique_keys, parse_constant=_reject_constant)
    except json.JSONDecodeError as error:
        raise DataError(
            f"is not valid JSON: {error.msg} at column {error.colno}",
            place=place,
            hint=_document_hint(line),
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not valid JSON: {error}", place=place) from error
    if not isinstance(example, dict):
        raise DataError(
            f"must be a JSON object, not {type(example).__name__}",
            place=place,
            hint=_document_hint(line),
        )
    _check_characters(line, example, place)
    return example


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    example = dict(pairs)
    if len(example) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is repeated")
    return example


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _check_characters(line: str, example: dict[str, Any], place: str) -> None:
    """Reject half a surrogate pair: ``json`` accepts it, tokenizers and files do not."""
    if "\\ud" not in line.lower():
        return
    try:
        json.dumps(example, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DataError("holds one half of a character, such as \\ud83d", place=place) from error


def _document_hint(line: str) -> str:
    if line.strip() in ("{", "[") or line.lstrip().startswith("["):
        return "JSON Lines has one whole object a line; this looks like one JSON document"
    return ""


def _records(
    text: str, origin: str, kind: Literal["csv", "tsv"]
) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line of each record, from 1, and its values, without blank lines."""
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
        if kind == "csv" and start == 1 and text.partition("\n")[0].count('";"'):
            _check_separator(text.partition("\n")[0], f"{origin} line 1")
        hint = "Is a quote left open?" if kind == "csv" else ""
        if "field limit" in str(error):
            hint = "JSON Lines has no such limit" + (", or a quote is left open" if hint else "")
        raise DataError(str(error), place=f"{origin} line {start}", hint=hint) from error


def _check_separator(line: str, place: str) -> None:
    """Reject a first line with another separator, or Excel's line that names it."""
    named = line.strip().lower()
    for separator, name in ((";", "semicolons"), ("|", "vertical bars")):
        if separator in line or named == f"sep={separator}":
            raise DataError(
                f"the values are separated by {name}",
                place=place,
                hint="Save it with commas, and values that hold a comma in quotes",
            )


def _check_header(header: list[str], place: str, kind: str) -> None:
    if header[0].strip().lower() == "sep=":
        raise DataError(
            "is a note on the separator for spreadsheets", place=place, hint="Remove this line"
        )
    if "" in header:
        raise DataError(
            f"column {header.index('') + 1} has no name",
            place=place,
            hint="Name it, or save the table without its index" if not header[0] else "",
        )
    for name in header:
        if header.count(name) > 1:
            raise DataError(f"two columns are named {name!r}", place=place)
    other = {"csv": "\t", "tsv": ","}[kind]
    if len(header) == 1:
        _check_separator(header[0], place)
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


def _wrong_columns(found: int, columns: Sequence[str], place: str) -> DataError:
    return DataError(
        f"has {found} columns instead of {len(columns)} ({', '.join(columns)})",
        place=place,
        hint="Name the columns of the file, in order, in data.columns",
    )
