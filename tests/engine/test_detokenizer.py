"""Streamed text: equal to decoding all at once, however tokens and characters are cut."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from adapterhub.backbones.sources import fetch_backbone
from adapterhub.engine.detokenizer import IncrementalDetokenizer

CORPUS = ["the film was good", "größer als 東京", "👍🏽 don't 12345", "a  b\n\tc"]
SPECIALS = [AddedToken("<|end|>", special=True), AddedToken("<tool é>", special=False)]


def wrapped(core):
    core.add_special_tokens(SPECIALS[:1])
    core.add_tokens(SPECIALS[1:])
    return PreTrainedTokenizerFast(tokenizer_object=core)


def byte_level():
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=alphabet, show_progress=False, min_frequency=1
    )
    core.train_from_iterator(CORPUS, trainer)
    return wrapped(core)


def byte_fallback():
    """As of Llama 2: white space is a letter, unknown letters are bytes."""
    vocabulary = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary += ["▁", "▁▁", *"abdefgilmostwö", "▁the", "▁was", "ood"]
    ids = {token: place for place, token in enumerate(vocabulary)}
    core = Tokenizer(models.BPE(ids, [], byte_fallback=True, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return wrapped(core)


def word_level():
    """As of the tiny backbones of these tests: no decoder, words joined by blanks."""
    words = {word: place for place, word in enumerate(["[UNK]", "the", "film", "was", "good"])}
    core = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return wrapped(core)


def byte_letters():
    """Return byte to letter, each found by what the library writes for text that holds it."""
    core = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    found = {}
    for code in (*range(0xD800), *range(0xE000, 0x110000, 0x1000)):
        written = core.pre_tokenize_str(chr(code))[0][0]
        found |= dict(zip(chr(code).encode(), written, strict=True))
    # no text holds the others; by GPT-2's rule their letters are their own numbers
    return {byte: chr(byte) for byte in range(256)} | found


TOKENIZERS = {
    "byte-level": byte_level(),
    "byte-fallback": byte_fallback(),
    "word-level": word_level(),
}
LETTERS = byte_letters()
KINDS = pytest.mark.parametrize("kind", TOKENIZERS)


def whole(tokenizer, ids, stop=()):
    """Decode everything and cut before the stop string that is complete first."""
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    for end in range(len(text) + 1):
        found = [one for one in stop if text[:end].endswith(one)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None


def streamed(tokenizer, ids, stop=(), cuts=()):
    stream = IncrementalDetokenizer(tokenizer, stop)
    bounds = [0, *sorted(cuts), len(ids)]
    deltas = [stream.push(ids[start:end]) for start, end in pairwise(bounds)]
    return "".join([*deltas, stream.finish()]), stream.stopped


def one_by_one(tokenizer, ids, stop=(), **settings):
    stream = IncrementalDetokenizer(tokenizer, stop, **settings)
    return [stream.push([token]) for token in ids] + [stream.finish()]


@KINDS
@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_any_tokens_stream_to_what_decodes_at_once(kind, data):
    tokenizer = TOKENIZERS[kind]
    # ids past the vocabulary are what padded logits can give
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) + 3), max_size=40))
    cuts = data.draw(st.lists(st.integers(0, len(ids)), max_size=6))
    text = whole(tokenizer, ids)[0]
    stop = tuple(data.draw(st.lists(substrings(text), max_size=3)))
    assert streamed(tokenizer, ids, stop, cuts) == whole(tokenizer, ids, stop)


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=60), st.data())
def test_any_text_streams_unchanged(text, data):
    tokenizer = TOKENIZERS["byte-level"]
    ids = tokenizer.encode(text, add_special_tokens=False)
    cuts = data.draw(st.lists(st.integers(0, len(ids)), max_size=6))
    assert streamed(tokenizer, ids, (), cuts) == whole(tokenizer, ids)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=30))
def test_any_bytes_stream_to_what_decodes_at_once(content):
    tokenizer = TOKENIZERS["byte-level"]
    ids = tokenizer.convert_tokens_to_ids([LETTERS[byte] for byte in content])
    found = "".join(one_by_one(tokenizer, ids))
    assert found == content.decode(errors="replace") == whole(tokenizer, ids)[0]


def substrings(text):
    if not text:
        return st.sampled_from(["a", "��"])
    pairs = st.tuples(st.integers(0, len(text) - 1), st.integers(1, 5))
    return pairs.map(lambda pair: text[pair[0] : sum(pair)])


def ids_of(text, kind="byte-level"):
    return TOKENIZERS[kind].encode(text, add_special_tokens=False)


def test_character_is_held_until_it_is_whole():
    deltas = one_by_one(TOKENIZERS["byte-level"], ids_of("é👩z"))
    assert [delta for delta in deltas if delta] == ["é", "👩", "z"]


def test_incomplete_character_is_returned_at_the_end():
    ids = ids_of("👩")[:-1]
    assert one_by_one(TOKENIZERS["byte-level"], ids)[-1] == "�"


def test_beginning_of_a_stop_string_is_held_back_until_it_differs():
    tokenizer = TOKENIZERS["byte-level"]
    stream = IncrementalDetokenizer(tokenizer, ("xyz",))
    assert stream.push(ids_of("qxy")) == "q"
    assert stream.push(ids_of("xy")) == "xy"
    assert stream.finish() == "xy"
    assert stream.stopped is None


def test_nothing_follows_a_stop_string():
    stream = IncrementalDetokenizer(TOKENIZERS["byte-level"], ("xy",))
    assert stream.push(ids_of("qxyq")) == "q"
    assert stream.stopped == "xy"
    assert (stream.push(ids_of("q")), stream.finish()) == ("", "")


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("qabcq", ("abc", "b"), ("qa", "b")),
        ("qabc", ("c", "abc"), ("q", "abc")),
        ("aaab", ("aab",), ("a", "aab")),
        ("abab", ("abac", "ba"), ("a", "ba")),
    ],
)
def test_stop_string_that_is_complete_first_counts(text, stop, expected):
    assert streamed(TOKENIZERS["byte-level"], ids_of(text), stop) == expected
    stream = IncrementalDetokenizer(TOKENIZERS["byte-level"], stop)
    assert ("".join(stream.push([token]) for token in ids_of(text)), stream.stopped) == expected


def test_stop_string_counts_only_after_min_tokens():
    tokenizer, ids = TOKENIZERS["byte-level"], ids_of("xqxyq")
    assert len(ids) == 5
    assert "".join(one_by_one(tokenizer, ids, ("x",), min_tokens=1)) == "xq"
    assert "".join(one_by_one(tokenizer, ids, ("xq",), min_tokens=1)) == "xqxyq"


def test_special_tokens_are_no_text():
    tokenizer = TOKENIZERS["byte-level"]
    ids = tokenizer.encode("a<|end|><tool é>b", add_special_tokens=False)
    assert "".join(one_by_one(tokenizer, ids)) == "a<tool é>b"


class Counting:
    """A tokenizer that counts the tokens that it decodes."""

    def __init__(self, core):
        self._core, self.decoded = core, 0

    def __getattr__(self, name):
        return getattr(self._core, name)

    def decode(self, ids, **settings):
        self.decoded += len(ids)
        return self._core.decode(ids, **settings)


@KINDS
def test_cost_is_linear_in_the_number_of_tokens(kind):
    core = Counting(TOKENIZERS[kind].backend_tokenizer)
    end = core.token_to_id("<|end|>")
    ids = (ids_of("the film was good", kind) + [end] * 20) * 50
    stream = IncrementalDetokenizer(SimpleNamespace(backend_tokenizer=core), ("nothing",))
    for token in ids:
        stream.push([token])
    assert core.decoded <= 4 * len(ids)


@pytest.fixture(scope="module")
def real():
    return AutoTokenizer.from_pretrained(fetch_backbone("smollm2-135m-instruct"))


@pytest.mark.weights
@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_real_tokenizer_streams_to_what_decodes_at_once(real, data):
    text = data.draw(st.text(max_size=40))
    ids = real.encode(text) + data.draw(st.lists(st.integers(0, len(real) - 1), max_size=20))
    stop = tuple(data.draw(st.lists(substrings(text), max_size=2)))
    cuts = data.draw(st.lists(st.integers(0, len(ids)), max_size=6))
    assert streamed(real, ids, stop, cuts) == whole(real, ids, stop)
