"""Parquet files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.data.dataset import Dataset, numbered
from adapterhub.data.files import check_size
from adapterhub.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path


def read_parquet(path: Path, origin: str) -> Dataset:
    """Return the examples of a Parquet file as plain Python values.

    Args:
        path: of the file.
        origin: how errors name the file.

    Raises:
        DataError: when it is no Parquet file, damaged, or too large once unpacked.
    """
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            groups = range(file.metadata.num_row_groups)
            check_size(sum(file.metadata.row_group(i).total_byte_size for i in groups), origin)
            examples = file.read().to_pylist()
    except (ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"can't be read as Parquet: {reason}", place=origin) from error
    return numbered(origin, examples)
