"""Repair of BIO tags."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from adapterhub.errors import RecipeError
from adapterhub.tasks.bio import check_tags, repair, spans

TAGS = st.lists(st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]), max_size=12)


def test_an_inside_tag_without_its_beginning_begins_a_span():
    assert repair(["I-PER", "I-PER", "O", "I-LOC", "I-PER", "B-PER", "I-PER"]) == [
        "B-PER",
        "I-PER",
        "O",
        "B-LOC",
        "B-PER",
        "B-PER",
        "I-PER",
    ]


@given(TAGS)
def test_repair_changes_no_span_as_conlleval_reads_them(tags):
    assert get_entities(repair(tags)) == get_entities(tags)


@given(TAGS)
def test_repaired_tags_stay_as_they_are_and_give_the_spans_of_conlleval(tags):
    repaired = repair(tags)
    assert repair(repaired) == repaired
    inclusive = [(kind, first, last - 1) for kind, first, last in spans(repaired)]
    assert inclusive == get_entities(tags)


@pytest.mark.parametrize("tag", ["NOUN", "B-", "S-PER", "I_PER", ""])
def test_other_tags_are_named(tag):
    with pytest.raises(RecipeError, match="is not a BIO tag") as caught:
        check_tags(["O", "B-PER", tag])
    assert repr(tag) in str(caught.value)
