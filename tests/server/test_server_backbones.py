"""Several backbones behind one address: which one answers, what it answers, and errors."""

import base64

import openai
import pytest
from audio_backbones import save_audio, save_whisper, tone
from http_server_helpers import UNQUANTIZED, running_server
from prometheus_client.parser import text_string_to_metric_families
from several_backbones import store_for_all

from adapterhub.adapters.artifact import read_artifact
from adapterhub.backbones.backbone import load_backbone
from adapterhub.data.audio import AudioFile
from adapterhub.engine.local_engine import LocalEngine
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.registry import Registry
from adapterhub.tasks.transcription import TranscriptionOptions

HELLO = [{"role": "user", "content": "the film"}]
#: Tokens of the KV caches of the decoder and of the speech backbone together.
CACHE = 4096
RECORDING = tone("low", 0)
ADDRESS = f"data:audio/wav;base64,{base64.b64encode(RECORDING).decode()}"


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    return save_audio(tmp_path_factory.mktemp("heard") / "wave")


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return save_whisper(tmp_path_factory.mktemp("spoken") / "whisper")


@pytest.fixture(scope="module")
def several(decoder, encoder, audio, speech, tmp_path_factory):
    """A server with a decoder, an encoder, and two backbones for recordings, one for speech."""
    home = tmp_path_factory.mktemp("several")
    registry = Registry(home / "registry")
    store_for_all(registry, home, decoder, encoder, audio, speech)
    folders = [decoder, encoder, audio, speech]
    with running_server(folders, registry, kv_cache_tokens=CACHE) as served:
        yield served


@pytest.fixture
def alone(several):
    """Return a function that loads a backbone alone, with an adapter of the registry."""

    def load(folder, ref):
        engine = LocalEngine(load_backbone(str(folder), UNQUANTIZED))
        registry = several.server.registry
        engine.load(read_artifact(registry.materialize(registry.resolve(ref))), name=ref)
        return engine

    return load


def test_each_backbone_answers_as_it_does_alone(several, alone, decoder, encoder, audio, speech):
    client = several.client
    options = {"temperature": 0, "max_tokens": 4}
    text = client.completions.create(model="alpha@prod", prompt="the film", **options)
    params = SamplingParams(temperature=0, max_tokens=4)
    (found,) = alone(decoder, "alpha").engine.generate(["the film"], ["alpha"], params)
    assert text.choices[0].text == found.outputs[0].text

    chat = client.chat.completions.create(model=decoder.name, messages=HELLO, **options)
    assert chat.usage.completion_tokens >= 1

    classified = several.post("/v1/classify", {"model": "feelings", "input": "the film was dull"})
    (expected,) = alone(encoder, "feelings").engine.label(["the film was dull"], "feelings")
    scores = classified.json()["data"][0]["scores"]
    assert scores == pytest.approx(expected["scores"], abs=1e-5)

    heard = several.post("/v1/classify", {"model": "tones", "input": {"audio": ADDRESS}})
    example = {"audio": AudioFile("x", RECORDING)}
    (expected,) = alone(audio, "tones").engine.label([example], "tones")
    assert heard.json()["data"][0]["scores"] == pytest.approx(expected["scores"], abs=1e-5)

    local, recording = alone(speech, "dictation").adapter("dictation"), AudioFile("x", RECORDING)
    for model, adapted in (("dictation", True), (speech.name, False)):
        spoken = client.audio.transcriptions.create(
            file=("x.wav", RECORDING), model=model, language="en"
        )
        options = TranscriptionOptions(language="en")
        (transcript,) = local.transcribe([recording], options, with_adapter=adapted)
        assert spoken.text == transcript.text

    for folder in (decoder, encoder):
        vector = client.embeddings.create(model=folder.name, input="the film").data[0].embedding
        engine = LocalEngine(load_backbone(str(folder), UNQUANTIZED)).engine
        assert vector == pytest.approx(
            engine.embed(["the film"], normalize=True)[0].tolist(), abs=1e-5
        )


def test_inputs_of_one_request_may_use_several_backbones(several, decoder):
    items = [
        {"model": "moods", "input": "the film was good"},
        {"model": "feelings", "input": "the film was good"},
        {"model": "tones", "input": {"audio": ADDRESS}},
    ]
    answer = several.post("/v1/classify", {"items": items})
    assert [each["model"] for each in answer.json()["data"]] == ["moods", "feelings", "tones"]
    fingerprints = [each.fingerprint for each in several.server.backbones]
    assert answer.headers["x-backbone-fingerprint"].split(",") == fingerprints[:3]


@pytest.mark.parametrize("ref", ["alpha", "alpha@1", "alpha@prod", "digest", "alpha*0.5+beta*0.5"])
def test_an_adapter_finds_its_backbone(several, decoder, ref):
    model = f"alpha@{several.digest('alpha')}" if ref == "digest" else ref
    answer = several.post("/v1/completions", {"model": model, "prompt": "the", "max_tokens": 1})
    assert answer.status_code == 200, answer.text
    expected = several.server.backbones.named(decoder.name).fingerprint
    assert answer.headers["x-backbone-fingerprint"] == expected


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        ("nobody", 404, "model_not_found"),
        ("foreign", 409, "fingerprint_mismatch"),
        ("moods*0.5+feelings*0.5", 409, "fingerprint_mismatch"),
    ],
)
def test_a_model_without_one_backbone_is_an_error_that_names_those_there_are(
    several, decoder, encoder, model, status, code
):
    with pytest.raises(openai.APIStatusError) as caught:
        several.client.completions.create(model=model, prompt="the")
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert decoder.name in str(caught.value)
    assert encoder.name in str(caught.value)


def test_models_and_adapters_are_listed_with_their_backbones(
    several, decoder, encoder, audio, speech
):
    models = {each["id"]: each for each in several.request("GET", "/v1/models").json()["data"]}
    bases = [name for name, each in models.items() if each["parent"] is None]
    assert bases == [decoder.name, encoder.name, audio.name, speech.name]
    assert [models[name]["kind"] for name in bases] == ["decoder", "encoder", "audio", "audio"]
    assert all(models[name]["state"] == "loaded" for name in bases)
    assert all(models[name]["load_seconds"] > 0 for name in bases)
    assert models["feelings"]["parent"] == encoder.name
    assert models["alpha@prod"]["parent"] == decoder.name
    assert models["tones"]["backbone_fingerprint"] == models[audio.name]["backbone_fingerprint"]
    listed = several.request("GET", "/v1/adapters").json()["data"]
    assert {each["ref"]: each["backbone"] for each in listed} == {
        "alpha@1": decoder.name,
        "beta@1": decoder.name,
        "moods@1": decoder.name,
        "things@1": decoder.name,
        "feelings@1": encoder.name,
        "tones@1": audio.name,
        "dictation@1": speech.name,
    }
    ready = several.request("GET", "/ready").json()
    assert ready["backbones"] == dict.fromkeys(bases, "loaded")


def test_metrics_have_the_backbone_as_a_label(several, decoder, encoder, audio, speech):
    several.client.completions.create(model="alpha", prompt="the", max_tokens=2)
    several.client.embeddings.create(model=encoder.name, input="the film")
    families = {
        each.name: each
        for each in text_string_to_metric_families(several.request("GET", "/metrics").text)
    }
    names = {decoder.name, encoder.name, audio.name, speech.name}
    running = families["adapterhub_running"].samples
    assert {each.labels["backbone"] for each in running} == names
    tokens = families["adapterhub_tokens"].samples
    used = {each.labels["backbone"] for each in tokens if each.value and "_total" in each.name}
    assert {decoder.name, encoder.name} <= used
    stats = several.request("GET", "/v1/stats").json()
    assert stats["backbones"].keys() == names
    # two of them generate
    assert {name: each["cache_size"] for name, each in stats["backbones"].items()} == {
        decoder.name: CACHE // 2,
        speech.name: CACHE // 2,
        encoder.name: 0,
        audio.name: 0,
    }


def test_an_adapter_that_is_loaded_under_a_name_is_that_of_its_backbone(several, encoder):
    loaded = several.post("/v1/adapters/load", {"ref": "feelings", "name": "mine"})
    assert loaded.status_code == 200, loaded.text
    answer = several.post("/v1/classify", {"model": "mine", "input": "the film"})
    assert answer.status_code == 200
    for name in (encoder.name, several.base):
        refused = several.post("/v1/adapters/load", {"ref": "feelings", "name": name})
        assert refused.status_code == 409
    several.post("/v1/adapters/unload", {"name": "mine"})


def test_a_name_of_two_backbones_is_ambiguous(decoder, encoder, tmp_path):
    folders = [tmp_path / "one" / "tiny", tmp_path / "two" / "tiny"]
    for folder, source in zip(folders, (decoder, encoder), strict=True):
        folder.parent.mkdir()
        folder.symlink_to(source)
    with running_server(folders, Registry(tmp_path / "registry")) as served:
        body = {"prompt": "the", "max_tokens": 1}
        refused = served.post("/v1/completions", {**body, "model": "tiny"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "ambiguous_model")
        assert all(str(folder) in refused.text for folder in folders)
        found = served.post("/v1/completions", {**body, "model": str(folders[0])})
        assert found.status_code == 200
