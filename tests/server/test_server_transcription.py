"""Transcripts over HTTP, by the openai client: Whisper with and without adapters, and CTC."""

import base64

import numpy as np
import openai
import pytest
import torch
from audio_backbones import RATE, encoded, save_audio, save_whisper, tone
from http_server_helpers import UNQUANTIZED, running_server, store

from adapterhub.adapters.artifact import read_artifact
from adapterhub.adapters.weights import AdapterWeights
from adapterhub.backbones.backbone import load_backbone
from adapterhub.data.audio import AudioFile
from adapterhub.engine.local_engine import LocalEngine
from adapterhub.registry import Registry
from adapterhub.specs import LoraSpec
from adapterhub.tasks.transcription import TranscriptionOptions

WIDTH = 32


def whisper_adapter(seed):
    """Return LoRA on self-attention of the decoder and on cross-attention."""
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(2):
        for name in ("self_attn.q_proj", "encoder_attn.v_proj"):
            key = f"base_model.model.model.decoder.layers.{layer}.{name}"
            tensors[f"{key}.lora_A.weight"] = torch.randn(4, WIDTH, generator=draw)
            tensors[f"{key}.lora_B.weight"] = torch.randn(WIDTH, 4, generator=draw)
    targets = sorted({key.split(".lora")[0].removeprefix("base_model.model.") for key in tensors})
    return AdapterWeights(LoraSpec(rank=4, alpha=8.0, target_modules=tuple(targets)), tensors)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """Yield a server around a Whisper, and an engine that transcribes alone."""
    home = tmp_path_factory.mktemp("spoken")
    folder = save_whisper(home / "whisper")
    backbone = load_backbone(str(folder), UNQUANTIZED)
    registry, local = Registry(home / "registry"), LocalEngine(backbone)
    for seed, name in enumerate(("first", "second")):
        weights = whisper_adapter(seed)
        reads = {"language": "en", "max_seconds": 2, "max_new_tokens": 64}
        task = "speech-recognition"
        store(registry, home / name, name, weights, backbone.fingerprint, task=task, reads=reads)
        local.load(read_artifact(registry.materialize(registry.resolve(name))), name=name)
    with running_server(folder, registry, kv_cache_tokens=4096, max_audio_bytes=200_000) as served:
        yield served, local


def test_transcripts_are_those_of_the_engine_alone(spoken):
    served, local = spoken
    create = served.client.audio.transcriptions.create
    contents = [tone(label, at) for at, label in enumerate(("low", "high"))]
    texts = set()
    for name in ("first", "second", served.base):
        for content in contents:
            loaded = local.adapter("first" if name == served.base else name)
            options = TranscriptionOptions(language="en")
            recording = AudioFile("x", content)
            adapted = name != served.base
            (alone,) = loaded.transcribe([recording], options, with_adapter=adapted)
            found = create(file=("x.wav", content), model=name, language="en")
            assert found.text == alone.text
            assert found.usage.seconds == pytest.approx(alone.duration)
            texts.add(found.text)
    assert len(texts) == 6


def test_every_format_has_the_segments(spoken):
    served, _ = spoken
    create = served.client.audio.transcriptions.create
    samples = np.concatenate([np.sin(np.arange(RATE) / pitch) for pitch in (9, 2, 5)]) * 0.5
    options = {"file": ("x.wav", encoded(samples, RATE)), "model": "first"}
    whole = create(**options, response_format="verbose_json", timestamp_granularities=["segment"])
    assert whole.duration == pytest.approx(3)
    assert (whole.language, whole.task) == ("english", "transcribe")
    assert whole.segments
    assert [each.id for each in whole.segments] == list(range(len(whole.segments)))
    for each in whole.segments:
        assert 0 <= each.start <= each.end <= 3
        assert each.tokens
        assert each.avg_logprob < 0
    assert "".join(each.text for each in whole.segments).strip() == whole.text
    assert create(**options, response_format="text") == f"{whole.text}\n"
    srt = create(**options, response_format="srt")
    assert srt.startswith("1\n00:00:0")
    assert srt.count(" --> ") == len(whole.segments)
    vtt = create(**options, response_format="vtt")
    assert vtt.startswith("WEBVTT\n\n00:00:0")
    assert vtt.count(" --> ") == len(whole.segments)


def test_other_languages_prompts_and_temperatures_change_the_transcript(spoken):
    served, _ = spoken
    create = served.client.audio.transcriptions.create
    options = {"file": ("x.wav", tone("low", 1)), "model": served.base}
    texts = [
        create(**options, **more).text
        for more in (
            {"language": "en"},
            {"language": "german"},
            {"language": "en", "prompt": "a word"},
            {"language": "en", "temperature": 1, "extra_body": {"seed": 3}},
            {"language": "en", "temperature": 1, "extra_body": {"seed": 4}},
        )
    ]
    assert len(set(texts)) == 5
    detected = create(**options, response_format="verbose_json")
    assert detected.language in ("english", "german")
    translated = served.client.audio.translations.create(**options)
    assert translated.text not in texts


@pytest.mark.parametrize(
    ("change", "status", "problem"),
    [
        ({"model": "none"}, 404, "not an adapter"),
        ({"file": ("x.wav", b"nothing")}, 400, "can't be read as a recording"),
        ({"language": "xx"}, 400, "knows no language 'xx'"),
        ({"timestamp_granularities": ["word"]}, 400, "times of words are not supported"),
        ({"temperature": 2}, 400, "less than or equal to 1"),
        ({"response_format": "diarized_json"}, 400, "response_format"),
        ({"extra_body": {"languages": "en"}}, 400, "unknown field"),
        ({"file": ("x.wav", bytes(300_000))}, 413, "200000 bytes"),
    ],
    ids=["model", "file", "language", "words", "temperature", "format", "unknown", "size"],
)
def test_invalid_requests_are_refused_with_the_reason(spoken, change, status, problem):
    served, _ = spoken
    options = {"file": ("x.wav", tone("low", 1)), "model": "first", **change}
    with pytest.raises(openai.APIStatusError) as found:
        served.client.audio.transcriptions.create(**options)
    assert found.value.status_code == status, found.value.message
    assert problem in found.value.body["message"]


def test_classes_of_recordings_are_served_beside_transcripts(spoken, tmp_path):
    served, local = spoken
    draw = torch.Generator().manual_seed(5)
    tensors = {
        "base_model.model.projector.weight": torch.randn(16, WIDTH, generator=draw),
        "base_model.model.projector.bias": torch.zeros(16),
        "base_model.model.classifier.weight": torch.randn(3, 16, generator=draw),
        "base_model.model.classifier.bias": torch.zeros(3),
    }
    for layer in range(2):
        key = f"base_model.model.encoder.layers.{layer}.self_attn.q_proj"
        tensors[f"{key}.lora_A.weight"] = torch.randn(4, WIDTH, generator=draw)
        tensors[f"{key}.lora_B.weight"] = torch.randn(WIDTH, 4, generator=draw)
    weights = AdapterWeights(LoraSpec(rank=4, alpha=4.0, target_modules=("q_proj",)), tensors)
    registry, task = served.server.registry, "audio-classification"
    fingerprint = local.backbone.fingerprint
    store(
        registry,
        tmp_path / "classes",
        "classes",
        weights,
        fingerprint,
        task=task,
        reads={"max_seconds": 2},
    )
    content = tone("low", 1)
    url = f"data:audio/wav;base64,{base64.b64encode(content).decode()}"
    answer = served.post("/v1/classify", {"model": "classes", "input": {"audio": url}})
    assert answer.status_code == 200, answer.text
    loaded = local.load(read_artifact(registry.materialize(registry.resolve("classes"))), name="c")
    (alone,) = loaded.predict([{"audio": AudioFile("x", content)}])
    (found,) = answer.json()["data"]
    assert found["scores"] == pytest.approx(alone["scores"], abs=1e-4)
    create = served.client.audio.transcriptions.create
    with pytest.raises(openai.BadRequestError, match="is for audio-classification"):
        create(file=("x.wav", content), model="classes")


def test_an_adapter_of_characters_is_served_by_the_same_route(tmp_path):
    folder = save_audio(tmp_path / "ear", "wav2vec2")
    backbone = load_backbone(str(folder), UNQUANTIZED)
    draw = torch.Generator().manual_seed(0)
    tensors = {
        "base_model.model.lm_head.weight": torch.randn(4, WIDTH, generator=draw),
        "base_model.model.lm_head.bias": torch.zeros(4),
    }
    for layer in range(2):
        key = f"base_model.model.wav2vec2.encoder.layers.{layer}.attention.q_proj"
        tensors[f"{key}.lora_A.weight"] = torch.randn(4, WIDTH, generator=draw)
        tensors[f"{key}.lora_B.weight"] = torch.randn(WIDTH, 4, generator=draw)
    weights = AdapterWeights(LoraSpec(rank=4, alpha=4.0, target_modules=("q_proj",)), tensors)
    registry, local = Registry(tmp_path / "registry"), LocalEngine(backbone)
    reads = {"vocabulary": " ab", "max_seconds": 1}
    labels = ("<blank>", " ", "a", "b")
    options = {"task": "speech-recognition", "reads": reads, "labels": labels}
    store(registry, tmp_path / "heard", "heard", weights, backbone.fingerprint, **options)
    local.load(read_artifact(registry.materialize(registry.resolve("heard"))), name="heard")
    with running_server(folder, registry) as served:
        create = served.client.audio.transcriptions.create
        for seconds in (0.5, 2.5):
            content = tone("low", 1, seconds=seconds)
            (alone,) = local.adapter("heard").transcribe([AudioFile("x", content)])
            assert (alone.windows > 1) == (seconds > 1)
            found = create(file=("x.wav", content), model="heard", response_format="verbose_json")
            assert found.text == alone.text
            spans = [(each.start, each.end) for each in found.segments]
            assert spans == [(each.start, each.end) for each in alone.segments]
        with pytest.raises(openai.BadRequestError, match="does not use it"):
            create(file=("x.wav", content), model="heard", language="en")
        with pytest.raises(openai.BadRequestError, match="does not transcribe"):
            create(file=("x.wav", content), model=served.base)
