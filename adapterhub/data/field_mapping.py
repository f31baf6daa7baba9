"""Mapping of a file's columns to a task's fields, and examples as text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from adapterhub.data.media import MediaFile
from adapterhub.errors import DataError, RecipeError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from adapterhub.data.dataset import Dataset

#: Fields with the answer of an example, of all tasks; all other fields are input.
ANSWER_FIELDS = ("label", "tags", "response", "answers", "target", "summary", "summaries", "gain")


def map_fields(
    dataset: Dataset,
    mapping: Mapping[str, str],
    *,
    required: Sequence[str],
    optional: Sequence[str] = (),
    check: Callable[[dict[str, Any], int], None] | None = None,
) -> Dataset:
    """Return the examples with nothing but the task's fields, by their names.

    Args:
        dataset: Examples as read.
        mapping: Task field to column, where they differ.
        required: Fields that every example must have.
        optional: Further fields of an example.
        check: Called with each example under the task's names and its index.

    Raises:
        RecipeError: for a field in ``mapping`` that the task does not have.
        DataError: naming the example in which a required field is missing or null, or the
            column of an optional field that no example has.
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
            _check_column(dataset, field, mapping[field])

    def change(example: dict[str, Any], index: int) -> dict[str, Any]:
        found = _map_example(example, dataset.place(index), mapping, required, optional)
        if check is not None:
            check(found, index)
        return found

    return dataset.map(change)


def _check_column(dataset: Dataset, field: str, column: str) -> None:
    if not any(column in example for example in dataset.examples):
        columns = dict.fromkeys(name for example in dataset.examples for name in example)
        raise DataError(
            f"no example has the column {column!r} that data.fields.{field} names",
            place=dataset.name,
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
    options = f"data.fields.{field} of a recipe, or with --field {field}=COLUMN of eval"
    hint = f"{there}. Map it in {options}"
    return DataError(f"the field {field!r} (column {column!r}) is missing", place=place, hint=hint)


def _columns_hint(column: str, columns: Iterable[str]) -> str:
    """Return the existing columns, after the one that was likely meant."""
    names = list(columns)
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    guess = did_you_mean(column, names)
    there = f"Columns: {shown or '(none)'}"
    return f"{guess} {there}" if guess.startswith("Did you mean") else there


def example_text(example: Mapping[str, Any]) -> str:
    """Return the input of an example, all but its answer, as one text.

    An image or recording is represented by the digest of its file.
    """
    return " | ".join(_plain(value) for key, value in example.items() if key not in ANSWER_FIELDS)


def display_text(example: Mapping[str, Any]) -> str:
    """Return the input of an example for people: its text, or the name of its file."""
    files = [value for value in example.values() if isinstance(value, MediaFile)]
    return files[0].name if files else example_text(example)


def answer_text(example: Mapping[str, Any]) -> str:
    """Return the answer of an example as text; empty where it has none of its own."""
    return " | ".join(_plain(example[key]) for key in ANSWER_FIELDS if example.get(key) is not None)


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, MediaFile):
        # the name of a file does not matter
        return value.digest()
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        # answers in the form of SQuAD, without their offsets
        value = value["text"]
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return " ".join(value)
    if isinstance(value, list) and all(isinstance(each, dict) for each in value):
        # the turns of a conversation
        return " ".join(str(each.get("content", "")) for each in value)
    return json.dumps(value, ensure_ascii=False, default=str)
