"""Relation extraction."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from adapterhub.data.packing import pack
from adapterhub.errors import DataError, RecipeError
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.relation_extraction import RelationExtraction, entities_of, relation_scores

LABELS = ("Made(e1,e2)", "Made(e2,e1)", "Part(e1,e2)", "Part(e2,e1)", "Other")
EXAMPLE = {"text": "the <e1>captain</e1> met the <e2>old film</e2> again", "label": "Made(e2,e1)"}


@pytest.fixture(scope="module")
def signs(wordpiece):
    """The encoder's tokenizer with the signs that those of real backbones know."""
    tokenizer = copy.deepcopy(wordpiece)
    tokenizer.add_tokens(["@", "#"])
    return tokenizer


def task_for(tokenizer, pool="first", **options):
    return RelationExtraction(tokenizer, LABELS, TaskOptions(**options), pool=pool)


def test_entities_are_found_in_the_text_without_tags():
    text, entities = entities_of({"text": "<e2>it</e2> met <e1>a b</e1>."}, 1)
    assert text == "it met a b."
    assert [(e.name, text[e.start : e.end]) for e in entities] == [("e2", "it"), ("e1", "a b")]


def test_the_backbone_reads_signs_around_the_entities_and_no_tags(byte_bpe):
    encoded = task_for(byte_bpe, pool="last").encode(EXAMPLE, 1, train=True)
    assert byte_bpe.decode(encoded.input_ids) == "the @ captain @ met the # old film # again"
    assert tuple(encoded.targets) == (1,)
    assert tuple(encoded.select) == (len(encoded) - 1,)


def test_the_two_ways_round_are_distinguished(byte_bpe):
    task = task_for(byte_bpe, pool="last")
    turned = EXAMPLE["text"].replace("e1>", "e3>").replace("e2>", "e1>").replace("e3>", "e2>")
    there = task.encode(EXAMPLE, 1, train=True).input_ids
    assert byte_bpe.decode(task.encode({"text": turned}, 1, train=False).input_ids) == (
        "the # captain # met the @ old film @ again"
    )
    assert list(there) != list(task.encode({"text": turned}, 1, train=False).input_ids)


@pytest.mark.parametrize("limit", [12, 16, 24])
def test_a_long_text_loses_its_start_before_an_entity(signs, byte_bpe, limit):
    long = {**EXAMPLE, "text": "a wonderful and moving film about nothing " * 4 + EXAMPLE["text"]}
    for tokenizer, pool in ((signs, "first"), (byte_bpe, "last")):
        encoded = task_for(tokenizer, pool, max_length=limit).encode(long, 1, train=True)
        assert len(encoded) <= limit
        assert "@" in tokenizer.decode(encoded.input_ids)
        assert encoded.select[0] < len(encoded)


@pytest.mark.parametrize(
    "text",
    [
        "no entity at all",
        "only <e1>one</e1> of them",
        "<e1>the</e1> same <e1>twice</e1>",
        "<e1>a</e1> <e2>b</e2> <e2>c</e2>",
        "<e1> </e1> and <e2>b</e2>",
        "<e1>a</e2> and <e2>b</e1>",
    ],
)
def test_a_text_without_two_entities_is_named(signs, text):
    with pytest.raises(DataError, match="example 7, field 'text': the text must mark two entities"):
        task_for(signs).encode({"text": text, "label": "Other"}, 7, train=True)


def test_a_tokenizer_that_reads_both_signs_alike_is_rejected(wordpiece):
    with pytest.raises(RecipeError, match="maps @ and #"):
        task_for(wordpiece)


def test_labels_without_any_direction_are_rejected(signs):
    with pytest.raises(RecipeError, match=r"no label has a direction, such as a\(e1,e2\)"):
        RelationExtraction(signs, ["a", "b"], TaskOptions(), pool="first")


def test_prediction_names_the_relation_and_its_arguments_in_order(signs):
    task = task_for(signs)
    logits = torch.tensor([[0.0, 4.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 4.0]])
    examples = [task.encode(EXAMPLE, 1, train=False)] * 2
    backward, other = (
        task.prediction(EXAMPLE, each) for each in task.decode(lambda h: h, logits, pack(examples))
    )
    assert (backward["label"], backward["relation"]) == ("Made(e2,e1)", "Made")
    assert [part["text"] for part in backward["arguments"]] == ["old film", "captain"]
    first = backward["arguments"][0]
    assert "the captain met the old film again"[first["start"] : first["end"]] == "old film"
    assert (other["relation"], other["arguments"]) == ("Other", [])
    assert sum(other["scores"].values()) == pytest.approx(1.0)


def test_the_official_score_by_a_direct_computation():
    # Made: 3 examples, 1 right, 1 the wrong way round; one Other is answered as Made
    expected = ["Made(e1,e2)", "Made(e1,e2)", "Made(e2,e1)", "Part(e1,e2)", "Other", "Other"]
    found = ["Made(e1,e2)", "Made(e2,e1)", "Other", "Part(e1,e2)", "Made(e1,e2)", "Other"]
    metrics, table = relation_scores(expected, found)
    assert [record["label"] for record in table] == ["Made", "Part"]
    assert table[0]["precision"] == pytest.approx(1 / 3)
    assert table[0]["recall"] == pytest.approx(1 / 3)
    assert table[0]["support"] == 3.0
    assert metrics["relation_f1"] == pytest.approx((1 / 3 + 1.0) / 2)


def test_a_relation_that_is_only_answered_has_no_part_in_the_mean():
    metrics, table = relation_scores(["Made(e1,e2)", "Other"], ["Made(e1,e2)", "Part(e1,e2)"])
    assert [record["label"] for record in table] == ["Made"]
    assert metrics["relation_f1"] == 1.0


def test_examples_of_no_relation_alone_score_nothing():
    metrics, table = relation_scores(["Other"], ["Other"])
    assert (metrics["relation_f1"], list(table)) == (0.0, [])


@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1))
def test_direction_never_helps_against_the_score_without_it(pairs):
    expected, found = (list(side) for side in zip(*pairs, strict=True))
    metrics, table = relation_scores(expected, found)
    unlabelled = [[label.partition("(")[0] for label in side] for side in (expected, found)]
    names = [record["label"] for record in table]
    if not names:
        assert metrics["relation_f1"] == 0.0
        return
    without = f1_score(*unlabelled, labels=names, average="macro", zero_division=0)
    assert metrics["relation_f1"] <= without + 1e-9
    turned = any(
        a != b and a.partition("(")[0] == b.partition("(")[0] for a, b in pairs if a != "Other"
    )
    if not turned:
        assert metrics["relation_f1"] == pytest.approx(without)


def test_evaluation_scores_labels(signs):
    task = task_for(signs)
    examples = [{**EXAMPLE, "label": label} for label in ("Made(e1,e2)", "Part(e2,e1)", "Other")]
    result = task.evaluate(examples, list(torch.eye(5)[[0, 2, 4]]))
    assert result.metrics["relation_f1"] == pytest.approx(0.5)
    assert result.metrics["accuracy"] == pytest.approx(2 / 3)
    with pytest.raises(DataError, match="no examples"):
        task.evaluate([], [])
