"""Reader of data sets on the Hugging Face Hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.data.dataset import Dataset
from adapterhub.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from adapterhub.data.dataset import HubSource

_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def read_hub(source: HubSource) -> Dataset:
    """Return the examples of one split, with class names in place of class numbers.

    Only data is read: ``datasets`` 4 and later run no code of a data set.

    Raises:
        DataError: when the id is invalid, or the data set, configuration or split is unavailable.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    place = f"hub:{source.id}"
    _check_id(source.id, place)
    try:
        dataset = load_dataset(
            source.id, source.config, split=source.split, revision=source.revision
        )
        dataset = _undecoded(dataset)
        names = {name: _class_names(kind) for name, kind in dataset.features.items()}
        config = f"{source.config} " if source.config else ""
        examples = (
            {
                column: value if (name := names[column]) is None else name(value)
                for column, value in example.items()
            }
            for example in dataset
        )
        return Dataset.whole(place, examples, part=f"{config}split {source.split!r}")
    except (DatasetsError, OSError, ValueError, RuntimeError, LookupError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"can't load split {source.split!r}: {reason}",
            place=place,
            hint="Check data.hub, the names of its splits, and the connection",
        ) from error


def _check_id(name: str, place: str) -> None:
    """Reject what ``datasets`` would read as a local folder or as one of its own loaders."""
    if not _ID.fullmatch(name):
        raise DataError(
            "is not an id on the Hub", place=place, hint="An id has the form owner/name"
        )
    if Path(name).exists():
        raise DataError(
            f"there is a local folder {name!r}, which would be read instead of the Hub",
            place=place,
            hint="Name its files in data.train, or run from another folder",
        )


def _undecoded(dataset: Any) -> Any:
    """Return the data set with images and recordings as the bytes of their files."""
    from datasets import Audio, Image

    for column, kind in dataset.features.items():
        if isinstance(kind, Image | Audio):
            dataset = dataset.cast_column(column, type(kind)(decode=False))
    return dataset


def _class_names(kind: Any) -> Callable[[Any], Any] | None:
    """Return the conversion of a column's class numbers to names; ``None`` if it has none.

    A missing class, -1 by convention of the Hub, becomes ``None``.
    """
    from datasets import ClassLabel

    if isinstance(kind, ClassLabel):
        return lambda value: None if value is None or value < 0 else kind.int2str(value)
    inner = _class_names(kind.feature) if hasattr(kind, "feature") else None
    if inner is None:
        return None
    return lambda values: None if values is None else [inner(value) for value in values]
