"""Tasks on an encoder-decoder: sources, targets, languages and what comes before a text."""

import pytest
import torch
from tiny_models import tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import NllbTokenizer, PreTrainedTokenizerFast

from adapterhub.backbones.teacher_forcing import decoder_prompt, shifted_right
from adapterhub.errors import DataError, RecipeError
from adapterhub.tasks.base import TargetFrame, TaskOptions
from adapterhub.tasks.table import build_task

WORDS = ["a", "river", "is", "wide", "ein", "Fluss", "ist", "breit", "translate", ":"]


@pytest.fixture
def words():
    """A tokenizer of words that ends every text, as T5's does."""
    vocabulary = {w: i for i, w in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture
def nllb():
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "a", "b"]
    return NllbTokenizer(vocab={piece: at for at, piece in enumerate(pieces)}, merges=[])


def task_of(tokenizer, name="translation", **options):
    return build_task(name, tokenizer, "encoder-decoder", [], TaskOptions(**options))


PAIR = {"source": "a river is wide", "target": "ein Fluss ist breit"}


def test_a_source_follows_the_instruction_and_a_target_ends(words):
    task = task_of(words, instruction="translate :")
    encoded = task.encode(PAIR, 1, train=True)
    decode = words.decode
    assert decode(list(encoded.input_ids)) == "translate : a river is wide </s>"
    assert decode(list(encoded.targets)) == "ein Fluss ist breit </s>"
    assert list(encoded.select) == list(range(5))
    assert task.prompt_ids(task.messages({"text": "a river is wide"}, 1)) == encoded.input_ids
    assert task.stop_ids == {1}
    assert (task.head, task.peft_task_type) == ("seq2seq_lm", "SEQ_2_SEQ_LM")


def test_a_question_is_read_with_its_context(words):
    task = task_of(words, "generative-question-answering")
    example = {"question": "is wide", "context": "a river", "answers": ["breit"]}
    (message,) = task.messages(example, 1)
    assert message["content"] == "question: is wide context: a river"


def test_long_texts_lose_their_end_and_keep_the_token_that_ends_them(words):
    encoded = task_of(words, max_length=4).encode(PAIR, 1, train=True)
    assert words.decode(list(encoded.input_ids)) == "a river is </s>"
    assert words.decode(list(encoded.targets)) == "ein Fluss ist </s>"
    assert encoded.truncated
    assert not task_of(words, max_length=5).encode(PAIR, 1, train=True).truncated


def test_languages_are_the_tokenizers(nllb):
    task = task_of(nllb, source_language="deu_Latn", target_language="fra_Latn")
    german, french = nllb.convert_tokens_to_ids(["deu_Latn", "fra_Latn"])
    encoded = task.encode({"source": "a b", "target": "b"}, 1, train=True)
    assert (encoded.input_ids[0], encoded.targets[0]) == (german, french)
    assert task.target_frame == TargetFrame((french,), (2,))
    # the backbone's own tokenizer is left as it was
    assert nllb.src_lang == "eng_Latn"


def test_the_decoder_begins_with_what_the_class_puts_before_a_text(nllb, words):
    frame = TargetFrame((7,), (2,))
    # <s> of T5's padding; the end of text of M2M100 and NLLB, and then the language
    for kind, expected in (("t5", [0]), ("m2m_100", None), ("mbart", None), ("marian", None)):
        model = tiny_model(kind)
        labels = torch.tensor([[7, 40, 41, 2]])
        forced = shifted_right(model, labels)[0].tolist()
        assert decoder_prompt(model, frame.before, frame.after) == forced[:2]
        assert forced[1:3] == [7, 40]
        assert decoder_prompt(model, (), (2,)) == forced[:1] or kind == "mbart"
        if expected is not None:
            assert forced[:1] == expected


def test_mbart_begins_with_the_last_token_of_a_target():
    # the first mBART puts the language last: </s> de_DE
    assert decoder_prompt(tiny_model("mbart"), (), (2, 9)) == [9]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"target_language": "xx_Latn"}, "task.target_language: the tokenizer has no language"),
        ({"source_language": "German"}, "task.source_language: the tokenizer has no language"),
    ],
)
def test_an_unknown_language_is_refused(nllb, options, problem):
    with pytest.raises(RecipeError, match=problem):
        task_of(nllb, **{"source_language": "deu_Latn", "target_language": "fra_Latn", **options})


def test_a_tokenizer_that_needs_a_language_says_so(nllb):
    nllb.tgt_lang = None
    with pytest.raises(RecipeError, match="target_language: the tokenizer of this backbone needs"):
        task_of(nllb, source_language="deu_Latn")


def test_languages_of_other_tokenizers_are_refused(words):
    with pytest.raises(
        RecipeError, match=r"source_language: .* has no languages, found 'deu_Latn'"
    ):
        task_of(words, source_language="deu_Latn")


@pytest.mark.parametrize("setting", [{"num_beams": 3}, {"target_language": "fra_Latn"}])
def test_a_decoder_has_neither_beams_nor_languages(byte_bpe, setting):
    with pytest.raises(RecipeError, match=rf"task\.{next(iter(setting))}"):
        build_task("translation", byte_bpe, "decoder", [], TaskOptions(**setting))


def test_what_is_not_there_yet_is_said(words):
    task = task_of(words)
    with pytest.raises(DataError, match="can't be explained"):
        task.attribution_input(task.messages(PAIR, 1), "ein Fluss")
    with pytest.raises(DataError, match="one message of the user"):
        task.prompt_ids([*task.messages(PAIR, 1), {"role": "assistant", "content": "a"}])
    with pytest.raises(RecipeError, match="has no conversations"):
        task_of(words, system_prompt="be kind")
