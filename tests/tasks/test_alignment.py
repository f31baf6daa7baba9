"""Alignment of words and tokens."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapterhub.tasks.alignment import align

PLAIN_WORDS = st.lists(st.text("abcdeLMlnoprst-.", min_size=1, max_size=9), min_size=1, max_size=8)
ODD_WORDS = st.lists(
    st.sampled_from(["Lindos", "", " ", "\u200b", "\u0301", "é", "😀", "李", "\n", "..."])
    | st.text(max_size=4),
    min_size=1,
    max_size=8,
)
QUIET = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)


@QUIET
@given(words=PLAIN_WORDS, limit=st.integers(4, 40))
def test_encoder_reads_first_tokens_as_transformers_aligns_them(wordpiece, words, limit):
    expected = wordpiece(words, is_split_into_words=True, truncation=True, max_length=limit)
    firsts = {}
    for position, word in enumerate(expected.word_ids()):
        if word is not None:
            firsts.setdefault(word, position)
    aligned = align(wordpiece, words, "first", limit)
    assert aligned.input_ids == expected["input_ids"]
    assert aligned.positions == list(firsts.values())


@QUIET
@given(words=PLAIN_WORDS)
def test_decoder_has_read_each_word_whole_at_its_position_and_no_more(byte_bpe, words):
    aligned = align(byte_bpe, words, "last", 500)
    for index, position in enumerate(aligned.positions):
        read = byte_bpe.decode(aligned.input_ids[: position + 1])
        assert read == " ".join(words[: index + 1])


@QUIET
@given(words=ODD_WORDS)
def test_every_word_has_a_position_in_order_however_odd(wordpiece, byte_bpe, words):
    for tokenizer, read in ((wordpiece, "first"), (byte_bpe, "last")):
        aligned = align(tokenizer, words, read, 500)
        assert len(aligned.positions) == len(words)
        assert aligned.positions == sorted(aligned.positions)
        assert all(0 <= at < len(aligned.input_ids) for at in aligned.positions)


@pytest.mark.parametrize("limit", range(4, 14))
def test_a_cut_keeps_special_tokens_and_whole_words_only(wordpiece, byte_bpe, limit):
    words = ["the", "harbour", "of", "Lindos", "castle"]
    encoder = align(wordpiece, words, "first", limit)
    assert len(encoder.input_ids) <= limit
    assert encoder.input_ids[-1] == wordpiece.sep_token_id
    assert all(at < len(encoder.input_ids) - 1 for at in encoder.positions)
    decoder = align(byte_bpe, words, "last", limit)
    kept = len(decoder.positions)
    assert byte_bpe.decode(decoder.input_ids).startswith(" ".join(words[:kept]))
    assert len(decoder.input_ids) <= limit


def test_only_the_cut_word_is_lost(byte_bpe):
    words = ["Mara", "Lindos"]
    whole = align(byte_bpe, words, "last", 500)
    short = align(byte_bpe, words, "last", len(whole.input_ids) - 1)
    assert short.positions == whole.positions[:1]
