"""Completion of a tokenizer that was read from GGUF."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from adapterhub.backbones.gguf import complete_tokenizer, convert_gguf
from adapterhub.errors import BackboneError


@pytest.fixture
def from_gguf():
    """Tokenizer as transformers reads it: bytes by GPT-2's pattern without a step before."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(["a  ", "b\n\n"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core)


@pytest.mark.parametrize("text", ["a  1", "b\n\n1.", "a  12"])
def test_white_space_before_digits_stays_whole(from_gguf, text):
    before = from_gguf.tokenize(text)
    complete_tokenizer(from_gguf, "smollm")
    after = from_gguf.tokenize(text)
    assert len(after) == len(before) - 1
    assert {"ĠĠ", "ĊĊ"} & set(after)
    assert all(len(token) == 1 for token in after if any(c.isdigit() for c in token))


def test_completing_twice_changes_nothing(from_gguf):
    complete_tokenizer(from_gguf, "smollm")
    once = from_gguf.tokenize("a  1 b")
    complete_tokenizer(from_gguf, "smollm")
    assert from_gguf.tokenize("a  1 b") == once


def test_default_changes_nothing(from_gguf):
    before = from_gguf.backend_tokenizer.to_str()
    complete_tokenizer(from_gguf, "default")
    assert from_gguf.backend_tokenizer.to_str() == before


def test_text_is_normalised_as_qwen_does(from_gguf):
    complete_tokenizer(from_gguf, "qwen2")
    assert from_gguf.tokenize("e\u0301") == from_gguf.tokenize("\u00e9")


def test_unknown_pre_tokenizer_is_refused(from_gguf):
    with pytest.raises(BackboneError, match=r"'telepathic', which is not supported.*smollm"):
        complete_tokenizer(from_gguf, "telepathic")


def test_a_file_that_is_not_gguf_is_refused(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"no magic here at all" * 10)
    with pytest.raises(BackboneError, match=r"model\.gguf: is not GGUF"):
        convert_gguf(tmp_path / "model.gguf", tmp_path / "out")
