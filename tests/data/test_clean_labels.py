"""Labels and tags in the forms that exports write them."""

import pytest

from adapterhub.data.clean_labels import clean_labels, similar_labels
from adapterhub.data.dataset import Dataset
from adapterhub.data.delimited import parse_delimited
from adapterhub.errors import DataError


def labels_of(text):
    found = clean_labels(
        parse_delimited(text.splitlines(keepends=True), "a.csv", "csv"), "label", tagged=False
    )
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


def test_invisible_characters_and_decomposed_accents_make_no_label_of_their_own():
    typed = Dataset.whole(
        "a.jsonl",
        [
            {"label": each}
            for each in ("\u200bpos", "pos\ufeff", "pos\u00a0", "cafe\u0301", "caf\u00e9")
        ],
    )
    found = clean_labels(typed, "label", tagged=False)
    assert {example["label"] for example in found.examples} == {"pos", "caf\u00e9"}
    assert len(found.notes) == 2


def test_truth_values_of_a_table_are_two_labels_as_in_json():
    names, notes = labels_of("text,label\na,True\nb,true\nc,FALSE\n")
    assert names == ["true", "true", "false"]
    assert notes == ("a.csv: 2 labels such as True are read as true",)


@pytest.mark.parametrize(
    ("labels", "warned"),
    [
        (("Pos", "neg", "pos"), "'Pos', 'pos'"),
        (("1", "01", "2"), "'1', '01'"),
        (("1", "1.0"), "'1', '1.0'"),
        (("very good", "very  good"), "'very good', 'very  good'"),
        (("a", "nan"), "'nan' is a class"),
        (("a", "b", "1", "2", "1.5"), ""),
    ],
)
def test_labels_that_are_likely_one_are_named_and_stay_apart(labels, warned):
    found = similar_labels(labels)
    assert warned in found[0] if warned else not found


def test_tags_in_the_schemes_of_chinese_data_sets_are_read():
    found, _ = tags_of(("B-NAME", "M-NAME", "E-NAME", "O"), ("S-LOC",))
    assert found == [["B-NAME", "I-NAME", "I-NAME", "O"], ["B-LOC"]]
    found, _ = tags_of(("B-NAME", "M-NAME", "E-NAME", "O"), ("W-LOC",))
    assert found == [["B-NAME", "I-NAME", "I-NAME", "O"], ["B-LOC"]]


@pytest.mark.parametrize("tags", [[0, 1], ["B-PER", None], "O O"])
def test_tags_that_are_no_names_are_refused_with_their_place(tags):
    examples = [{"tokens": ["a", "b"], "tags": tags}]
    with pytest.raises(DataError) as caught:
        clean_labels(Dataset.whole("a.jsonl", examples), "tags", tagged=True)
    assert "a.jsonl example 1" in caught.value.place
