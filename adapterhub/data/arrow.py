"""Parquet files and data sets that the library ``datasets`` saved to a folder."""

from __future__ import annotations

import io
import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.data.class_names import named_classes
from adapterhub.data.dataset import Dataset
from adapterhub.data.files import check_size
from adapterhub.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from adapterhub.data.files import DataFile

#: Examples that are decoded at a time.
_BATCH = 1000
#: File in a folder of ``Dataset.save_to_disk`` that lists the others, and of ``DatasetDict``.
STATE_NAME, SPLITS_NAME = "state.json", "dataset_dict.json"


def read_parquet(file: DataFile) -> Dataset:
    """Return the examples of a Parquet file as plain Python values, with the names of classes.

    Raises:
        DataError: when it is not a Parquet file or damaged, or holds too many bytes of images.
    """
    from pyarrow.parquet import ParquetFile

    packed = file.member or file.path.suffix.lower() != ".parquet"
    with _errors(file.origin, "Parquet"):
        source: Any = io.BytesIO(file.read()) if packed else file.path
        with ParquetFile(source) as table:
            metadata = table.schema_arrow.metadata or {}
            if any("binary" in str(field.type) for field in table.schema_arrow):
                # bytes, as of images, stay in memory
                groups = range(table.metadata.num_row_groups)
                size = sum(table.metadata.row_group(at).total_byte_size for at in groups)
                check_size(size, file.origin)
            batches = table.iter_batches(batch_size=_BATCH)
            return _dataset(batches, metadata.get(b"huggingface"), file.origin)


def is_saved_dataset(path: Path) -> bool:
    """Return whether a folder was written by ``save_to_disk``."""
    return path.is_dir() and any((path / name).is_file() for name in (STATE_NAME, SPLITS_NAME))


def read_saved_dataset(path: Path, origin: str) -> Dataset:
    """Return the examples of a folder of ``Dataset.save_to_disk``, with the names of classes.

    Raises:
        DataError: when the folder holds several splits, or a file is missing or damaged.
    """
    if (path / SPLITS_NAME).is_file():
        splits = sorted(each.parent.name for each in path.glob(f"*/{STATE_NAME}"))
        raise DataError(
            f"is a saved DatasetDict with the splits {', '.join(splits) or '(none)'}",
            place=origin,
            hint=f"Name the folder of one of them, such as {origin}/{(splits or ['train'])[0]}",
        )
    with _errors(origin, "a saved data set"):
        files = [path / name for name in _file_names(path / STATE_NAME)]
        return _dataset(_stream_batches(files), _stream_metadata(files), origin)


def _file_names(state: Path) -> list[str]:
    """Return the names of the Arrow files, in order, none of which may lead out of the folder."""
    document = json.loads(state.read_text(encoding="utf-8"))
    names = [str(each["filename"]) for each in document["_data_files"]]
    for name in names:
        if Path(name).name != name:
            raise ValueError(f"{name!r} is not the name of a file in the folder")
    return names


def _stream_batches(files: Iterable[Path]) -> Iterator[Any]:
    import pyarrow

    for path in files:
        with pyarrow.memory_map(str(path)) as source, pyarrow.ipc.open_stream(source) as stream:
            yield from stream


def _stream_metadata(files: list[Path]) -> bytes | None:
    import pyarrow

    if not files:
        return None
    with pyarrow.memory_map(str(files[0])) as source, pyarrow.ipc.open_stream(source) as stream:
        found: bytes | None = (stream.schema.metadata or {}).get(b"huggingface")
        return found


def _dataset(batches: Iterable[Any], metadata: bytes | None, origin: str) -> Dataset:
    examples = (example for batch in batches for example in batch.to_pylist())
    return Dataset.whole(origin, named_classes(examples, metadata, origin))


@contextmanager
def _errors(origin: str, kind: str) -> Iterator[None]:
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"can't be read as {kind}: {reason}", place=origin) from error
