"""An ablated example is the example of the shorter text, and keeps a position for its head."""

import pytest
from attribution_helpers import bytes_

from adapterhub.evaluation.attribution.explain import attribution_input
from adapterhub.evaluation.attribution.methods import _without
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.table import build_task

OPTIONS = TaskOptions(max_length=64)
TOKENIZER = bytes_()


@pytest.fixture
def texts():
    return build_task("text-classification", TOKENIZER, "decoder", ["a", "b"], OPTIONS)


def test_ablation_removes_the_tokens_of_a_word(texts):
    inputs = attribution_input(texts.attribution, {"text": "so very good"}, texts.name)
    left = _without(inputs, {1}, 0)
    assert TOKENIZER.decode(left.input_ids) == "so good"
    assert list(left.select) == [len(left.input_ids) - 1]


def test_the_head_moves_to_the_token_before_an_ablated_last_word(texts):
    inputs = attribution_input(texts.attribution, {"text": "so very good"}, texts.name)
    left = _without(inputs, {2}, 0)
    assert TOKENIZER.decode(left.input_ids) == "so very"
    assert list(left.select) == [len(left.input_ids) - 1]


def test_a_single_word_is_replaced_by_the_baseline_token(texts):
    (unknown,) = TOKENIZER("x")["input_ids"]
    left = _without(
        attribution_input(texts.attribution, {"text": "good"}, texts.name), {0}, unknown
    )
    assert left.input_ids == [unknown]
    assert list(left.select) == [0]


def test_positions_of_the_head_are_kept_where_it_reads_several():
    task = build_task("token-classification", TOKENIZER, "decoder", ["O", "B-X"], OPTIONS)
    inputs = attribution_input(task.attribution, {"tokens": ["so", "unhappy", "day"]}, task.name)
    (unknown,) = TOKENIZER("x")["input_ids"]
    left = _without(inputs, {1}, unknown)
    assert len(left.select) == 3
    assert [left.input_ids[at] for at in left.select][1] == unknown
    others = [inputs.example.input_ids[at] for at in inputs.example.select]
    assert [left.input_ids[at] for at in left.select][::2] == others[::2]
    # the pieces that no tag is read at are gone
    assert len(left.input_ids) < len(inputs.example.input_ids)
