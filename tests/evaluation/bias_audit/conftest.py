"""Transparent models: hidden states count the words of a text, and a head weighs some."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from adapterhub.evaluation.bias_audit.counterfactuals import sentence_sets
from adapterhub.evaluation.bias_audit.substitution import Substituter
from adapterhub.evaluation.bias_audit.templates import (
    read_passages,
    read_sentences,
    read_topics,
    read_words,
)
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.text_classification import TextClassification

SPECIAL = ("[PAD]", "[UNK]", "[EOS]")


class GlassHead:
    """A linear head over word counts."""

    def __init__(self, weight):
        self.weight = weight

    def __call__(self, hidden):
        return hidden @ self.weight

    def features(self, hidden):
        return hidden


class GlassModel:
    """Its states are the numbers of each word in a example, with and without an adapter."""

    def __init__(self, size, head):
        self.size = size
        self.head = head
        self.training = False
        self.adapter_disabled = False
        self.backbone = SimpleNamespace(device=torch.device("cpu"))

    def hidden(self, batch):
        if set(batch.selected) != {1}:
            # a head that is evaluated at many tokens gets each of them
            return torch.nn.functional.one_hot(batch.input_ids[batch.select], self.size).float()
        sequences = batch.input_ids[: batch.tokens].split(batch.lengths)
        counts = [torch.bincount(ids, minlength=self.size).float() for ids in sequences]
        return torch.stack(counts)

    def features(self, batch):
        return self.hidden(batch)

    @contextmanager
    def disable_adapter(self):
        self.adapter_disabled = True
        yield
        self.adapter_disabled = False

    def modules(self):
        return [self]

    def eval(self):
        return self.train(False)

    def train(self, mode=True):
        self.training = mode
        return self


@pytest.fixture(scope="session")
def words():
    return read_words()


@pytest.fixture(scope="session")
def substituter(words):
    return Substituter(words)


@pytest.fixture(scope="session")
def own(substituter, words):
    return sentence_sets(substituter, read_sentences(), words)


@pytest.fixture(scope="session")
def tokenizer(own, words):
    splitter = pre_tokenizers.Whitespace()
    texts = [
        example["text"]
        for each in own
        for example in (each.example, *(v.example for v in each.counterfactuals))
    ]
    texts += [name for group in words.names.values() for half in group.values() for name in half]
    for topic in read_topics():
        texts += [*topic.history, *topic.candidates, topic.names, topic.pronouns]
        texts.append(topic.nationalities)
    for passage in (each for passages in read_passages().values() for each in passages):
        texts += [passage.context, *passage.questions]
    known = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text)})
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *known])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = splitter
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=SPECIAL[0],
        unk_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        model_max_length=128,
    )


@pytest.fixture
def task(tokenizer):
    return TextClassification(tokenizer, ["no", "yes"], TaskOptions(max_length=64), pool="first")


@pytest.fixture
def head_for(tokenizer):
    """Return a head that predicts yes for a text with one of some words, else no."""

    def make(chosen):
        weight = torch.zeros(len(tokenizer), 2)
        weight[:, 0] = 0.5
        for word in chosen:
            weight[tokenizer.convert_tokens_to_ids(word), 1] = 50.0
        return GlassHead(weight)

    return make


@pytest.fixture
def weighing(tokenizer):
    """Return a head that adds up what words weigh for one of its outputs, or for all."""

    def make(weights, outputs=(1,)):
        weight = torch.zeros(len(tokenizer), 2)
        for word, each in weights.items():
            for output in outputs:
                weight[tokenizer.convert_tokens_to_ids(word), output] = each
        return GlassHead(weight)

    return make


@pytest.fixture
def model_with(tokenizer):
    return lambda head: GlassModel(len(tokenizer), head)
