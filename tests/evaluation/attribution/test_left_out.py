"""A row without a word is the row of the text without it, and is read where its head can be."""

import pytest
from explaining_helpers import bytes_

from adapterhub.evaluation.attribution.explain import attribution_input
from adapterhub.evaluation.attribution.methods import _without
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.table import build_task

OPTIONS = TaskOptions(max_length=64)
TOKENIZER = bytes_()


@pytest.fixture
def texts():
    return build_task("text-classification", TOKENIZER, "decoder", ["a", "b"], OPTIONS)


def test_a_word_in_the_middle_leaves_nothing(texts):
    reading = attribution_input(texts.attribution, {"text": "so very good"}, texts.name)
    left = _without(reading, {1}, 0)
    assert TOKENIZER.decode(left.input_ids) == "so good"
    assert list(left.select) == [len(left.input_ids) - 1]


def test_a_row_is_read_at_what_is_left_before_its_last_word(texts):
    reading = attribution_input(texts.attribution, {"text": "so very good"}, texts.name)
    left = _without(reading, {2}, 0)
    assert TOKENIZER.decode(left.input_ids) == "so very"
    assert list(left.select) == [len(left.input_ids) - 1]


def test_something_is_left_of_a_single_word(texts):
    (unknown,) = TOKENIZER("x")["input_ids"]
    left = _without(
        attribution_input(texts.attribution, {"text": "good"}, texts.name), {0}, unknown
    )
    assert left.input_ids == [unknown]
    assert list(left.select) == [0]


def test_words_that_are_read_themselves_keep_their_places():
    task = build_task("token-classification", TOKENIZER, "decoder", ["O", "B-X"], OPTIONS)
    reading = attribution_input(task.attribution, {"tokens": ["so", "unhappy", "day"]}, task.name)
    (unknown,) = TOKENIZER("x")["input_ids"]
    left = _without(reading, {1}, unknown)
    assert len(left.select) == 3
    assert [left.input_ids[at] for at in left.select][1] == unknown
    others = [reading.example.input_ids[at] for at in reading.example.select]
    assert [left.input_ids[at] for at in left.select][::2] == others[::2]
    # the pieces that no tag is read at are gone
    assert len(left.input_ids) < len(reading.example.input_ids)
