"""Read rows from files and from the Hub; nothing that is read can run."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from adapterhub.data.source import DataFormat, FileSource, HubSource, Rows
from adapterhub.errors import DataError, near

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_ENDINGS: dict[str, DataFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".conll": "conll",
    ".txt": "conll",
}


def read_rows(source: FileSource | HubSource) -> Rows:
    """Read all rows of a source.

    Raises:
        DataError: naming file and line when it is missing, empty or broken.
    """
    rows = _read_hub(source) if isinstance(source, HubSource) else _read_file(source)
    if not rows.rows:
        raise DataError("holds no rows", place=rows.origin)
    return rows


def _read_file(source: FileSource) -> Rows:
    path = Path(source.path)
    if not path.is_file():
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = near(path.name, names) if names else f"There is no folder {path.parent}"
        raise DataError("no such file", place=source.path, hint=hint)
    kind = _format(path, source.format)
    if kind == "parquet":
        return _numbered(path.name, _parquet(path))
    parse: Callable[[IO[str], str], Iterable[tuple[int, dict[str, Any]]]]
    if kind == "jsonl":
        parse = _json_lines
    elif kind == "conll":
        parse = lambda file, name: _conll(file, name, source.columns)  # noqa: E731
    else:
        parse = lambda file, name: _delimited(file, name, "\t" if kind == "tsv" else ",")  # noqa: E731
    try:
        with _open(path) as file:
            pairs = list(parse(file, path.name))
    except UnicodeDecodeError:
        raise DataError("is not UTF-8 text", place=path.name) from None
    except (OSError, EOFError) as error:
        raise DataError(f"can't be read: {error}", place=path.name) from error
    return Rows(path.name, tuple(row for _, row in pairs), tuple(number for number, _ in pairs))


def _format(path: Path, asked: DataFormat) -> DataFormat:
    if asked != "auto":
        return asked
    endings = [suffix for suffix in path.suffixes if suffix != ".gz"]
    kind = _ENDINGS.get(endings[-1].lower()) if endings else None
    if kind is None:
        raise DataError(
            "the format can't be told from the file's ending",
            place=path.name,
            hint=f"Set data.format to one of {', '.join(sorted(set(_ENDINGS.values())))}",
        )
    return kind


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _json_lines(file: IO[str], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"is not JSON: {error.msg}", place=f"{name} line {number}") from None
        if not isinstance(row, dict):
            raise DataError("is not a JSON object", place=f"{name} line {number}")
        yield number, row


def _delimited(file: IO[str], name: str, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    try:
        header = next(reader, None)
        if header is None:
            return
        for number, cells in enumerate(reader, start=1):
            if not cells:
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"has {len(cells)} cells, the header has {len(header)}",
                    place=f"{name} line {reader.line_num}",
                )
            yield number, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"is not CSV: {error}", place=f"{name} line {reader.line_num}") from None


def _conll(
    file: IO[str], name: str, columns: tuple[str, ...]
) -> Iterator[tuple[int, dict[str, Any]]]:
    number, words = 0, list[list[str]]()
    for line_number, line in enumerate(file, start=1):
        cells = line.split()
        if not cells or cells[0] == "-DOCSTART-":
            if words:
                number += 1
                yield number, _sentence(columns, words)
                words = []
            continue
        if len(cells) != len(columns):
            raise DataError(
                f"has {len(cells)} columns, expected {len(columns)} ({', '.join(columns)})",
                place=f"{name} line {line_number}",
                hint="Name the columns of the file in data.columns",
            )
        words.append(cells)
    if words:
        yield number + 1, _sentence(columns, words)


def _sentence(columns: tuple[str, ...], words: list[list[str]]) -> dict[str, Any]:
    return {column: [word[index] for word in words] for index, column in enumerate(columns)}


def _parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()  # type: ignore[no-any-return]
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"is not Parquet: {error}", place=path.name) from error


def _read_hub(source: HubSource) -> Rows:
    import datasets

    place = f"hub:{source.id}"
    try:
        loaded = datasets.load_dataset(
            source.id, source.config, split=source.split, revision=source.revision
        )
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        lines = str(error).strip().splitlines()
        raise DataError(
            f"the Hub did not give split {source.split!r}: {lines[0] if lines else error!r}",
            place=place,
            hint="Check data.hub.id, the names of its splits, and the connection",
        ) from error
    return _numbered(place, [dict(row) for row in loaded])


def _numbered(origin: str, rows: list[dict[str, Any]]) -> Rows:
    return Rows(origin, tuple(rows), tuple(range(1, len(rows) + 1)))
