"""Shapes of other libraries under the fields of a task, and what no task trains on."""

import json

import pytest

from adapterhub.data import encoded_store
from adapterhub.data.encoded_store import StoredEncoded, store_encoded
from adapterhub.data.packing import EncodedExample
from adapterhub.errors import DataError
from adapterhub.tasks.span_tags import tag_spans
from adapterhub.training.prepare import load_examples
from adapterhub.training.recipe import DataSection

SPAN = {"text": "Ada met  Bob-led Cy.", "label": [[0, 3, "PER"], [9, 12, "PER"], [17, 20, "X"]]}


def load(folder, examples, task, **section):
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in examples))
    return load_examples(DataSection(train=str(path), **section), task, str(path))


def test_spans_by_offset_become_tags_and_words_are_cut_at_their_ends(tmp_path):
    found = load(tmp_path, [SPAN, {"text": "none here", "label": []}], "token-classification")
    first, second = found.examples
    assert first["tokens"] == ["Ada", "met", "Bob", "-led", "Cy", "."]
    assert first["tags"] == ["B-PER", "O", "B-PER", "O", "B-X", "I-X"]
    assert second["tags"] == ["O", "O"]
    assert found.notes == ("a.jsonl: read as texts with spans (doccano) (data.format: doccano)",)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([[0, 9, "A"]], "the span 0 to 9 (A) is outside the text of 8 characters"),
        ([[3, 3, "A"]], "the span 3 to 3 (A) is outside the text"),
        ([[0, 5, "A"], [4, 8, "B"]], "the spans 'Ada s' (A) and 'sang' (B) overlap"),
        ([[3, 4, "A"]], "a span (A) holds only spaces"),
    ],
)
def test_spans_that_no_tags_can_say_are_refused(spans, message):
    with pytest.raises(DataError) as caught:
        tag_spans("Ada sang", spans, "a.jsonl example 1")
    assert str(caught.value).startswith(f"a.jsonl example 1: {message}")


def test_spaces_at_the_ends_of_a_span_do_not_count_and_chinese_is_cut_into_characters():
    assert tag_spans("Ada sang", [[0, 4, "A"]], "")["tags"] == ["B-A", "O"]
    tagged = tag_spans("李明住在北京", [[0, 2, "PER"], [4, 6, "LOC"]], "")
    assert tagged["tokens"] == list("李明住在北京")
    assert tagged["tags"] == ["B-PER", "I-PER", "O", "O", "B-LOC", "I-LOC"]


@pytest.mark.parametrize(
    ("example", "title"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference pairs"),
        ({"prompt": "a", "completion": "b", "label": True}, "answers rated good or bad (KTO)"),
        ({"anchor": "a", "positive": "b"}, "anchors with similar texts (pairs or triplets)"),
    ],
)
def test_what_a_task_does_not_train_on_is_named(tmp_path, example, title):
    with pytest.raises(DataError) as caught:
        load(tmp_path, [example], "dialogue")
    expected = f"a.jsonl: holds {title}, which dialogue does not train on. dialogue takes messages"
    assert str(caught.value).startswith(expected)
    assert f"Columns: {', '.join(example)}" in str(caught.value)


def test_mapped_columns_are_read_as_they_are(tmp_path):
    example = {"prompt": "a", "chosen": "b", "rejected": "c"}
    found = load(tmp_path, [example], "dialogue", fields={"response": "chosen"})
    assert list(found.examples) == [{"prompt": "a", "response": "b"}]
    assert found.notes == ()


def test_a_shape_can_be_chosen_and_rejected_annotations_are_always_left_out(tmp_path):
    both = {"instruction": "a", "output": "b", "prompt": "x", "response": "y"}
    assert load(tmp_path, [both], "dialogue").examples[0]["response"] == "y"
    chosen = load(tmp_path, [both], "dialogue", format="alpaca")
    assert chosen.examples[0] == {"prompt": "a", "response": "b"}
    kept = {"text": "a", "label": "x", "answer": "accept", "_task_hash": 1}
    found = load(tmp_path, [kept, {**kept, "answer": "reject"}], "text-classification")
    assert len(found) == 1
    with pytest.raises(DataError, match="has no accepted annotation"):
        load(tmp_path, [{**kept, "answer": "reject"}], "text-classification")


def test_encoded_examples_wait_in_a_file_and_are_the_same(monkeypatch):
    examples = [
        EncodedExample(
            at, list(range(at, at + 9)), range(2, 4), [at, 1], [0] * 9, truncated=at == 3
        )
        for at in range(1, 40)
    ]
    assert store_encoded(iter(examples)) == examples
    monkeypatch.setattr(encoded_store, "MEMORY_NUMBERS", 50)
    stored = store_encoded(iter(examples))
    assert isinstance(stored, StoredEncoded)
    assert len(stored) == len(examples)
    for found, each in zip(stored, examples, strict=True):
        assert (found.number, list(found.input_ids), list(found.select)) == (
            each.number,
            list(each.input_ids),
            list(each.select),
        )
        assert (list(found.targets), list(found.segment_ids)) == ([each.number, 1], [0] * 9)
        assert found.truncated == each.truncated
    assert stored[-1].number == 39
    with pytest.raises(IndexError):
        stored[39]
