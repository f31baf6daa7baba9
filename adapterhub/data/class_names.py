"""Names of classes that the library ``datasets`` stores in the schema of Arrow and Parquet."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from adapterhub.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


def named_classes(
    examples: Iterable[dict[str, Any]], metadata: bytes | None, origin: str
) -> Iterator[dict[str, Any]]:
    """Yield examples with names in place of class numbers.

    A missing class, -1 by convention of the Hub, becomes ``None``.

    Args:
        examples: Examples as read.
        metadata: JSON under the key ``huggingface`` of the schema, where there is one.
        origin: Name of the file.

    Raises:
        DataError: naming the example with a number that has no name.
    """
    names = _class_names(metadata)
    for number, example in enumerate(examples, start=1):
        yield {
            column: _named(value, names[column], f"{origin} example {number}, field {column!r}")
            if column in names
            else value
            for column, value in example.items()
        }


def _class_names(metadata: bytes | None) -> dict[str, Sequence[str]]:
    """Return the names of the classes of each column that has some."""
    try:
        document = json.loads(metadata or b"{}")
        features = document["info"]["features"]
        found = {name: _names_of(feature) for name, feature in features.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {name: names for name, names in found.items() if names}


def _names_of(feature: Any) -> Sequence[str] | None:
    """Return the names of a feature, or of the items of a list feature."""
    if isinstance(feature, list) and len(feature) == 1:
        return _names_of(feature[0])
    if not isinstance(feature, dict):
        return None
    names = feature.get("names")
    if feature.get("_type") == "ClassLabel" and isinstance(names, list):
        return names if all(isinstance(name, str) for name in names) else None
    return _names_of(feature.get("feature"))


def _named(value: Any, names: Sequence[str], place: str) -> Any:
    if isinstance(value, list):
        return [_named(each, names, place) for each in value]
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if value == -1:
        return None
    if not 0 <= value < len(names):
        raise DataError(f"the class {value} has no name, there are {len(names)}", place=place)
    return names[value]
