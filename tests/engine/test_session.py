"""Several adapters on one backbone: refused when wrong, never replaced by the base."""

from dataclasses import replace

import pytest
import torch
from toy_fixtures import write_moods, write_recipe, write_talks

from adapterhub.adapters.artifact import read_artifact
from adapterhub.adapters.weights import AdapterWeights
from adapterhub.backbones.backbone import load_backbone
from adapterhub.backbones.memory import state_digest
from adapterhub.engine.session import Session
from adapterhub.errors import (
    DataError,
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
def session(decoder):
    return Session(load_backbone(str(decoder)))


def test_two_adapters_on_one_backbone_predict_as_each_does_alone(
    session, decoder, classifier, talker
):
    alone = Session(load_backbone(str(decoder)))
    alone.load(classifier, name="mood")
    expected = alone.predict("mood", ASKED)

    before = state_digest(session.backbone.base_model)
    session.load(classifier, name="mood")
    session.load(talker, name="talk")
    assert session.generate("talk", TALK) == ["bad"]
    assert session.predict("mood", ASKED) == expected
    assert session.generate(None, TALK, like="talk") != ["bad"]
    assert session.generate("talk", TALK) == ["bad"]
    session.unload("talk")
    assert session.predict("mood", ASKED) == expected
    session.model("mood").close()
    assert state_digest(session.backbone.base_model) == before


def test_another_quantization_is_another_backbone(decoder, classifier):
    other = Session(load_backbone(str(decoder), QuantizationSpec("none", "float32")))
    with pytest.raises(FingerprintMismatch) as caught:
        other.load(classifier, name="mood")
    assert caught.value.expected in str(caught.value)
    assert caught.value.found in str(caught.value)
    assert not other.adapters
    other.load(classifier, name="mood", force=True)
    assert len(other.predict("mood", ASKED)) == 2


def test_an_adapter_without_effect_is_rejected(session, talker):
    zeros = {k: torch.zeros_like(v) for k, v in talker.weights.tensors.items()}
    empty = replace(talker, weights=AdapterWeights(talker.weights.spec, zeros))
    with pytest.raises(NoEffectError):
        session.load(empty, name="talk")
    assert not session.adapters


def test_a_missing_tensor_is_rejected_and_leaves_the_backbone_unchanged(session, classifier):
    before = state_digest(session.backbone.base_model)
    tensors = dict(classifier.weights.tensors)
    name = next(key for key in tensors if "lora_A" in key)
    del tensors[name]
    broken = replace(classifier, weights=AdapterWeights(classifier.weights.spec, tensors))
    with pytest.raises(StrictLoadError) as caught:
        session.load(broken, name="mood")
    assert caught.value.missing == (name,)
    assert not session.adapters
    session.load(classifier, name="mood")
    session.model("mood").close()
    assert state_digest(session.backbone.base_model) == before


def test_unknown_and_unfit_names_are_errors(session, classifier):
    session.load(classifier, name="mood")
    with pytest.raises(NotFoundError, match="Did you mean 'mood'"):
        session.predict("mod", ASKED)
    with pytest.raises(DataError, match="does not generate text"):
        session.generate("mood", TALK)
