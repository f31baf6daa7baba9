"""Reader of examples from files and from the Hub; no code of a data set is run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

from adapterhub.data.dataset import DataFormat, FileSource, HubSource
from adapterhub.data.files import NO_EXAMPLES_HINT, find_file, read_text
from adapterhub.data.formats import parse_conll, parse_delimited, parse_json_lines, read_parquet
from adapterhub.data.hub import read_hub
from adapterhub.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from adapterhub.data.dataset import Dataset

_SUFFIXES: dict[str, DataFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".conll": "conll",
    ".txt": "conll",
}


def read_examples(source: FileSource | HubSource, base_dir: Path | None = None) -> Dataset:
    """Read all examples of a source.

    Raises:
        DataError: naming file and line when it is missing, empty or invalid.
        RecipeError: when there are no CoNLL column names or duplicates.
    """
    if isinstance(source, HubSource):
        dataset = read_hub(source)
    else:
        dataset = _read_file(source, base_dir or Path())
    if not dataset.examples:
        raise DataError("holds no examples", place=dataset.name, hint=NO_EXAMPLES_HINT)
    return dataset


def _read_file(source: FileSource, base_dir: Path) -> Dataset:
    path = find_file(source, base_dir)
    kind = _format(source)
    if kind == "parquet":
        return read_parquet(path, path.name)
    text = read_text(path, path.name)
    match kind:
        case "csv" | "tsv":
            return parse_delimited(text, path.name, kind)
        case "conll":
            return parse_conll(text, path.name, source.columns)
        case _:
            return parse_json_lines(text, path.name)


def _format(source: FileSource) -> DataFormat:
    known = [name for name in get_args(DataFormat) if name != "auto"]
    if source.format in known:
        return source.format
    if source.format != "auto":
        raise DataError(
            f"there is no format {source.format!r}",
            place=source.path,
            hint=did_you_mean(source.format, known),
        )
    name = source.path.lower().removesuffix(".gz")
    kind = _SUFFIXES.get(Path(name).suffix)
    if kind is None:
        raise DataError(
            "the format can't be derived from the suffix",
            place=source.path,
            hint=f"Set data.format to one of {', '.join(known)}, or rename the file",
        )
    return kind
