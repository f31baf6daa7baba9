"""Columns of a file become fields of a task."""

import pytest

from adapterhub.data.fields import map_fields
from adapterhub.data.source import Rows
from adapterhub.errors import DataError, RecipeError


def rows(*values, lines=()):
    return Rows("train.jsonl", values, tuple(range(1, len(values) + 1)), lines)


def mapped(values, mapping=None, optional=("text_pair",)):
    return map_fields(values, mapping or {}, required=("text", "label"), optional=optional)


def test_fields_are_renamed_and_other_columns_left_out():
    found = mapped(rows({"body": "a", "label": 0, "id": 7}, lines=(4,)), {"text": "body"})
    assert found.rows == ({"text": "a", "label": 0},)
    assert found.place(0) == "train.jsonl row 1 (line 4)"


def test_an_optional_field_may_be_missing_or_null():
    values = rows(
        {"text": "a", "label": 0, "text_pair": None},
        {"text": "b", "label": 1},
        {"text": "c", "label": 1, "text_pair": "d"},
    )
    assert [row.get("text_pair", "-") for row in mapped(values).rows] == ["-", "-", "d"]


def test_a_missing_column_names_row_columns_and_the_nearest():
    with pytest.raises(DataError) as caught:
        mapped(rows({"text": "a", "label": 0}, {"text": "a", "lable": 0}))
    assert str(caught.value) == (
        "train.jsonl row 2: the field 'label' (column 'label') is missing. "
        "Did you mean 'lable'? Columns there: text, lable. Map it in data.fields.label, "
        "or with --field label=COLUMN"
    )


def test_a_null_names_the_row():
    with pytest.raises(DataError, match=r"^train.jsonl row 1: .*'text' \(column 'body'\) is null"):
        mapped(rows({"body": None, "label": 0}), {"text": "body"})


def test_false_zero_and_empty_text_are_values():
    values = rows({"text": "", "label": 0}, {"text": "x", "label": False})
    assert [row["label"] for row in mapped(values).rows] == [0, False]


def test_a_field_that_the_task_does_not_have():
    with pytest.raises(RecipeError, match=r"^data.fields.txt: .*Did you mean 'text'\?"):
        mapped(rows({"text": "a", "label": 0}), {"txt": "body"})


def test_a_misspelt_column_of_an_optional_field_is_not_passed_over():
    with pytest.raises(DataError, match=r"no row has the column 'answr'.*mean 'answer'\?"):
        mapped(rows({"text": "a", "label": 0, "answer": "b"}), {"text_pair": "answr"})
