"""Labels and tags in the forms that exports write them."""

import pytest

from adapterhub.data.clean_labels import clean_labels
from adapterhub.data.dataset import Dataset
from adapterhub.data.formats import parse_delimited
from adapterhub.errors import DataError


def labels_of(text):
    found = clean_labels(parse_delimited(text, "a.csv", "csv"), "label", tagged=False)
    return [example["label"] for example in found.examples], found.notes


def tags_of(*sentences):
    examples = [{"tokens": ["w"] * len(tags), "tags": list(tags)} for tags in sentences]
    found = clean_labels(Dataset.whole("a.jsonl", examples), "tags", tagged=True)
    return [example["tags"] for example in found.examples], found.notes


def test_outer_spaces_make_no_label_of_their_own_and_are_reported():
    names, notes = labels_of("text,label\na,pos\nb,pos \nc, pos\nd,neg\n")
    assert names == ["pos", "pos", "pos", "neg"]
    assert notes == ("a.csv: spaces around 2 labels were removed",)


def test_whole_numbers_with_decimals_are_the_same_label():
    names, notes = labels_of("text,label\na,1.0\nb,1\nc,-2.00\nd,2.5\n")
    assert names == ["1", "1", "-2", "2.5"]
    assert notes == ("a.csv: 2 labels such as 1.0 are read as whole numbers",)


@pytest.mark.parametrize("missing", ["NaN", "None", "null", "<NA>", "#N/A", " nan "])
def test_a_missing_value_of_an_export_is_no_class(missing):
    with pytest.raises(DataError, match="stands for a missing value") as caught:
        labels_of(f"text,label\na,pos\nb,{missing}\n")
    assert "a.csv example 2 (line 3)" in str(caught.value)


def test_a_name_of_a_typed_file_may_be_none_but_not_nan():
    typed = Dataset.whole("a.jsonl", [{"label": "None"}, {"label": "1.0"}])
    found = clean_labels(typed, "label", tagged=False)
    assert [example["label"] for example in found.examples] == ["None", "1.0"]
    assert found.notes == ()
    with pytest.raises(DataError, match="NaN"):
        clean_labels(Dataset.whole("a", [{"label": float("nan")}]), "label", tagged=False)


def test_several_labels_of_an_example_are_cleaned_one_by_one():
    typed = Dataset.whole("a.jsonl", [{"label": ["a ", "b"]}])
    assert clean_labels(typed, "label", tagged=False).examples[0]["label"] == ["a", "b"]


@pytest.mark.parametrize(
    ("tags", "expected", "scheme"),
    [
        (
            ("S-PER", "O", "B-LOC", "I-LOC", "E-LOC"),
            ["B-PER", "O", "B-LOC", "I-LOC", "I-LOC"],
            "BIOES",
        ),
        (("U-PER", "B-LOC", "L-LOC"), ["B-PER", "B-LOC", "I-LOC"], "BILOU"),
    ],
)
def test_tags_of_other_schemes_become_bio(tags, expected, scheme):
    found, notes = tags_of(tags, ("O", "O"))
    assert found == [expected, ["O", "O"]]
    assert notes == (f"a.jsonl: the tags are {scheme}, and are read as BIO",)


@pytest.mark.parametrize("tags", [("B-PER", "PER"), ("S-PER", "L-PER"), ("B-",), ("X-LOC",)])
def test_a_tag_of_no_scheme_names_file_and_example(tags):
    with pytest.raises(DataError, match="is not a tag") as caught:
        tags_of(("O",), tags)
    assert "a.jsonl example 2" in str(caught.value)
