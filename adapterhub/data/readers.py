"""Read examples from files and from the Hub; nothing that is read can run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

from adapterhub.data.conll import parse_conll
from adapterhub.data.dataset import DataFormat, FileSource, HubSource
from adapterhub.data.delimited import parse_delimited
from adapterhub.data.files import NO_EXAMPLES_HINT, find_file, read_text
from adapterhub.data.hub import read_hub
from adapterhub.data.json_lines import parse_json_lines
from adapterhub.data.parquet import read_parquet
from adapterhub.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from adapterhub.data.dataset import Dataset

_ENDINGS: dict[str, DataFormat] = {
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

    Args:
        source: of examples.
        base_dir: from which a relative path starts; the working directory where not given.

    Raises:
        DataError: naming file and line when it is missing, empty or broken.
        RecipeError: when the names of CoNLL columns are none or repeat.
    """
    if isinstance(source, HubSource):
        examples = read_hub(source)
    else:
        examples = _read_file(source, base_dir or Path())
    if not examples.examples:
        raise DataError("holds no examples", place=examples.name, hint=NO_EXAMPLES_HINT)
    return examples


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
    kind = _ENDINGS.get(Path(name).suffix)
    if kind is None:
        raise DataError(
            "the format can't be told from the file's ending",
            place=source.path,
            hint=f"Set data.format to one of {', '.join(known)}, or let its name end so",
        )
    return kind
