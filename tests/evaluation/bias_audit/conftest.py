"""Transparent adapters: hidden states count the words of a text, and a head weighs some."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from adapterhub.data.packing import pack
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


class GlassAdapter:
    """Its states are the numbers of each word in an example, with and without the adapter."""

    def __init__(self, size, head, task):
        self.size, self.head, self.task = size, head, task

    def states(self, examples, *, with_adapter=True):
        return [self._states(example) for example in examples]

    def decode(self, examples, *, with_adapter=True):
        return [
            decoded
            for example in examples
            for decoded in self.task.decode(self.head, self._states(example), pack([example]))
        ]

    def _states(self, example):
        ids = torch.tensor(example.input_ids)
        if len(example.select) > 1:
            # a head that is evaluated at many tokens gets each of them
            return torch.nn.functional.one_hot(ids[list(example.select)], self.size).float()
        return torch.bincount(ids, minlength=self.size).float()[None]


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
    return lambda head, task: GlassAdapter(len(tokenizer), head, task)
