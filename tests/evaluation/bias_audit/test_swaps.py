"""Words are exchanged whole, in their case and in their right form, and nothing else is."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapterhub.evaluation.bias_audit.swaps import KINDS, NAMES, NATIONALITIES, PRONOUNS, Swapper
from adapterhub.evaluation.bias_audit.templates import read_words
from adapterhub.evaluation.bias_audit.tokens import tokens_of


def of_gender(swapper, text):
    (variant,) = swapper.variants({"text": text}, PRONOUNS)
    return variant.row["text"]


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("He lost his keys.", "She lost her keys."),
        ("She lost her keys.", "He lost his keys."),
        ("They gave her a map.", "They gave him a map."),
        ("They gave him a map.", "They gave her a map."),
        ("We asked her about her plans.", "We asked him about his plans."),
        ("We saw her.", "We saw him."),
        ("The red one is his.", "The red one is hers."),
        ("The red one is hers.", "The red one is his."),
        ("His is red, hers is blue.", "Hers is red, his is blue."),
        ("He taught himself; she taught herself.", "She taught herself; he taught himself."),
        ("HE SAID HER NAME", "SHE SAID HIS NAME"),
        ("he's late and she'll wait", "she's late and he'll wait"),
        ("Mr. Okafor and his wife", "Mrs. Okafor and her husband"),
        ("Ms Tan, a mother", "Mr Tan, a father"),
        ("the lady's hat and her  shoes", "the gentleman's hat and his  shoes"),
        # nothing of this is a word of gender
        ("He read the theory here with others.", "She read the theory here with others."),
    ],
)
def test_pronouns_and_words_of_gender(swapper, text, other):
    assert of_gender(swapper, text) == other


def test_a_text_speaks_of_the_other_gender_afterwards(swapper):
    groups = [
        swapper.variants({"text": text}, PRONOUNS)[0].group
        for text in ("He sings.", "Her aunt sings.", "He sings to her.")
    ]
    assert groups == ["female", "male", "both"]


def test_names_agree_with_pronouns(swapper):
    assert of_gender(swapper, "Emily said that she knew Omar.") == "James said that he knew Layla."


def test_names_go_to_every_other_group_and_keep_gender_and_case(swapper, words):
    found = {v.group: v.row["text"] for v in swapper.variants({"text": "EMILY met Peter."}, NAMES)}
    assert set(found) == set(words.names) - {"English"}
    assert found["Indian"] == "PRIYA met Rajesh."
    assert found["Slavic"] == "OLGA met Zoran."


def test_nationalities_go_to_every_other_region_with_the_article_that_fits(swapper, words):
    row = {"text": "A German baker and an Italian cook met."}
    found = {v.group: v.row["text"] for v in swapper.variants(row, NATIONALITIES)}
    assert set(found) == set(words.nationalities) - {"Western Europe"}
    assert found["South Asia"] == "An Indian baker and a Bangladeshi cook met."
    assert found["Eastern Europe"] == "A Polish baker and a Romanian cook met."
    ukrainian = swapper.variants({"text": "an American"}, NATIONALITIES)[0]
    assert ukrainian.row["text"] == "a Chinese"


@pytest.mark.parametrize(
    "text",
    [
        "polish the shoes",
        "an Anglo-German treaty",
        "Jameson and Maryland",
        "the thesis",
        "We will mark it with rose ink",
        "",
    ],
)
def test_what_only_looks_like_such_a_word_stays(swapper, text):
    assert not any(swapper.variants({"text": text}, kind) for kind in KINDS)


def test_texts_without_capitals_are_read_too(swapper):
    (first, *_) = swapper.variants({"text": "a german film with emily"}, NATIONALITIES)
    assert first.row["text"] == "a chinese film with emily"
    assert not swapper.variants({"text": "We polish a german car"}, NATIONALITIES)


def test_lists_of_words_are_exchanged_place_by_place_and_answers_stay(swapper):
    row = {"tokens": ["Emily", "saw", "an", "Iraqi", "."], "tags": ["B-PER", "O", "O", "O", "O"]}
    (nation, *_) = (v for v in swapper.variants(row, NATIONALITIES) if v.group == "East Asia")
    assert nation.row["tokens"] == ["Emily", "saw", "a", "Chinese", "."]
    assert nation.row["tags"] == row["tags"]
    label = {"text": "He sings.", "text_pair": "His song", "label": "he"}
    (changed,) = swapper.variants(label, PRONOUNS)
    assert changed.row == {"text": "She sings.", "text_pair": "Her song", "label": "he"}
    assert label["text"] == "He sings."


def test_every_listed_word_has_one_meaning(words):
    names = [n.lower() for g in words.names.values() for half in g.values() for n in half]
    nations = [n.lower() for some in words.nationalities.values() for n in set(some)]
    gender = [word for pair in words.gender for word in pair]
    doubled = [word for word, count in Counter([*names, *nations, *gender]).items() if count > 1]
    assert doubled == []
    sizes = {len(half) for group in words.names.values() for half in group.values()}
    assert len(sizes) == 1
    assert len({len(some) for some in words.nationalities.values()}) == 1


PLAIN = Swapper(read_words())


@given(st.text())
def test_tokens_joined_are_the_text(text):
    assert "".join(tokens_of(text)) == text


@given(st.lists(st.sampled_from(["he", "She", "him", "MAN", "wives", "himself", "tree", ","])))
def test_exchanging_twice_gives_the_text_again(pieces):
    row = {"text": " ".join(pieces)}
    for variant in PLAIN.variants(row, PRONOUNS):
        (back,) = PLAIN.variants(variant.row, PRONOUNS)
        # "him" comes back from "her" as what stands there: a person, or whose thing it is
        assert back.row["text"].lower().replace("his", "him") == row["text"].lower()
