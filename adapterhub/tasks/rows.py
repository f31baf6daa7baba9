"""Reading a task's fields out of a data row, with errors that name row and field."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from adapterhub.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from adapterhub.tasks.base import Row


def place_of(number: int, field: str) -> str:
    """Return how errors name a field of a row."""
    return f"row {number}, field {field!r}"


def is_given(row: Row, field: str) -> bool:
    """Tell whether a field is there and not null."""
    return row.get(field) is not None


def required(row: Row, field: str, number: int) -> Any:
    """Return a field's value.

    Raises:
        DataError: when the field is missing or null.
    """
    if is_given(row, field):
        return row[field]
    hint = "" if field in row else did_you_mean(field, map(str, row))
    raise DataError("the field is missing", place=place_of(number, field), hint=hint)


def text_field(row: Row, field: str, number: int) -> str:
    """Return a field that must be text with something in it.

    Raises:
        DataError: when it is missing, not text, or blank.
    """
    value = required(row, field, number)
    if not isinstance(value, str):
        raise DataError(
            f"the value must be text, not {type(value).__name__}", place=place_of(number, field)
        )
    if not value.strip():
        raise DataError("the text is empty", place=place_of(number, field))
    return value


def list_field(row: Row, field: str, number: int) -> list[Any]:
    """Return a field that must be a list with something in it.

    Raises:
        DataError: when it is missing, not a list, or empty.
    """
    value = required(row, field, number)
    if isinstance(value, str | bytes | dict) or not isinstance(value, Iterable):
        raise DataError(
            f"the value must be a list, not {type(value).__name__}", place=place_of(number, field)
        )
    items = list(value)
    if not items:
        raise DataError("the list is empty", place=place_of(number, field))
    return items
