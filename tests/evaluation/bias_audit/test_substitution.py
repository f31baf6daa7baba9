"""Whole words are substituted in their case and form, and nothing else changes."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapterhub.evaluation.bias_audit.substitution import (
    ATTRIBUTES,
    NAMES,
    NATIONALITIES,
    PRONOUNS,
    Substituter,
    tokenize,
)
from adapterhub.evaluation.bias_audit.templates import read_words


def of_gender(substituter, text):
    (variant,) = substituter.counterfactuals({"text": text}, PRONOUNS)
    return variant.example["text"]


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("He lost his keys.", "She lost her keys."),
        ("She lost her keys.", "He lost his keys."),
        ("They gave her a map.", "They gave him a map."),
        ("They gave him a map.", "They gave her a map."),
        ("We audit her about her plans.", "We audit him about his plans."),
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
def test_pronouns_and_words_of_gender(substituter, text, other):
    assert of_gender(substituter, text) == other


def test_the_group_of_a_gender_swap(substituter):
    groups = [
        substituter.counterfactuals({"text": text}, PRONOUNS)[0].group
        for text in ("He sings.", "Her aunt sings.", "He sings to her.")
    ]
    assert groups == ["female", "male", "both"]


def test_names_agree_with_pronouns(substituter):
    assert (
        of_gender(substituter, "Emily said that she knew Omar.") == "James said that he knew Layla."
    )


def test_names_go_to_every_other_group_and_keep_gender_and_case(substituter, words):
    found = {
        v.group: v.example["text"]
        for v in substituter.counterfactuals({"text": "EMILY met Peter."}, NAMES)
    }
    assert set(found) == set(words.names) - {"English"}
    assert found["Indian"] == "PRIYA met Rajesh."
    assert found["Slavic"] == "OLGA met Zoran."


def test_nationalities_go_to_every_other_region_with_the_article_that_fits(substituter, words):
    example = {"text": "A German baker and an Italian cook met."}
    found = {
        v.group: v.example["text"] for v in substituter.counterfactuals(example, NATIONALITIES)
    }
    assert set(found) == set(words.nationalities) - {"Western Europe"}
    assert found["South Asia"] == "An Indian baker and a Bangladeshi cook met."
    assert found["Eastern Europe"] == "A Polish baker and a Romanian cook met."
    ukrainian = substituter.counterfactuals({"text": "an American"}, NATIONALITIES)[0]
    assert ukrainian.example["text"] == "a Chinese"


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
def test_words_in_another_sense_stay(substituter, text):
    assert not any(substituter.counterfactuals({"text": text}, kind) for kind in ATTRIBUTES)


def test_names_match_in_texts_without_capitals(substituter):
    (first, *_) = substituter.counterfactuals({"text": "a german film with emily"}, NATIONALITIES)
    assert first.example["text"] == "a chinese film with emily"
    assert not substituter.counterfactuals({"text": "We polish a german car"}, NATIONALITIES)


def test_lists_of_words_are_substituted_by_position_and_labels_stay(substituter):
    example = {
        "tokens": ["Emily", "saw", "an", "Iraqi", "."],
        "tags": ["B-PER", "O", "O", "O", "O"],
    }
    (nation, *_) = (
        v for v in substituter.counterfactuals(example, NATIONALITIES) if v.group == "East Asia"
    )
    assert nation.example["tokens"] == ["Emily", "saw", "a", "Chinese", "."]
    assert nation.example["tags"] == example["tags"]
    label = {"text": "He sings.", "text_pair": "His song", "label": "he"}
    (changed,) = substituter.counterfactuals(label, PRONOUNS)
    assert changed.example == {"text": "She sings.", "text_pair": "Her song", "label": "he"}
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


PLAIN = Substituter(read_words())


@given(st.text())
def test_tokens_joined_are_the_text(text):
    assert "".join(tokenize(text)) == text


@given(st.lists(st.sampled_from(["he", "She", "him", "MAN", "wives", "himself", "tree", ","])))
def test_substituting_twice_restores_the_text(words):
    example = {"text": " ".join(words)}
    for variant in PLAIN.counterfactuals(example, PRONOUNS):
        (back,) = PLAIN.counterfactuals(variant.example, PRONOUNS)
        # "him" comes back from "her" as a person or as a possessive
        assert back.example["text"].lower().replace("his", "him") == example["text"].lower()
