"""Checked access to the fields of an example, with errors that name example and field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from adapterhub.errors import DataError, did_you_mean

#: A record after field mapping, keyed by the task's own field names.
Example: TypeAlias = Mapping[str, Any]


def place_of(number: int, field: str) -> str:
    """Return the place of a field of an example, for errors."""
    return f"example {number}, field {field!r}"


def is_given(example: Example, field: str) -> bool:
    """Return whether a field is present and not null."""
    return example.get(field) is not None


def required(example: Example, field: str, number: int) -> Any:
    """Return a field's value, which must be present and not null."""
    if is_given(example, field):
        return example[field]
    hint = "" if field in example else did_you_mean(field, map(str, example))
    raise DataError("the field is missing", place=place_of(number, field), hint=hint)


def text_field(example: Example, field: str, number: int) -> str:
    """Return a field that must be text and not blank."""
    value = required(example, field, number)
    if not isinstance(value, str):
        raise DataError(
            f"the value must be text, not {type(value).__name__}", place=place_of(number, field)
        )
    if not value.strip():
        raise DataError("the text is empty", place=place_of(number, field))
    return value


def list_field(example: Example, field: str, number: int) -> list[Any]:
    """Return a field that must be a list and not empty."""
    value = required(example, field, number)
    if isinstance(value, str | bytes | dict) or not isinstance(value, Iterable):
        raise DataError(
            f"the value must be a list, not {type(value).__name__}", place=place_of(number, field)
        )
    items = list(value)
    if not items:
        raise DataError("the list is empty", place=place_of(number, field))
    return items
