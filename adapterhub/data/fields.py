"""From a file's columns to a task's fields."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from adapterhub.errors import DataError, RecipeError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from adapterhub.data.source import Rows

#: Fields that hold the answer to a row, of all tasks; what else a row has is asked.
ANSWER_FIELDS = ("label", "tags", "response", "answers", "target", "summary", "summaries", "gain")


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
        DataError: naming the row in which a required field is missing or null, or the
            column that ``mapping`` gives for an optional field and no row has.
    """
    known = (*required, *optional)
    for field in mapping:
        if field not in known:
            raise RecipeError(
                "the task has no such field",
                place=f"data.fields.{field}",
                hint=did_you_mean(field, known),
            )
        if field in optional:
            _check_column(rows, field, mapping[field])
    mapped = tuple(
        _map_row(row, rows.place(index), mapping, required, optional)
        for index, row in enumerate(rows.rows)
    )
    return replace(rows, rows=mapped)


def _check_column(rows: Rows, field: str, column: str) -> None:
    if not any(column in row for row in rows.rows):
        columns = dict.fromkeys(name for row in rows.rows for name in row)
        raise DataError(
            f"no row has the column {column!r} that data.fields.{field} names",
            place=rows.name,
            hint=_columns_hint(column, columns),
        )


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
        return DataError(f"the field {field!r} (column {column!r}) is null or empty", place=place)
    there = _columns_hint(column, row)
    hint = f"{there}. Map it in data.fields.{field}, or with --field {field}=COLUMN"
    return DataError(f"the field {field!r} (column {column!r}) is missing", place=place, hint=hint)


def _columns_hint(column: str, columns: Iterable[str]) -> str:
    """Return the columns that are there, after the one that was likely meant."""
    names = list(columns)
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    guess = did_you_mean(column, names)
    there = f"Columns there: {shown or '(none)'}"
    return f"{guess} {there}" if guess.startswith("Did you mean") else there
