"""From a file's columns to a task's fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapterhub.data.source import Rows
from adapterhub.errors import DataError, RecipeError, near

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def map_fields(
    rows: Rows,
    mapping: Mapping[str, str],
    *,
    required: Sequence[str],
    optional: Sequence[str] = (),
) -> Rows:
    """Keep the task's fields under the task's names.

    Args:
        rows: as read.
        mapping: task field to column, where they differ.
        required: fields that every row must have.
        optional: fields that a row may have.

    Raises:
        RecipeError: for a field in ``mapping`` that the task does not have.
        DataError: naming the row in which a required field is missing or null.
    """
    known = (*required, *optional)
    for field in mapping:
        if field not in known:
            raise RecipeError(
                "the task has no such field", place=f"data.fields.{field}", hint=near(field, known)
            )
    mapped = tuple(
        _map_row(row, rows.place(index), mapping, required, optional)
        for index, row in enumerate(rows.rows)
    )
    return Rows(rows.origin, mapped, rows.numbers)


def _map_row(
    row: Mapping[str, Any],
    place: str,
    mapping: Mapping[str, str],
    required: Sequence[str],
    optional: Sequence[str],
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in (*required, *optional):
        column = mapping.get(field, field)
        value = row.get(column)
        if value is not None:
            found[field] = value
        elif field in required:
            raise _missing(row, place, field, column)
    return found


def _missing(row: Mapping[str, Any], place: str, field: str, column: str) -> DataError:
    if column in row:
        return DataError(f"the field {field!r} (column {column!r}) is null", place=place)
    columns = ", ".join(map(str, row))
    guess = near(column, row)
    if not guess.startswith("Did you mean"):
        guess = f"Columns there: {columns}. Map it in data.fields.{field}"
    return DataError(f"the field {field!r} (column {column!r}) is missing", place=place, hint=guess)
