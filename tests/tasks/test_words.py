"""The word splitter."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapterhub.tasks.words import infer_segmentation, join_words, split_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Mara met Jo, twice.", ["Mara", "met", "Jo", ",", "twice", "."]),
        ("the U.S. team", ["the", "U.S.", "team"]),
        ("U.S.A now", ["U.S.A", "now"]),
        ("Lindos's C-130 cost 3.5", ["Lindos", "'s", "C-130", "cost", "3.5"]),
        ("(O’Neil) isn't", ["(", "O’Neil", ")", "isn't"]),
        ("नमस्ते 😀!", ["नमस्ते", "😀", "!"]),
        ("a\u200bb \u200b c", ["a\u200bb", "c"]),
        (" \n", []),
    ],
)
def test_words(text, words):
    assert [word.text for word in split_words(text)] == words


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ("words", ["我", "2024年", "去", "IBM", "。"]),
        ("unspaced", ["我", "2024", "年", "去", "IBM", "。"]),
        ("characters", ["我", "2", "0", "2", "4", "年", "去", "I", "B", "M", "。"]),
    ],
)
def test_segmentations(segmentation, words):
    assert [word.text for word in split_words("我 2024年 去 IBM。", segmentation)] == words


def test_marks_stay_with_the_letter_before_them():
    assert [word.text for word in split_words("น้ำใจ", "unspaced")] == ["น้", "ำ", "ใ", "จ"]
    assert [word.text for word in split_words("e\u0301a", "characters")] == ["e\u0301", "a"]


@pytest.mark.parametrize(
    ("tokens", "segmentation"),
    [
        (["Mara", "met", "a", "3"], "words"),
        (["我", "去", "IBM", "。"], "unspaced"),
        (["我", "在", "。"], "unspaced"),
        (["我", "2", "0", "岁"], "characters"),
        (["我们", "去", "北京"], None),
    ],
)
def test_segmentation_of_tokens(tokens, segmentation):
    assert infer_segmentation([tokens] * 3) == segmentation


@pytest.mark.parametrize("segmentation", ["words", "unspaced", "characters"])
@given(text=st.text(max_size=40))
def test_offsets_give_the_words_back_in_order_and_lose_no_letter(segmentation, text):
    words = split_words(text, segmentation)
    assert all(text[word.start : word.end] == word.text for word in words)
    assert all(a.end <= b.start for a, b in pairwise(words))
    covered = {at for word in words for at in range(word.start, word.end)}
    assert all(at in covered for at, char in enumerate(text) if char.isalnum())


@given(st.lists(st.text(max_size=5), min_size=1, max_size=6))
def test_joined_words_stand_where_it_says(words):
    text, placed = join_words(words)
    assert text == " ".join(words)
    assert [text[word.start : word.end] for word in placed] == words
