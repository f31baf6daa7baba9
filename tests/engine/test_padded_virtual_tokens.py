"""Embeddings, prefixes and prompts on the padded path equal transformers and peft alone."""

from dataclasses import replace
from types import SimpleNamespace

import peft
import pytest
import torch
from backbones.tiny_architectures import tiny_config, tiny_model
from peft import get_peft_model_state_dict
from test_padded_pooling import (
    CLASSES,
    LENGTHS,
    Labeller,
    base_model_of,
    example_of,
    paths_of,
    tiny_backbone,
)

from adapterhub.adapters.weights import AdapterWeights
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.specs import PrefixSpec, PromptSpec

TOLERANCE = 1e-4
SIZE = EngineConfig(rank_slots=16)


def engine_on(name, *, packed=False):
    backbone = tiny_backbone(name)
    backbone.verdicts["paths"] = replace(paths_of(name), packed=packed)
    return Engine(backbone, SIZE)


def results(engine, requests):
    while engine.busy:
        engine.step()
    return [request.results()[0] for request in requests]


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("name", ["roberta", "distilbert", "deberta-v2", "llama", "lfm2"])
def test_embeddings_of_a_padded_batch_equal_those_alone(name, pooling):
    engine, model = engine_on(name), base_model_of(tiny_model(name))
    ids = [list(example_of(name, "token", n, n).input_ids) for n in LENGTHS]
    requests = [engine.add_embedding(each, pooling=pooling) for each in ids]
    for tokens, found in zip(ids, results(engine, requests), strict=True):
        with torch.no_grad():
            hidden = model(torch.tensor([tokens])).last_hidden_state[0]
        expected = hidden.mean(0) if pooling == "mean" else hidden[-1]
        assert (found - expected).abs().max() < TOLERANCE
    engine.close()


class Virtual:
    """A prefix or prompt with a head, of random weights, and the peft model that has it."""

    def __init__(self, name, head, config, spec, seed):
        torch.manual_seed(seed)
        labels = ["a", "b", "c"]
        stock = CLASSES[head].from_config(tiny_config(name, num_labels=3)).float()
        base = getattr(stock, stock.base_model_prefix)
        base.load_state_dict(base_model_of(tiny_model(name)).state_dict(), strict=False)
        self.model = peft.get_peft_model(stock, config).eval()
        for own, value in self.model.named_parameters():
            if "prompt_encoder" in own or "modules_to_save" in own:
                value.data.normal_(std=0.5)
        state = get_peft_model_state_dict(self.model)
        self.weights = AdapterWeights(spec, {key: value.clone() for key, value in state.items()})
        self.task = SimpleNamespace(head=head, labels=tuple(labels), name=head, generation=None)
        self.offset = 0 if isinstance(spec, PrefixSpec) else config.num_virtual_tokens

    def logits(self, example):
        ids = torch.tensor([list(example.input_ids)])
        with torch.no_grad():
            found = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        select = [at + self.offset for at in example.select]
        return found if self.task.head == "sequence" else found[0, select]


def check(name, virtual, others, *, packed=False):
    engine = engine_on(name, packed=packed)
    adapters = [*virtual, *others]
    for at, each in enumerate(adapters):
        engine.load_weights(each.weights, key=str(at), name=str(at), task=each.task)
    expected, requests = [], []
    for at, each in enumerate(adapters):
        for seed, length in enumerate((5, 9, 5, 2)):
            example = example_of(name, each.task.head, length, seed + at)
            requests.append(engine.add_labeling(example, str(at), kind=each.task.head))
            expected.append(each.logits(example))
    for found, wanted in zip(results(engine, requests), expected, strict=True):
        assert found.shape == wanted.shape
        assert (found - wanted).abs().max() < TOLERANCE
    engine.close()


TYPES = {"sequence": "SEQ_CLS", "token": "TOKEN_CLS"}


#: What peft does not find in the configuration of an architecture.
SIZES = {"distilbert": {"token_dim": 32, "num_layers": 2, "num_attention_heads": 4}}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("head", ["sequence", "token"])
def test_prefixes_of_several_lengths_equal_peft_alone(head, packed):
    prefixes = [
        Virtual(
            "llama",
            head,
            peft.PrefixTuningConfig(num_virtual_tokens=count, task_type=TYPES[head]),
            PrefixSpec(num_virtual_tokens=count),
            seed,
        )
        for seed, count in enumerate((3, 6))
    ]
    check("llama", prefixes, [Labeller("llama", head, 5)], packed=packed)


@pytest.mark.parametrize("head", ["sequence", "token"])
@pytest.mark.parametrize("name", ["llama", "roberta", "bert", "distilbert"])
def test_prompts_equal_peft_alone(name, head):
    prompts = [
        Virtual(
            name,
            head,
            peft.PromptTuningConfig(
                num_virtual_tokens=count, task_type=TYPES[head], **SIZES.get(name, {})
            ),
            PromptSpec(num_virtual_tokens=count),
            seed,
        )
        for seed, count in enumerate((3, 6))
    ]
    check(name, prompts, [Labeller(name, head, 5)])
