"""From a file's columns to a task's fields."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from adapterhub.errors import DataError, RecipeError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from adapterhub.data.dataset import Dataset

#: Fields that hold the answer to an example, of all tasks; what else an example has is asked.
ANSWER_FIELDS = ("label", "tags", "response", "answers", "target", "summary", "summaries", "gain")


def map_fields(
    examples: Dataset,
    mapping: Mapping[str, str],
    *,
    required: Sequence[str],
    optional: Sequence[str] = (),
) -> Dataset:
    """Keep the task's fields under the task's names.

    Args:
        examples: as read.
        mapping: task field to column, where they differ.
        required: fields that every example must have.
        optional: fields that an example may have.

    Raises:
        RecipeError: for a field in ``mapping`` that the task does not have.
        DataError: naming the example in which a required field is missing or null, or the
            column that ``mapping`` gives for an optional field and no example has.
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
            _check_column(examples, field, mapping[field])
    mapped = tuple(
        _map_example(example, examples.place(index), mapping, required, optional)
        for index, example in enumerate(examples.examples)
    )
    return replace(examples, examples=mapped)


def _check_column(examples: Dataset, field: str, column: str) -> None:
    if not any(column in example for example in examples.examples):
        columns = dict.fromkeys(name for example in examples.examples for name in example)
        raise DataError(
            f"no example has the column {column!r} that data.fields.{field} names",
            place=examples.name,
            hint=_columns_hint(column, columns),
        )


def _map_example(
    example: Mapping[str, Any],
    place: str,
    mapping: Mapping[str, str],
    required: Sequence[str],
    optional: Sequence[str],
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in (*required, *optional):
        column = mapping.get(field, field)
        value = example.get(column)
        if value is not None:
            found[field] = value
        elif field in required:
            raise _missing(example, place, field, column)
    return found


def _missing(example: Mapping[str, Any], place: str, field: str, column: str) -> DataError:
    if column in example:
        return DataError(f"the field {field!r} (column {column!r}) is null or empty", place=place)
    there = _columns_hint(column, example)
    hint = f"{there}. Map it in data.fields.{field}, or with --field {field}=COLUMN"
    return DataError(f"the field {field!r} (column {column!r}) is missing", place=place, hint=hint)


def _columns_hint(column: str, columns: Iterable[str]) -> str:
    """Return the columns that are there, after the one that was likely meant."""
    names = list(columns)
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    guess = did_you_mean(column, names)
    there = f"Columns there: {shown or '(none)'}"
    return f"{guess} {there}" if guess.startswith("Did you mean") else there
