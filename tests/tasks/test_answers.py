"""Exact match and F1 of answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapterhub.errors import DataError
from adapterhub.tasks.answers import normalized, squad_scores, token_f1

WORDS = st.lists(st.sampled_from(["a", "the", "port", "Orion", "met.", "3"]), max_size=6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Orion!", "orion"),
        ("an apple, a day", "apple day"),
        ("U.S.", "us"),
        ("$12.50", "1250"),
        ("theatre", "theatre"),
        ("the", ""),
        ("“Orion”", "“orion”"),
    ],
)
def test_what_does_not_count(text, expected):
    assert normalized(text) == expected


def test_the_best_reference_counts():
    scores = squad_scores(
        [["the old port", "Port Sorrel"], ["Orion"]], ["port sorrel", "an Orion 3"]
    )
    assert scores["exact_match"] == 50.0
    assert scores["f1"] == pytest.approx(100 * (1.0 + 2 / 3) / 2)


def test_repeated_words_count_as_often_as_both_have_them():
    assert token_f1("port port", "port") == pytest.approx(2 / 3)
    assert token_f1("port", "port port port") == pytest.approx(0.5)


def test_no_answer_is_right_where_there_is_none():
    scores = squad_scores([[], [], ["Orion"]], ["", "Orion", ""])
    assert scores["exact_match"] == scores["f1"] == pytest.approx(100 / 3)
    assert scores["unanswerable_f1"] == 50.0
    assert scores["answerable_f1"] == 0.0


@given(WORDS, WORDS)
def test_f1_is_the_same_both_ways_and_whole_for_equal_texts(first, second):
    one, other = " ".join(first), " ".join(second)
    assert token_f1(one, other) == token_f1(other, one)
    assert 0.0 <= token_f1(one, other) <= 1.0
    assert token_f1(one, f"The {one}.") == 1.0


def test_as_many_answers_as_questions():
    for references, found in (([], []), ([["a"]], [])):
        with pytest.raises(DataError, match="can't be scored"):
            squad_scores(references, found)
