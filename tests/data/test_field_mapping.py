"""Mapping of columns to fields of a task."""

import pytest

from adapterhub.data.dataset import Dataset
from adapterhub.data.field_mapping import map_fields
from adapterhub.errors import DataError, RecipeError


def examples(*values, lines=()):
    return Dataset("train.jsonl", values, tuple(range(1, len(values) + 1)), lines)


def mapped(values, mapping=None, optional=("text_pair",)):
    return map_fields(values, mapping or {}, required=("text", "label"), optional=optional)


def test_fields_are_renamed_and_other_columns_left_out():
    found = mapped(examples({"body": "a", "label": 0, "id": 7}, lines=(4,)), {"text": "body"})
    assert found.examples == ({"text": "a", "label": 0},)
    assert found.place(0) == "train.jsonl example 1 (line 4)"


def test_an_optional_field_may_be_missing_or_null():
    values = examples(
        {"text": "a", "label": 0, "text_pair": None},
        {"text": "b", "label": 1},
        {"text": "c", "label": 1, "text_pair": "d"},
    )
    assert [example.get("text_pair", "-") for example in mapped(values).examples] == ["-", "-", "d"]


def test_a_missing_column_names_example_columns_and_the_nearest():
    with pytest.raises(DataError) as caught:
        mapped(examples({"text": "a", "label": 0}, {"text": "a", "lable": 0}))
    assert str(caught.value) == (
        "train.jsonl example 2: the field 'label' (column 'label') is missing. "
        "Did you mean 'lable'? Columns: text, lable. Map it in data.fields.label of a recipe, "
        "or with --field label=COLUMN of eval"
    )


def test_a_null_names_the_example():
    with pytest.raises(
        DataError, match=r"^train.jsonl example 1: .*'text' \(column 'body'\) is null"
    ):
        mapped(examples({"body": None, "label": 0}), {"text": "body"})


def test_false_zero_and_empty_text_are_values():
    values = examples({"text": "", "label": 0}, {"text": "x", "label": False})
    assert [example["label"] for example in mapped(values).examples] == [0, False]


def test_a_field_that_the_task_does_not_have():
    with pytest.raises(RecipeError, match=r"^data.fields.txt: .*Did you mean 'text'\?"):
        mapped(examples({"text": "a", "label": 0}), {"txt": "body"})


def test_a_misspelt_column_of_an_optional_field_is_not_passed_over():
    with pytest.raises(DataError, match=r"no example has the column 'answr'.*mean 'answer'\?"):
        mapped(examples({"text": "a", "label": 0, "answer": "b"}), {"text_pair": "answr"})
