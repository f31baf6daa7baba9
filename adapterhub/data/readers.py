"""Reader of examples from files and from the Hub; no code of a data set is run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.data.arrow import read_parquet, read_saved_dataset
from adapterhub.data.conll import parse_conll, parse_conllu
from adapterhub.data.dataset import Dataset, FileSource, HubSource, concatenate
from adapterhub.data.delimited import parse_delimited
from adapterhub.data.files import NO_EXAMPLES_HINT, read_text, text_lines
from adapterhub.data.hub import read_hub
from adapterhub.data.json_format import json_document, json_examples
from adapterhub.data.shapes.boxes import voc
from adapterhub.data.sources import data_files, expand, format_of, saved_folder, text_files
from adapterhub.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from adapterhub.data.files import DataFile


def read_examples(source: FileSource | HubSource, base_dir: Path | None = None) -> Dataset:
    """Read all examples of a source.

    Raises:
        DataError: naming file and line when it is missing, empty or invalid.
        RecipeError: when there are no CoNLL column names or duplicates, or no such encoding.
    """
    if isinstance(source, HubSource):
        dataset = read_hub(source)
    else:
        base = base_dir or Path()
        dataset = concatenate(*(_read_path(each, base) for each in expand(source, base)))
    if not dataset.examples:
        raise DataError("holds no examples", place=dataset.name, hint=NO_EXAMPLES_HINT)
    return dataset


def _read_path(source: FileSource, base_dir: Path) -> Dataset:
    path = base_dir / Path(source.path).expanduser()
    folder = _folder_format(source, path)
    if folder == "arrow":
        return read_saved_dataset(path, path.name)
    if folder == "text":
        return Dataset.whole(path.name, _texts(source, path))
    origin = path.name if path.is_file() else source.path
    return concatenate(*(_read_file(source, file) for file in data_files(path, origin)))


def _folder_format(source: FileSource, path: Path) -> str | None:
    if source.format in ("arrow", "text"):
        return source.format
    try:
        return saved_folder(path) if source.format == "auto" else None
    except (OSError, ValueError) as error:
        raise DataError(f"can't be read: {error}", place=source.path) from error


def _read_file(source: FileSource, file: DataFile) -> Dataset:
    kind, origin = format_of(source, file), file.origin
    if kind == "parquet":
        return read_parquet(file)
    if kind == "voc":
        return Dataset.whole(origin, [voc(read_text(file, source.encoding), origin)])
    # a record of CSV may end in a carriage return alone
    table = kind in ("csv", "tsv")
    lines = text_lines(file, source.encoding, newline="" if table else "\n")
    match kind:
        case "csv" | "tsv":
            found = parse_delimited(lines, origin, kind, source.delimiter)
        case "conll":
            found = parse_conll(lines, origin, source.columns)
        case "conllu":
            found = parse_conllu(lines, origin)
        case "json":
            found = _read_json(lines, origin)
        case _:
            found = Dataset.read(origin, json_examples(lines, origin))
    return found


def _read_json(lines: Iterable[str], origin: str) -> Dataset:
    numbered, whole = json_document(lines, origin)
    return Dataset.read(origin, numbered) if whole is None else Dataset.whole(origin, [whole])


def _texts(source: FileSource, path: Path) -> Iterator[dict[str, Any]]:
    """Yield the texts of a folder, with the folder of each as its label."""
    found = text_files(path, path.name)
    if not found:
        raise DataError(
            "has no texts",
            place=source.path,
            hint="Texts by label are files such as FOLDER/LABEL/name.txt",
        )
    for label, file in found:
        yield {"text": read_text(file, source.encoding).strip(), "label": label}
