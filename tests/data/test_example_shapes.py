"""Shapes of other libraries and annotation tools, recognized by their columns."""

import json

import pytest

from adapterhub.data.dataset import FileSource
from adapterhub.data.readers import read_examples
from adapterhub.data.shapes.table import SHAPES, converted, recognized
from adapterhub.errors import DataError


def user(text):
    return {"role": "user", "content": text}


def answer(text, **more):
    return {"role": "assistant", "content": text, **more}


CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": 1}}}
COCO = {
    "images": [
        {"id": 7, "file_name": "a.jpg", "width": 9, "height": 8},
        {"id": 8, "file_name": "b"},
    ],
    "annotations": [
        {"image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4]},
        {"image_id": 7, "category_id": 2, "bbox": [0, 0, 9, 9], "iscrowd": 1},
    ],
    "categories": [{"id": 2, "name": "cell"}],
}
SPANS = {"text": "Ada sang", "spans": [[0, 3, "PER"]]}


def studio(*results, **data):
    return {
        "id": 1,
        "data": data,
        "annotations": [{"was_cancelled": False, "result": list(results)}],
    }


@pytest.mark.parametrize(
    ("name", "example", "expected"),
    [
        (
            "sharegpt",
            {
                "system": "Be kind.",
                "conversations": [
                    {"from": "human", "value": "Hi"},
                    {"from": "function_call", "value": '{"name": "look", "arguments": {"at": 1}}'},
                    {"from": "observation", "value": "a lamp"},
                    {"from": "gpt", "value": "A lamp.", "weight": 0},
                ],
                "tools": '[{"type": "function"}]',
            },
            {
                "messages": [
                    {"role": "system", "content": "Be kind."},
                    user("Hi"),
                    answer("", tool_calls=[CALL]),
                    {"role": "tool", "content": "a lamp"},
                    answer("A lamp.", weight=0),
                ],
                "tools": [{"type": "function"}],
            },
        ),
        (
            "sharegpt",
            {"turns": [{"role": "user", "text": "a"}, {"role": "assistant", "text": "b"}]},
            {"messages": [user("a"), answer("b")]},
        ),
        (
            "alpaca",
            {"instruction": "Add", "input": "1 2", "output": "3"},
            {"prompt": "Add", "input": "1 2", "response": "3"},
        ),
        (
            "alpaca",
            {"instruction": "Why?", "context": "It is so.", "response": "So."},
            {"prompt": "Why?", "input": "It is so.", "response": "So."},
        ),
        (
            "alpaca",
            {"instruction": "c", "input": "", "output": "d", "history": [["a", "b"]]},
            {"messages": [user("a"), answer("b"), user("c"), answer("d")]},
        ),
        ("completion", {"prompt": "a", "completion": "b"}, {"prompt": "a", "response": "b"}),
        (
            "completion",
            {"prompt": [user("a")], "completion": [answer("b")]},
            {"messages": [user("a"), answer("b")]},
        ),
        (
            "preference",
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            {"prompt": [user("a")], "chosen": [answer("b")], "rejected": [answer("c")]},
        ),
        (
            "preference",
            {"chosen": [user("a"), answer("b")], "rejected": [user("a"), answer("c")]},
            {"prompt": [user("a")], "chosen": [answer("b")], "rejected": [answer("c")]},
        ),
        (
            "kto",
            {"prompt": "a", "completion": "b", "label": True},
            {"prompt": [user("a")], "completion": [answer("b")], "label": True},
        ),
        (
            "pairs",
            {"premise": "a", "hypothesis": "b", "label": "yes"},
            {"text": "a", "text_pair": "b", "label": "yes"},
        ),
        (
            "triplets",
            {"query": "a", "positive": "b", "negative": "c"},
            {"anchor": "a", "positive": "b", "negative": "c"},
        ),
        (
            "squad",
            {
                "title": "t",
                "paragraphs": [
                    {
                        "context": "It rains.",
                        "qas": [
                            {"question": "What?", "answers": [{"text": "It", "answer_start": 0}]}
                        ],
                    }
                ],
            },
            {
                "context": "It rains.",
                "question": "What?",
                "answers": {"text": ["It"], "answer_start": [0]},
            },
        ),
        ("doccano", {"id": 1, "text": "Ada sang", "label": [[0, 3, "PER"]]}, SPANS),
        (
            "doccano",
            {
                "text": "Ada sang",
                "entities": [{"id": 4, "label": "PER", "start_offset": 0, "end_offset": 3}],
                "relations": [],
            },
            SPANS,
        ),
        (
            "prodigy",
            {
                "text": "Ada sang",
                "tokens": [{"text": "Ada", "start": 0, "end": 3, "id": 0}],
                "spans": [{"start": 0, "end": 3, "label": "PER", "token_start": 0}],
                "answer": "accept",
            },
            SPANS,
        ),
        (
            "prodigy",
            {"text": "Ada", "options": [], "accept": ["x"], "answer": "accept", "_task_hash": 1},
            {"text": "Ada", "label": "x"},
        ),
        (
            "label-studio",
            studio(
                {"type": "labels", "value": {"start": 0, "end": 3, "labels": ["PER"]}},
                text="Ada sang",
            ),
            SPANS,
        ),
        (
            "label-studio",
            studio({"type": "choices", "value": {"choices": ["good"]}}, review="Nice"),
            {"text": "Nice", "label": "good"},
        ),
        (
            "label-studio",
            studio(
                {
                    "type": "rectanglelabels",
                    "original_width": 200,
                    "original_height": 100,
                    "value": {
                        "x": 10,
                        "y": 10,
                        "width": 50,
                        "height": 20,
                        "rectanglelabels": ["c"],
                    },
                },
                image="/data/upload/1/a.jpg",
            ),
            {"image": "a.jpg", "objects": [{"bbox": [20.0, 10.0, 100.0, 20.0], "label": "c"}]},
        ),
        (
            "coco",
            COCO,
            {
                "image": "a.jpg",
                "width": 9,
                "height": 8,
                "objects": [{"bbox": [1, 2, 3, 4], "label": "cell"}],
            },
        ),
    ],
)
def test_a_shape_is_recognized_and_converted(tmp_path, name, example, expected):
    (tmp_path / "a.json").write_text(json.dumps([example]))
    source = read_examples(FileSource("a.json"), tmp_path)
    shape = recognized(source)
    found = converted(source, shape)
    assert (shape.name, found.examples[0]) == (name, expected)
    assert found.notes == (f"a.json: read as {shape.title} (data.format: {name})",)


@pytest.mark.parametrize(
    ("name", "example", "message"),
    [
        ("sharegpt", {"conversations": "x"}, "field 'conversations': must be a list of messages"),
        (
            "sharegpt",
            {"conversations": [{"from": "humam", "value": "x"}]},
            "message 1: 'humam' is not a role of ShareGPT's form. Did you mean 'human'?",
        ),
        (
            "sharegpt",
            {"conversations": [{"from": "function_call", "value": "{"}]},
            "message 1: a call of a tool is not valid JSON",
        ),
        ("sharegpt", {"conversations": [{"from": "gpt"}], "tools": "["}, "field 'tools': the list"),
        ("preference", {"chosen": 1, "rejected": "x"}, "must be text or a list of messages, not 1"),
        ("doccano", {"text": "a", "label": [[0, "PER"]]}, "a span needs start, end and label"),
        ("prodigy", {"text": "a", "spans": [{"start": True, "end": 1}]}, "a span needs start, end"),
        ("squad", {"paragraphs": [{"qas": 1}]}, "qas must be a list of objects"),
        (
            "coco",
            {**COCO, "annotations": [{"image_id": 9, "category_id": 2, "bbox": [1, 2, 3, 4]}]},
            "annotation 1: there is no image 9",
        ),
        (
            "label-studio",
            studio({"type": "labels", "value": {}}, title="a", body="b"),
            "data has no 'text'; keys: title, body",
        ),
    ],
)
def test_what_has_not_the_shape_names_the_example(tmp_path, name, example, message):
    (tmp_path / "a.jsonl").write_text("\n" + json.dumps(example))
    source = read_examples(FileSource("a.jsonl"), tmp_path)
    with pytest.raises(DataError) as caught:
        converted(source, SHAPES[name])
    assert str(caught.value).startswith("a.jsonl example 1 (line 2)")
    assert message in str(caught.value)


def test_annotations_that_were_not_accepted_are_left_out_and_counted(tmp_path):
    good = {"text": "Ada", "spans": [], "answer": "accept"}
    lines = [good, {**good, "answer": "reject"}, {**good, "answer": "ignore"}, good]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = read_examples(FileSource("a.jsonl"), tmp_path)
    found = converted(source, recognized(source))
    assert len(found) == 2
    assert found.place(1) == "a.jsonl example 4"
    assert found.notes[1] == "a.jsonl: 2 examples without an accepted annotation left out"
    cancelled = {"data": {"text": "x"}, "annotations": [{"was_cancelled": True, "result": []}]}
    (tmp_path / "b.json").write_text(json.dumps([cancelled]))
    source = read_examples(FileSource("b.json"), tmp_path)
    assert len(converted(source, recognized(source))) == 0


VOC = """<annotation><filename>a.jpg</filename><size><width>9</width><height>8</height></size>
<object><name>cell</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>4</xmax><ymax>5</ymax></bndbox>
</object></annotation>"""


def test_boxes_of_pascal_voc_count_from_zero(tmp_path):
    (tmp_path / "a.xml").write_text(VOC)
    assert list(read_examples(FileSource("*.xml"), tmp_path).examples) == [
        {
            "image": "a.jpg",
            "width": 9.0,
            "height": 8.0,
            "objects": [{"bbox": [0.0, 1.0, 4.0, 4.0], "label": "cell"}],
        }
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (VOC.replace("<name>cell</name>", ""), "a.xml, object 1: has no name"),
        (VOC.replace(">4<", ">four<"), "bndbox/xmax must be a number, not 'four'"),
        (VOC[:-5], "a.xml: is not valid XML"),
        ('<!DOCTYPE x [<!ENTITY a "b">]>' + VOC, "a.xml: declares entities"),
    ],
)
def test_a_bad_file_of_pascal_voc_is_named(tmp_path, content, message):
    (tmp_path / "a.xml").write_text(content)
    with pytest.raises(DataError) as caught:
        read_examples(FileSource("a.xml"), tmp_path)
    assert message in str(caught.value)
