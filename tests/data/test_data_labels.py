"""Labels of a data set."""

import pytest

from adapterhub.data.dataset import Dataset
from adapterhub.data.labels import count_labels, label_name
from adapterhub.errors import DataError


def examples(*labels, field="label"):
    return Dataset(
        "a.jsonl", tuple({field: label} for label in labels), tuple(range(1, len(labels) + 1))
    )


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ((10, 2, 2, -1), ("-1", "2", "10")),
        (("b", "a", "B"), ("B", "a", "b")),
        (("10", 9.0), ("9", "10")),
        ((True, False), ("false", "true")),
        (("x", 3), ("3", "x")),
    ],
)
def test_numbers_sort_by_value_and_names_by_alphabet(values, labels):
    assert tuple(count_labels(examples(*values), {}, field="label")) == labels


def test_tags_are_counted_over_sequences():
    train = examples(["O", "B-PER"], ["B-LOC"], field="tags")
    labels = count_labels(train, {"validation": train}, field="tags", sequence=True)
    assert labels == {"B-LOC": 1, "B-PER": 1, "O": 1}


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_label_that_training_lacks_names_label_split_and_example(split):
    with pytest.raises(DataError) as caught:
        count_labels(examples("good", "bad"), {split: examples("bad", "goood")}, field="label")
    assert str(caught.value) == (
        f"a.jsonl example 2: the label 'goood' occurs in the {split} split only. "
        "Did you mean 'good'? No training example has it, so it can't be learned"
    )


def test_a_repair_comes_before_labels_count():
    def repair(tags):
        return [tag.replace("I-", "B-") for tag in tags]

    train, dev = examples(["I-PER", "O"], field="tags"), examples(["B-PER"], field="tags")
    with pytest.raises(DataError, match="'B-PER'"):
        count_labels(train, {"test": dev}, field="tags", sequence=True)
    labels = count_labels(train, {"test": dev}, field="tags", sequence=True, repair=repair)
    assert labels == {"B-PER": 1, "O": 1}


@pytest.mark.parametrize(
    ("value", "sequence", "message"),
    [
        (None, False, "the label is missing"),
        (0.5, False, "a name or a whole number, not 0.5"),
        ("", False, "the label is empty"),
        ("O O", True, "must be a list of labels, not str"),
        (["O", None], True, "the label is empty"),
        (float("inf"), False, "a whole number, not inf"),
    ],
)
def test_what_is_no_label_names_its_example(value, sequence, message):
    good = ["O"] if sequence else "a"
    with pytest.raises(DataError) as caught:
        count_labels(examples(good, value), {}, field="label", sequence=sequence)
    assert str(caught.value).startswith("a.jsonl example 2, field 'label': ")
    assert message in str(caught.value)


@pytest.mark.parametrize("label", ["a\x1b[2J", "a\ud800", "\x00"])
def test_a_label_that_a_manifest_cannot_hold_is_named_before_training(label):
    with pytest.raises(DataError, match=r"d\.csv line 2: a label has a (lone|control)"):
        label_name(label, "d.csv line 2")
