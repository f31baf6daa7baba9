"""Heads are read whole from an adapter's tensors, or refused."""

import pytest
import torch
from pooling_helpers import make_labeller

from adapterhub.adapters.weights import AdapterWeights
from adapterhub.backbones.backbone import load_backbone
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.engine.heads import HeadBuilder
from adapterhub.errors import StrictLoadError
from adapterhub.specs import LoraSpec, PrefixSpec, QuantizationSpec
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.table import build_task

PLAIN = QuantizationSpec("none", "float32")
ON_ENCODER = LoraSpec(rank=2, alpha=2.0, target_modules=("query",))
ON_DECODER = LoraSpec(rank=2, alpha=2.0, target_modules=("q_proj",))


def head_of(labeller, folder, weights=None):
    heads = HeadBuilder(load_backbone(str(folder), PLAIN))
    return heads.read(weights or labeller.weights, labeller.task, name="x")


@pytest.mark.parametrize("head", ["sequence", "token"])
@pytest.mark.parametrize("spec", [ON_DECODER, PrefixSpec(num_virtual_tokens=3)])
def test_a_head_is_what_peft_stored(decoder, head, spec):
    labeller = make_labeller(decoder, "decoder", head, spec, 1)
    found = head_of(labeller, decoder)
    hidden = torch.randn(5, 64)
    with torch.no_grad():
        expected = labeller.model.get_base_model().score(hidden)
    assert torch.allclose(found.logits(hidden), expected, atol=1e-6)
    assert found.kind == head
    assert found.labels == labeller.task.labels


def test_heads_compute_in_float32(decoder):
    labeller = make_labeller(decoder, "decoder", "token", ON_DECODER, 1)
    found = head_of(labeller, decoder)
    hidden = torch.randn(5, 64).bfloat16()
    assert found.logits(hidden).dtype == torch.float32
    assert torch.equal(found.logits(hidden), found.logits(hidden.float()))


def test_the_adapters_pooler_is_used_or_else_the_backbones(encoder):
    own = make_labeller(encoder, "encoder", "sequence", ON_ENCODER, 1, modules_to_save=["pooler"])
    without = make_labeller(encoder, "encoder", "sequence", ON_ENCODER, 2)
    settings = EngineConfig(rank_slots=8)
    engine = Engine(load_backbone(str(encoder), PLAIN), settings)
    requests = []
    for name, each in {"own": own, "without": without}.items():
        engine.load_weights(each.weights, key=name, name=name, task=each.task)
        requests.append(engine.add_labeling("the film was good", name))
    while engine.busy:
        engine.step()
    engine.close()
    for request, each in zip(requests, (own, without), strict=True):
        expected = each.logits(request.sequences[0].example)
        assert (request.results()[0] - expected).abs().max() < 1e-4


@pytest.mark.parametrize("broken", ["bias", "weight", "shape", "labels"])
def test_an_incomplete_head_is_rejected(encoder, broken):
    labeller = make_labeller(encoder, "encoder", "sequence", ON_ENCODER, 1)
    tensors = dict(labeller.weights.tensors)
    key = "base_model.model.classifier." + ("bias" if broken == "bias" else "weight")
    if broken == "shape":
        tensors[key] = tensors[key][:, :7]
    elif broken == "labels":
        tensors[key] = tensors[key][:2]
    else:
        del tensors[key]
    with pytest.raises(StrictLoadError, match=r"classifier\.(weight|bias) of shape"):
        head_of(labeller, encoder, AdapterWeights(ON_ENCODER, tensors))


def test_a_head_without_a_task_is_rejected(encoder):
    labeller = make_labeller(encoder, "encoder", "sequence", ON_ENCODER, 1)
    engine = Engine(load_backbone(str(encoder), PLAIN))
    with pytest.raises(StrictLoadError) as caught:
        engine.load_weights(labeller.weights, key="x", name="x")
    assert "base_model.model.classifier.weight" in caught.value.unexpected
    engine.close()


def test_a_task_that_generates_has_no_head(decoder):
    labeller = make_labeller(decoder, "decoder", "sequence", ON_DECODER, 1)
    labeller.task = build_task(
        "dialogue", labeller.task.texts.tokenizer, "decoder", [], TaskOptions(max_length=32)
    )
    assert head_of(labeller, decoder) is None
