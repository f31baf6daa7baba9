"""Words of scripts without spaces are split at their tokens, other words stay whole."""

import unicodedata

import pytest
from attribution_helpers import bytes_
from hypothesis import given
from hypothesis import strategies as st

from adapterhub.evaluation.attribution.explain import attribution_input
from adapterhub.tasks.attribution import attribution_words
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.table import build_task
from adapterhub.tasks.words import split_words

BYTES = bytes_()
OPTIONS = TaskOptions(max_length=64)


def texts(text):
    return [word.text for word in attribution_words(BYTES, text)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("我很高兴。", ["我", "很", "高", "兴", "。"]),
        ("新iPhone手机", ["新", "iPhone", "手", "机"]),
        ("とても good", ["と", "て", "も", "good"]),
        # a mark stays with its letter
        ("ที่นี่", ["ที่", "นี่"]),
        ("the day's C-130, naïve", ["the", "day", "'s", "C-130", ",", "naïve"]),
        # Korean has spaces, and so have these
        ("오늘 день", ["오늘", "день"]),
    ],
)
def test_attribution_words(text, found):
    assert texts(text) == found


@given(st.text(alphabet=st.sampled_from("我高 aé'-ที่แ。1ー々"), max_size=12))
def test_parts_join_to_the_words_and_begin_with_no_mark(text):
    words, found = split_words(text), attribution_words(BYTES, text)
    assert "".join(w.text for w in found) == "".join(w.text for w in words)
    for word in found:
        assert text[word.start : word.end] == word.text
        starts_word = any(word.start == each.start for each in words)
        assert starts_word or not unicodedata.category(word.text[0]).startswith("M")


def test_each_character_has_its_own_tokens():
    task = build_task("text-classification", BYTES, "decoder", ["a", "b"], OPTIONS)
    inputs = attribution_input(task.attribution, {"text": "我很高兴"}, task.name)
    assert sorted({owner for owner in inputs.owners if owner is not None}) == [0, 1, 2, 3]
    assert inputs.unread == 0


def test_characters_of_a_tagged_word_are_separate():
    task = build_task("token-classification", BYTES, "decoder", ["O", "B-X"], OPTIONS)
    # a word stands somewhere else in the text than among words joined by single spaces
    inputs = attribution_input(task.attribution, {"text": "so    高兴  day"}, task.name)
    assert [word.text for _, word in inputs.words] == ["so", "高", "兴", "day"]
    assert sorted({owner for owner in inputs.owners if owner is not None}) == [0, 1, 2, 3]
