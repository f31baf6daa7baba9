"""Reading of a recipe's data: duplicates and label counts."""

import json

import pytest

from adapterhub.backbones.architecture import read_tokenizer
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.token_classification import TokenClassification
from adapterhub.training import prepare
from adapterhub.training.prepare import encode_split, prepare_data, with_segmentation
from adapterhub.training.recipe_file import load_recipe

PAIRS = (
    {"text": "it rains", "label": "no"},
    {"text": "it rains", "text_pair": "it is wet", "label": "yes"},
    {"text": "it rains", "text_pair": "it is dry", "label": "no"},
    {"text": "it rains", "text_pair": "it is dry", "label": "yes"},
)
TALKS = (
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    {"prompt": "c", "response": "d"},
    {"prompt": "e", "response": "f"},
    {"prompt": "e", "response": "g"},
)


@pytest.mark.parametrize(
    ("task", "examples"),
    [("text-classification", PAIRS), ("dialogue", TALKS)],
    ids=["pairs", "talks"],
)
def test_a_field_missing_from_the_first_example_counts(recipe, tmp_path, task, examples):
    path = tmp_path / "examples.jsonl"
    path.write_text("".join(f"{json.dumps(example)}\n" for example in examples))
    section = {"train": str(path), "validation": str(path), "drop_duplicates": True}
    found = prepare_data(load_recipe(recipe("examples", tmp_path, task, path, data=section)))
    assert found.dropped == 1
    assert list(found.splits["train"].examples) == list(examples[:3])
    assert found.leaked == {"validation": 4}


@pytest.mark.parametrize(
    ("task", "examples", "counts"),
    [
        (
            "text-classification",
            [{"text": "x", "label": label} for label in ("b", 10, 2, "b", "a")],
            [("2", 1), ("10", 1), ("a", 1), ("b", 2)],
        ),
        (
            "token-classification",
            [
                {"tokens": ["a", "b", "c"], "tags": ["I-PER", "I-PER", "O"]},
                {"tokens": ["a", "b"], "tags": ["B-LOC", "O"]},
            ],
            [("O", 2), ("B-LOC", 1), ("B-PER", 1), ("I-PER", 1)],
        ),
        ("dialogue", TALKS, []),
    ],
    ids=["labels", "tags", "none"],
)
def test_labels_are_counted_in_a_fixed_order(recipe, tmp_path, task, examples, counts):
    path = tmp_path / "examples.jsonl"
    path.write_text("".join(f"{json.dumps(example)}\n" for example in examples))
    section = {"train": str(path), "validation": str(path)}
    found = prepare_data(load_recipe(recipe("examples", tmp_path, task, path, data=section)))
    assert list(found.label_counts.items()) == counts


@pytest.mark.parametrize(
    ("tokens", "segmentation", "message"),
    [
        (["Ada", "sang"], "words", ""),
        (["林", "涛", "唱", "歌"], "unspaced", "cut as the training tokens"),
        (["林涛", "唱歌"], "unspaced", "give tokens in predictions"),
    ],
)
def test_the_segmentation_of_the_training_tokens_is_kept(
    recipe, tmp_path, tokens, segmentation, message
):
    path = tmp_path / "tagged.jsonl"
    example = {"tokens": tokens, "tags": ["B-PER", *["O"] * (len(tokens) - 1)]}
    path.write_text((json.dumps(example) + "\n") * 4)
    written = load_recipe(recipe("tagged", tmp_path, "token-classification", path))
    resolved, said = with_segmentation(written, prepare_data(written))
    assert resolved.task.segmentation == segmentation
    assert message in said
    assert bool(message) == bool(said)


def test_all_words_of_a_long_document_are_learned(recipe, tmp_path, encoder):
    path = tmp_path / "long.jsonl"
    example = {"tokens": ["Ada", "sang", "."] * 40, "tags": ["B-PER", "O", "O"] * 40}
    path.write_text(json.dumps(example) + "\n")
    data = prepare_data(load_recipe(recipe("long", tmp_path, "token-classification", path)))
    task = TokenClassification(
        read_tokenizer(encoder), list(data.label_counts), TaskOptions(max_length=32), pool="first"
    )
    encoded = encode_split(task, data, "train").encoded
    assert sum(len(each.targets) for each in encoded) == 120
    assert all(len(each) <= 32 for each in encoded)


def test_many_labels_bound_the_validation_examples(recipe, tmp_path, monkeypatch):
    path = tmp_path / "examples.jsonl"
    rows = [{"text": f"text {at}", "label": f"label {at % 20}"} for at in range(200)]
    path.write_text("".join(f"{json.dumps(each)}\n" for each in rows))
    loaded = load_recipe(recipe("many", tmp_path, "text-classification", path))
    assert len(prepare_data(loaded).splits["validation"]) > 5
    monkeypatch.setattr(prepare, "MAX_PROBABILITIES", 100)
    found = prepare_data(loaded)
    assert len(found.splits["validation"]) == 5
    assert "5 of " in found.notes[-1]


def test_a_recipe_names_several_files_patterns_and_an_encoding(recipe, tmp_path):
    for name, text in (("1", "grün"), ("2", "rot"), ("3", "blau")):
        table = f"text;label\n{text};{name}\n"
        (tmp_path / f"{name}.csv").write_bytes(table.encode("cp1252"))
    section = {
        "train": [str(tmp_path / "[12].csv"), str(tmp_path / "3.csv")],
        "validation": str(tmp_path / "*.csv"),
        "encoding": "cp1252",
    }
    found = prepare_data(
        load_recipe(
            recipe("many", tmp_path, "text-classification", tmp_path / "1.csv", data=section)
        )
    )
    assert [each["text"] for each in found.splits["train"].examples] == ["grün", "rot", "blau"]
    assert found.splits["train"].place(2) == "3.csv example 1 (line 2)"
    assert "1.csv: the values are separated by semicolons" in found.notes
