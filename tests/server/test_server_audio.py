"""Recordings over HTTP: a server around a backbone that reads them."""

import base64

import pytest
import torch
from audio_backbones import save_audio, tone
from http_server_helpers import UNQUANTIZED, running_server, store

from adapterhub.adapters.artifact import read_artifact
from adapterhub.adapters.weights import AdapterWeights
from adapterhub.backbones.backbone import load_backbone
from adapterhub.data.audio import AudioFile
from adapterhub.engine.local_engine import LocalEngine
from adapterhub.registry import Registry
from adapterhub.specs import LoraSpec

TASK = "audio-classification"
WIDTH, INNER = 32, 16
TONES = ("low", "high", "middle")


def random_adapter(seed):
    """Return LoRA on the queries of Wav2Vec2, and a head for three labels."""
    draw = torch.Generator().manual_seed(seed)
    tensors = {
        "base_model.model.projector.weight": torch.randn(INNER, WIDTH, generator=draw),
        "base_model.model.projector.bias": torch.zeros(INNER),
        "base_model.model.classifier.weight": torch.randn(3, INNER, generator=draw),
        "base_model.model.classifier.bias": torch.zeros(3),
    }
    for layer in range(2):
        key = f"base_model.model.wav2vec2.encoder.layers.{layer}.attention.q_proj"
        tensors[f"{key}.lora_A.weight"] = torch.randn(4, WIDTH, generator=draw)
        tensors[f"{key}.lora_B.weight"] = torch.randn(WIDTH, 4, generator=draw)
    return AdapterWeights(LoraSpec(rank=4, alpha=4.0, target_modules=("q_proj",)), tensors)


def address(content, kind="audio/wav"):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    """Yield a server, and an engine that answers alone."""
    home = tmp_path_factory.mktemp("heard")
    folder = save_audio(home / "wave")
    backbone = load_backbone(str(folder), UNQUANTIZED)
    registry, local = Registry(home / "registry"), LocalEngine(backbone)
    for seed, name in enumerate(("tones", "pitches")):
        weights = random_adapter(seed)
        store(registry, home / name, name, weights, backbone.fingerprint, task=TASK)
        local.load(read_artifact(registry.materialize(registry.resolve(name))), name=name)
    with running_server(folder, registry) as served:
        yield served, local


def test_recordings_for_several_adapters_are_classified_as_by_predict(heard):
    served, local = heard
    contents = [tone(label, number) for number, label in enumerate(TONES)]
    names = ["tones", "pitches", "tones"]
    items = [
        {"model": name, "input": {"audio": address(content)}}
        for name, content in zip(names, contents, strict=True)
    ]
    answer = served.post("/v1/classify", {"items": items})
    assert answer.status_code == 200, answer.text
    for found, name, content in zip(answer.json()["data"], names, contents, strict=True):
        (alone,) = local.adapter(name).predict([{"audio": AudioFile("x", content)}])
        assert found["label"] == alone["label"]
        assert found["scores"] == pytest.approx(alone["scores"], abs=1e-4)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("https://example.org/a.wav", "nothing is fetched"),
        ("data:audio/wav;base64,%%%", "not base64"),
        (address(tone("low", 1), "image/png"), "not a data: URL of a recording"),
        (address(b"no audio"), "can't be read as a recording"),
        (address(tone("low", 1, seconds=0.05)), "is 0.05 s long"),
    ],
    ids=["link", "coding", "kind", "format", "short"],
)
def test_invalid_recordings_are_rejected(heard, given, problem):
    served, _ = heard
    answer = served.post("/v1/classify", {"model": "tones", "input": {"audio": given}})
    assert answer.status_code == 400, answer.text
    assert problem in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/embeddings"])
def test_texts_are_rejected_with_the_reason(heard, path):
    served, _ = heard
    answer = served.post(path, {"model": "tones", "input": "a text"})
    assert answer.status_code == 400, answer.text
    assert "recording" in answer.json()["error"]["message"] or "audio" in answer.text
