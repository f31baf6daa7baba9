"""Adapters of a local engine: refused when wrong, never replaced by the base model."""

from dataclasses import replace

import pytest
import torch
from toy_fixtures import write_moods, write_recipe, write_talks

from adapterhub.adapters.artifact import read_artifact
from adapterhub.adapters.weights import AdapterWeights
from adapterhub.backbones.backbone import load_backbone
from adapterhub.backbones.memory import state_digest
from adapterhub.engine.local_engine import LocalEngine
from adapterhub.errors import (
    AdapterHubError,
    DataError,
    EngineError,
    FingerprintMismatch,
    NoEffectError,
    NotFoundError,
    StrictLoadError,
)
from adapterhub.specs import QuantizationSpec
from adapterhub.training.recipe_file import load_recipe
from adapterhub.training.train import train

ASKED = [{"text": "the song was great"}, {"text": "the meal was awful"}]
TALK = [[{"role": "user", "content": "the film was awful"}]]


@pytest.fixture(scope="module")
def classifier(decoder, tmp_path_factory):
    place = tmp_path_factory.mktemp("classifier")
    examples = write_moods(place / "moods.jsonl")
    path = write_recipe(place, "mood", decoder, "text-classification", examples)
    return read_artifact(train(load_recipe(path), output=place / "run").artifact)


@pytest.fixture(scope="module")
def talker(decoder, tmp_path_factory):
    place = tmp_path_factory.mktemp("talker")
    examples = write_talks(place / "talks.jsonl")
    path = write_recipe(
        place, "talk", decoder, "dialogue", examples, train={"batch_size": 8, "epochs": 12}
    )
    return read_artifact(train(load_recipe(path), output=place / "run").artifact)


@pytest.fixture
def local(decoder):
    made = LocalEngine(load_backbone(str(decoder)))
    yield made
    made.close()


def changed(artifact, tensors):
    """Return an artifact of the same digest with other tensors."""
    return replace(artifact, weights=AdapterWeights(artifact.weights.spec, tensors))


def test_two_adapters_on_one_backbone_predict_as_each_does_alone(
    local, decoder, classifier, talker
):
    expected = LocalEngine(load_backbone(str(decoder))).load(classifier, name="m").predict(ASKED)

    before = state_digest(local.backbone.base_model)
    mood, talk = local.load(classifier, name="mood"), local.load(talker, name="talk")
    assert talk.generate(TALK) == ["bad"]
    assert mood.predict(ASKED) == expected
    assert talk.generate(TALK, with_adapter=False) != ["bad"]
    assert talk.generate(TALK) == ["bad"]
    local.unload("talk")
    assert mood.predict(ASKED) == expected
    local.close()
    assert state_digest(local.backbone.base_model) == before


def test_the_backbone_can_be_lent_and_the_adapters_stay(local, talker, classifier):
    before = [type(module) for module in local.backbone.base_model.modules()]
    mood, talk = local.load(classifier, name="mood"), local.load(talker, name="talk")
    expected = mood.predict(ASKED)
    assert [type(module) for module in local.backbone.base_model.modules()] != before
    with local.lend_backbone() as backbone:
        assert [type(module) for module in backbone.base_model.modules()] == before
        with pytest.raises(EngineError, match="is lent"):
            mood.predict(ASKED)
    assert mood.predict(ASKED) == expected
    assert talk.generate(TALK) == ["bad"]


def test_cache_and_tables_are_as_large_as_what_is_asked(local, classifier, talker):
    mood = local.load(classifier, name="mood")
    assert local.engine.config.kv_cache_tokens == 0
    talk = local.load(talker, name="talk")
    first = local.engine.config.kv_cache_tokens
    assert 0 < first <= 256
    expected = talk.generate(TALK)
    assert local.engine.config.kv_cache_tokens == first
    assert talk.generate(TALK * 100) == expected * 100
    assert local.engine.config.kv_cache_tokens > first
    # one answer of more tokens than all others together
    talk.generate(TALK, max_new_tokens=2000)
    assert local.engine.config.kv_cache_tokens > 2000
    assert mood.predict(ASKED)
    assert talk.generate([]) == []


def test_a_rank_above_the_tables_gets_larger_ones(local, classifier):
    spec = classifier.weights.spec
    factor = 40 // spec.rank
    tensors = {
        key: torch.cat([tensor, *([0 * tensor] * (factor - 1))], dim=0 if "lora_A" in key else 1)
        if "lora_" in key
        else tensor
        for key, tensor in classifier.weights.tensors.items()
    }
    wide = replace(spec, rank=spec.rank * factor, alpha=spec.alpha * factor)
    wider = replace(classifier, digest="wider", weights=AdapterWeights(wide, tensors))
    expected = local.load(classifier, name="mood").predict(ASKED)
    found = local.load(wider, name="wide").predict(ASKED)
    assert local.engine.config.rank_slots == 40
    for one, other in zip(found, expected, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=0.02)
    assert local.adapter("mood").predict(ASKED) == expected


def test_other_weights_can_take_the_place_of_an_adapter(local, talker):
    local.load(talker, name="talk")
    tensors = {
        key: -3 * tensor for key, tensor in talker.weights.tensors.items() if "lora_B" in key
    }
    other = replace(changed(talker, {**talker.weights.tensors, **tensors}), digest="other")
    assert local.exchange("talk", other).generate(TALK) != ["bad"]
    assert local.exchange("talk", talker).generate(TALK) == ["bad"]
    assert len(local.engine.adapters) == 1
    with pytest.raises(NotFoundError):
        local.exchange("tale", talker)


def test_another_quantization_is_another_backbone(decoder, classifier):
    other = LocalEngine(load_backbone(str(decoder), QuantizationSpec("none", "float32")))
    with pytest.raises(FingerprintMismatch) as caught:
        other.load(classifier, name="mood")
    assert caught.value.expected in str(caught.value)
    assert caught.value.found in str(caught.value)
    assert not other.adapters
    assert len(other.load(classifier, name="mood", force=True).predict(ASKED)) == 2


def test_an_adapter_without_effect_is_rejected(local, talker, classifier):
    zeros = {key: torch.zeros_like(tensor) for key, tensor in talker.weights.tensors.items()}
    with pytest.raises(NoEffectError):
        local.load(changed(talker, zeros), name="talk")
    assert not local.adapters
    assert not local.engine.adapters
    flat = {key: torch.zeros_like(tensor) for key, tensor in classifier.weights.tensors.items()}
    with pytest.raises(NoEffectError):
        local.load(changed(classifier, flat), name="mood")
    # the digest is that of the empty one, which must not be found again
    assert local.load(talker, name="talk").generate(TALK) == ["bad"]


def test_an_adapter_of_the_output_layer_alone_has_an_effect(local, talker):
    spec = replace(talker.weights.spec, target_modules=("lm_head",))
    vocabulary, width = local.backbone.lm_head.weight.shape
    tensors = {
        "base_model.model.lm_head.lora_A.weight": torch.randn(spec.rank, width),
        "base_model.model.lm_head.lora_B.weight": torch.randn(vocabulary, spec.rank),
    }
    output = replace(talker, digest="output", weights=AdapterWeights(spec, tensors))
    assert local.load(output, name="output").generate(TALK)


def test_an_answer_ends_at_the_text_that_ends_a_turn(local, talker, monkeypatch):
    loaded = local.load(talker, name="talk")
    monkeypatch.setattr(loaded.task.generation, "stop_strings", ("ad",))
    given = []
    generate = local.engine.generate
    monkeypatch.setattr(
        local.engine, "generate", lambda *args: given.extend(args[0]) or generate(*args)
    )
    assert loaded.generate(TALK) == ["b"]
    assert given[0].params.stop == ("ad",)


def test_a_missing_tensor_is_rejected_and_leaves_the_backbone_unchanged(local, classifier):
    before = state_digest(local.backbone.base_model)
    tensors = dict(classifier.weights.tensors)
    del tensors[next(key for key in tensors if "lora_A" in key)]
    with pytest.raises(StrictLoadError) as caught:
        local.load(changed(classifier, tensors), name="mood")
    assert len(caught.value.missing) == 1
    assert "lora_A" in caught.value.missing[0]
    assert not local.adapters
    local.load(classifier, name="mood")
    local.close()
    assert state_digest(local.backbone.base_model) == before


def test_unknown_and_unfit_names_are_errors(local, classifier, talker):
    mood = local.load(classifier, name="mood")
    with pytest.raises(NotFoundError, match="Did you mean 'mood'"):
        local.adapter("mod")
    with pytest.raises(AdapterHubError, match="already loaded"):
        local.load(classifier, name="mood")
    with pytest.raises(DataError, match="does not generate text"):
        mood.generate(TALK)
    with pytest.raises(DataError, match="Use adapterhub chat"):
        local.load(talker, name="talk").predict(ASKED)
