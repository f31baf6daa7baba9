"""Every token of an attribution input belongs to the word that contains it."""

import pytest
from attribution_helpers import bytes_
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from toy_fixtures import save_tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from adapterhub.errors import DataError
from adapterhub.evaluation.attribution.explain import attribution_input
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.table import build_task

OPTIONS = TaskOptions(max_length=64)


@pytest.fixture(params=["encoder", "decoder"])
def kind(request):
    return request.param


@pytest.fixture
def words(kind, tmp_path):
    """A tokenizer of whole words."""
    save_tokenizer(tmp_path, encoder=kind == "encoder")
    return AutoTokenizer.from_pretrained(tmp_path)


def pieces():
    """A tokenizer that cuts words, as BERT's does."""
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##happy", "##ly", "so", "very", "!"]
    core = Tokenizer(
        models.WordPiece({word: at for at, word in enumerate(known)}, unk_token="[UNK]")
    )
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="[UNK]", pad_token="[PAD]", model_max_length=64
    )


def by_word(inputs, tokenizer):
    """Return each read word with the text of its tokens put together."""
    found = {}
    for token, owner in zip(inputs.example.input_ids, inputs.owners, strict=True):
        if owner is not None:
            text = tokenizer.decode([token]).replace("##", "").strip()
            found[owner] = found.get(owner, "") + text
    return [(inputs.words[owner][1].text, text) for owner, text in sorted(found.items())]


def check(inputs, tokenizer, texts, *, cut=False):
    assert {text.name: text.text for text in inputs.texts} == texts
    found = by_word(inputs, tokenizer)
    assert found
    # a window may begin or end within a word
    whole = found[3:-1] if cut else found
    assert all(word == text for word, text in whole), found
    assert all(text in word for word, text in found), found
    for text, word in inputs.words:
        assert text.text[word.start : word.end] == word.text
    return [word for word, _ in found]


def test_subword_tokens_belong_to_one_word():
    tokenizer = pieces()
    task = build_task("text-classification", tokenizer, "encoder", ["a", "b"], OPTIONS)
    inputs = attribution_input(task.attribution, {"text": "so unhappyly !  so"}, task.name)
    assert list(inputs.owners) == [None, 0, 1, 1, 1, 2, 3, None]
    assert [(w.text, w.start, w.end) for _, w in inputs.words] == [
        ("so", 0, 2),
        ("unhappyly", 3, 12),
        ("!", 13, 14),
        ("so", 16, 18),
    ]
    check(inputs, tokenizer, {"text": "so unhappyly !  so"})


def test_a_pair_of_texts_has_words_of_both():
    tokenizer = pieces()
    task = build_task("text-classification", tokenizer, "encoder", ["a", "b"], OPTIONS)
    example = {"text": "so unhappy", "text_pair": "very unhappy", "label": "of nobody's"}
    inputs = attribution_input(task.attribution, example, task.name)
    assert list(inputs.owners) == [None, 0, 1, 1, None, 2, 3, 3, None]
    found = check(inputs, tokenizer, {"text": "so unhappy", "text_pair": "very unhappy"})
    assert found == ["so", "unhappy", "very", "unhappy"]


def test_byte_tokens_belong_to_words_and_spaces_to_none():
    tokenizer = bytes_()
    task = build_task("text-classification", tokenizer, "decoder", ["a", "b"], OPTIONS)
    example = {"text": "the  day was né", "text_pair": "so\ngood!"}
    inputs = attribution_input(task.attribution, example, task.name)
    assert {text.name: text.text for text in inputs.texts} == example
    ids = list(inputs.example.input_ids)
    for word in range(len(inputs.words)):
        own = [token for token, owner in zip(ids, inputs.owners, strict=True) if owner == word]
        assert tokenizer.decode(own).strip() == inputs.words[word][1].text
    # the line end that a decoder's pair begins with belongs to no word
    assert inputs.owners[[tokenizer.decode([each]) for each in ids].index("\n")] is None


def test_truncated_words_have_no_tokens():
    tokenizer = pieces()
    options = TaskOptions(max_length=4)
    task = build_task("text-classification", tokenizer, "encoder", ["a", "b"], options)
    inputs = attribution_input(task.attribution, {"text": "so very very very so"}, task.name)
    assert list(inputs.owners) == [None, 0, 1, None]
    assert len(inputs.words) == 5
    assert inputs.unread == 3


def test_words_that_share_a_token_are_not_truncated():
    tokenizer = bytes_()
    task = build_task("text-classification", tokenizer, "decoder", ["a", "b"], OPTIONS)
    inputs = attribution_input(task.attribution, {"text": "so... good"}, task.name)
    assert [word.text for _, word in inputs.words] == ["so", ".", ".", ".", "good"]
    assert tokenizer.decode(inputs.example.input_ids[1:2]) == "..."
    assert list(inputs.owners) == [0, 1, 4]
    assert inputs.unread == 0


def test_words_of_a_relation_are_those_of_the_marked_text(kind, words):
    labels = ["made(e1,e2)", "made(e2,e1)", "other"]
    task = build_task("relation-extraction", words, kind, labels, OPTIONS)
    inputs = attribution_input(
        task.attribution, {"text": "the <e1>film</e1> was <e2>good</e2>"}, task.name
    )
    found = check(inputs, words, {"text": "the @ film @ was # good #"})
    assert found == ["the", "@", "film", "@", "was", "#", "good", "#"]


@pytest.mark.parametrize("kind", ["decoder"], indirect=True)  # the toy encoder reads no pairs
def test_words_of_a_ranking_are_of_history_and_candidate(kind, words):
    task = build_task("ranking", words, kind, ["0", "1"], OPTIONS)
    example = {"history": ["good film", "bad meal"], "candidate": "lovely song"}
    inputs = attribution_input(task.attribution, example, task.name)
    texts = {"history": "good film; bad meal", "candidate": "lovely song"}
    assert {text.name: text.text for text in inputs.texts} == texts
    named = [word for word, token in by_word(inputs, words) if word == token]
    assert named == ["good", "film", "bad", "meal", "lovely", "song"]


def test_words_of_tags_are_those_of_the_example(kind, words):
    task = build_task("token-classification", words, kind, ["O", "B-X", "I-X"], OPTIONS)
    inputs = attribution_input(
        task.attribution, {"tokens": ["the", "film", "was", "good"]}, task.name
    )
    assert check(inputs, words, {"text": "the film was good"}) == ["the", "film", "was", "good"]
    # offsets count in the text, whatever the spaces in it
    inputs = attribution_input(task.attribution, {"text": "the  film, was good"}, task.name)
    assert [(w.text, w.start) for _, w in inputs.words][1:4] == [
        ("film", 5),
        (",", 9),
        ("was", 11),
    ]


def test_words_of_a_question_and_a_later_window(words, kind):
    if kind == "encoder":
        tokenizer = pieces()
        question, context = "so unhappy", " ".join(["very", "unhappy"] * 12)
    else:
        tokenizer, question, context = words, "was good", " ".join(["the", "film"] * 12)
    options = TaskOptions(max_length=20, stride=4)
    task = build_task("question-answering", tokenizer, kind, [], options)
    example = {"question": question, "context": context}
    windows = task.windows(example)
    assert len(windows) > 1
    for window in windows:
        inputs = attribution_input(task.attribution, window, task.name)
        texts = {"question": question, "context": context}
        found = check(inputs, tokenizer, texts, cut=True)
        assert found[:2] == question.split()
        # words of the context that other windows read have no token here
        assert 2 < len(found) < len(inputs.words)


def test_words_of_a_conversation_are_those_of_its_messages(tmp_path):
    save_tokenizer(tmp_path, encoder=False)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    task = build_task("dialogue", tokenizer, "decoder", [], OPTIONS)
    messages = [{"role": "user", "content": " the film was good "}]
    inputs = task.attribution_input(messages, "bad film")
    assert check(inputs, tokenizer, {"user": "the film was good"}) == messages[0]["content"].split()
    # the head is read before each token of the answer, which itself is not explained by itself
    assert len(inputs.example.select) == 2
    assert inputs.owners[-1] is None
    with pytest.raises(DataError, match="answer is empty"):
        task.attribution_input(messages, "")


def test_a_text_without_words_is_an_error():
    tokenizer = bytes_()
    task = build_task("text-classification", tokenizer, "decoder", ["a", "b"], OPTIONS)
    with pytest.raises(DataError, match="no word to explain"):
        attribution_input(task.attribution, {"text": "\u200b\u200b"}, task.name)
