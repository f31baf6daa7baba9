"""The public API, as a user of the library calls it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hub.hub_server_helpers import running
from toy_fixtures import (
    copy_home,
    decoder,
    encoder,
    moods,
    own_home,
    talks,
    train_once,
    write_moods,
    write_recipe,
    write_talks,
)

import adapterhub as ah

__all__ = ["decoder", "encoder", "moods", "own_home", "talks"]
PLAIN = {"quantization": "none", "compute_dtype": "float32"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, encoder, decoder):
    """A home with the adapters that the other tests use."""
    place = tmp_path_factory.mktemp("trained")
    moods, talks = write_moods(place / "moods.jsonl"), write_talks(place / "talks.jsonl")
    plain, quick = {"name": str(encoder), **PLAIN}, {"batch_size": 8, "epochs": 12}
    desk = write_recipe(place, "desk", encoder, "text-classification", moods, backbone=plain)
    support = write_recipe(place, "support", decoder, "dialogue", talks, train=quick)
    tone = write_recipe(
        place, "tone", decoder, "dialogue", talks, train={**quick, "epochs": 6, "seed": 5}
    )
    train_once(place, *((str(path),) for path in (desk, support, tone)))
    return place


@pytest.fixture
def hub(trained, own_home):
    copy_home(trained, own_home)
    return ah.Registry()


def test_importing_the_package_is_fast_and_loads_no_library():
    code = (
        "import sys, time\n"
        "began = time.perf_counter()\n"
        "import adapterhub as ah\n"
        "seconds = time.perf_counter() - began\n"
        "print(seconds, [m for m in ('torch', 'numpy', 'pydantic') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, _, loaded = done.stdout.partition(" ")
    assert loaded == "[]\n"
    assert float(seconds) < 0.1


def test_every_public_name_can_be_imported_and_is_documented():
    for name in ah.__all__:
        assert getattr(ah, name).__doc__, name
    assert set(ah._LAZY) <= set(ah.__all__)
    assert dir(ah) == sorted(ah.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        ah.lode  # noqa: B018


def test_training_from_a_file_a_dict_and_a_recipe(encoder, moods, tmp_path):
    document = {
        "name": "desk",
        "backbone": {"name": str(encoder)},
        "task": {"name": "text-classification", "max_length": 32},
        "data": {"train": str(moods), "validation": str(moods)},
        "train": {"batch_size": 16, "steps": 2, "epochs": None},
        "optimizer": {"learning_rate": 0.01},
    }
    file = tmp_path / "desk.yaml"
    file.write_text(json.dumps(document))
    recipe = ah.Recipe(**document)
    folders = (tmp_path / name for name in ("a", "b", "c"))
    runs = [
        ah.train(given, output=folder, report=None, register=True)
        for given, folder in zip((str(file), document, recipe), folders, strict=True)
    ]
    assert len({run.digest for run in runs}) == 1
    assert {run.reference for run in runs} == {"desk@1"}
    assert runs[0].after["accuracy"] > 0
    with pytest.raises(ah.RecipeError, match="Did you mean 'task'"):
        ah.train({**document, "tsk": {}})


def test_a_model_predicts_for_one_input_and_for_many(hub, moods):
    model = ah.load("desk")
    assert (model.task, model.labels) == ("text-classification", ("glad", "sad"))
    assert str(model.version.ref) == "desk@1"
    one = model.predict("the song was great")
    assert one["label"] == "glad"
    many = model.predict(["the song was great", {"text": "the meal was awful"}])
    assert [each["label"] for each in many] == ["glad", "sad"]
    assert many[0]["scores"] == pytest.approx(one["scores"], abs=1e-5)
    assert model.predict([]) == []

    table = model.predict_proba(["the song was great", "the meal was awful"])
    assert table.shape == (2, 2)
    assert np.allclose(table.sum(axis=1), 1.0)
    assert table.argmax(axis=1).tolist() == [0, 1]
    assert np.allclose(model.predict_proba("the song was great"), table[0])

    metrics = model.evaluate(str(moods), limit=40)
    assert metrics["accuracy"] > 0.9


def test_a_model_explains_its_prediction(hub):
    model = ah.load("desk")
    (found,) = model.explain("the song was great")
    assert found.answer == "glad"
    strongest = max(found.words, key=lambda word: word.attribution)
    assert strongest.word == "great"
    with pytest.raises(ah.DataError, match="no label"):
        model.explain("the song was great", label="angry")


def test_a_dialogue_model_generates(hub):
    model = ah.load("support")
    assert model.generates
    assert model.predict("the film was awful") == {"answer": "bad"}
    messages = [{"role": "user", "content": "the song was great"}]
    assert model.predict([{"messages": messages}]) == [{"answer": "good"}]
    assert model.generate([{"text": "the film was awful"}], base=True) != ["bad"]
    with pytest.raises(ah.DataError, match="no label probabilities"):
        model.predict_proba("the film was awful")
    # the quantized backbone is loaded again in float32
    (found,) = model.explain("the film was awful")
    assert found.answer == "bad"
    with pytest.raises(ah.DataError, match="no labels or spans"):
        model.explain("the film was awful", label="bad")


def test_the_registry_lists_promotes_and_moves_aliases(hub):
    assert [str(each.ref) for each in hub.list()] == ["desk@1", "support@1", "tone@1"]
    assert [each.name for each in hub.list(ah.Query(task="dialogue"))] == ["support", "tone"]
    assert hub.alias("desk", "stage", why="trial").to_version == 1
    verdict = hub.promote("desk", "prod")
    assert verdict.passed
    assert hub.get("desk@prod").version == 1
    with pytest.raises(ah.NotFoundError, match="Did you mean 'desk'"):
        hub.get("desc")
    assert ah.load("desk@prod", registry=hub).predict("the day was dull")["label"] == "sad"


def test_the_engine_resolves_weighted_combinations(hub, decoder):
    hub.alias("support", "prod")
    greedy = ah.SamplingParams(temperature=0, max_tokens=3)
    with ah.Engine(ah.load_backbone(str(decoder)), registry=hub) as engine:
        said = engine.generate("Hello", adapter="support@prod*0.7+tone*0.3", params=greedy)
        assert said.finish_reason in ("stop", "length")
        question = [{"role": "user", "content": "the film was awful"}]
        assert engine.chat(question, adapter="support@prod", params=greedy).text == "bad"
        assert engine.chat(question, params=greedy).text != "bad"
        two = engine.generate(["Hello", "Hello"], adapter=["support", None], params=greedy)
        assert len(two) == 2
        vectors = engine.embed(["the film was awful"], adapter="support", normalize=True)
        assert vectors.norm().item() == pytest.approx(1.0, abs=1e-3)
        assert engine.stats().steps > 0
        for expression, kind in (
            ("suport", ah.NotFoundError),
            ("a*b", ah.RefError),
        ):
            with pytest.raises(kind):
                engine.generate("Hello", adapter=expression)


def test_the_engine_labels_with_adapters_of_an_encoder(hub, encoder):
    backbone = ah.load_backbone(str(encoder), ah.QuantizationSpec("none", "float32"))
    with ah.Engine(backbone, registry=hub) as engine:
        found = engine.classify(["the song was great", "the meal was awful"], adapter="desk")
    assert [each["label"] for each in found] == ["glad", "sad"]


def test_adapters_are_pushed_and_pulled(hub, tmp_path, monkeypatch):
    hub.alias("desk", "prod")
    with running(tmp_path / "remote") as endpoint:
        for client in ("pulling", "pushing"):
            monkeypatch.setattr(f"adapterhub.hub.client.{client}.hub_api", lambda: endpoint.api)
        commit = ah.push("desk@prod", "team/desk", commit_message="First")
        assert len(commit) == 40
        assert hub.push("desk@prod", "hf://team/desk") == commit
        pulled = ah.pull("team/desk")
        assert str(pulled.ref) == "team/desk@1"
        assert pulled.digest == hub.get("desk").digest
        again = hub.pull("team/desk", revision="v1", name="copy")
        assert str(again.ref) == "copy@1"
        with pytest.raises(ah.TransferError):
            hub.pull("team/none")
