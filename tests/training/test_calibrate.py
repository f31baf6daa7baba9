"""A fitted temperature is stored in the artifact and applied to every prediction."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from toy_fixtures import GLAD, SAD

from adapterhub.adapters.artifact import read_artifact
from adapterhub.adapters.model_card import render_card
from adapterhub.backbones.backbone import load_backbone
from adapterhub.engine.adapter_task import task_of
from adapterhub.engine.local_engine import LocalEngine
from adapterhub.errors import RecipeError
from adapterhub.evaluation.calibration import tempered
from adapterhub.training.recipe_file import load_recipe
from adapterhub.workflows.train_run import train_run

ASKED = [
    {"text": f"the {thing} was {word}"} for thing in ("film", "day") for word in ("good", "bad")
]


@pytest.fixture
def wrong_here_and_there(moods):
    """Give some examples the wrong label, so that an adapter is overconfident."""
    examples = [json.loads(line) for line in moods.read_text().splitlines()]
    for example in examples[::12]:
        example["label"] = "sad" if example["label"] == "glad" else "glad"
    moods.write_text("".join(json.dumps(example) + "\n" for example in examples))
    return moods


def run(path, tmp_path, name, *overrides):
    artifact = train_run(load_recipe(path, overrides), output=tmp_path / name).artifact
    return read_artifact(artifact)


def test_predictions_have_the_fitted_temperature(recipe, encoder, wrong_here_and_there, tmp_path):
    path = recipe("mood", encoder, "text-classification", wrong_here_and_there)
    plain = run(path, tmp_path, "plain")
    fitted = run(path, tmp_path, "fitted", "task.calibrate=true")
    section = fitted.manifest.recipe["task"]
    assert section["calibrate"] is True
    assert section["temperature"] != 1.0
    assert plain.manifest.recipe["task"]["temperature"] == 1.0
    report = json.loads((tmp_path / "fitted/report.json").read_text())
    assert section["temperature"] == round(report["calibration"]["temperature"]["value"], 4)
    page = (tmp_path / "fitted/report.html").read_text()
    assert f"temperature stored with this adapter is {section['temperature']:g}" in page

    local = LocalEngine(load_backbone(str(encoder)))
    local.load(plain, name="plain")
    local.load(fitted, name="fitted")
    for before, after in zip(
        local.adapter("plain").predict(ASKED), local.adapter("fitted").predict(ASKED), strict=True
    ):
        assert before["label"] == after["label"]
        expected = tempered(np.array(list(before["scores"].values())), section["temperature"])
        assert list(after["scores"].values()) == pytest.approx(expected.tolist(), abs=1e-5)
    # the weights are the same: nothing else was changed
    for name, tensor in plain.weights.tensors.items():
        assert tensor.equal(fitted.weights.tensors[name])


def test_an_adapter_without_a_temperature_predicts_as_before(recipe, encoder, moods, tmp_path):
    artifact = run(recipe("mood", encoder, "text-classification", moods), tmp_path, "run")
    task = dict(artifact.manifest.recipe["task"])
    del task["temperature"], task["calibrate"]
    recipe_of_old = {**artifact.manifest.recipe, "task": task}
    old = replace(artifact, manifest=replace(artifact.manifest, recipe=recipe_of_old))
    local = LocalEngine(load_backbone(str(encoder)))
    local.load(artifact, name="new")
    local.load(old, name="old")
    assert local.adapter("old").predict(ASKED) == local.adapter("new").predict(ASKED)
    assert task_of(old.manifest, local.backbone).options.temperature == 1.0


def test_without_a_wrong_prediction_no_temperature_is_stored(
    recipe, encoder, moods, tmp_path, caplog
):
    path = recipe("mood", encoder, "text-classification", moods)
    with caplog.at_level(logging.INFO):
        artifact = run(path, tmp_path, "run", "task.calibrate=true")
    assert artifact.manifest.recipe["task"]["temperature"] == 1.0
    log = (tmp_path / "run/log.jsonl").read_text()
    assert "no validation prediction is wrong" in log


def test_the_card_shows_the_temperature_to_users_of_peft(recipe, encoder, moods, tmp_path):
    path = recipe("mood", encoder, "text-classification", moods, train={"steps": 2})
    artifact = run(path, tmp_path, "run", "task.temperature=1.5")
    card = (tmp_path / "run/artifact/README.md").read_text()
    assert "model(**inputs).logits[0].div(1.5).softmax(dim=-1)" in card
    older = {key: value for key, value in artifact.manifest.recipe.items() if key != "task"}
    manifest = replace(artifact.manifest, recipe=older)
    assert ".logits[0].softmax(" in render_card(manifest, name="mood", plot=None)


@pytest.fixture
def tags(tmp_path):
    """Return tagged examples, some of them with wrong tags."""
    examples = []
    for number in range(96):
        thing, word = ("film", "day", "song", "meal")[number % 4], GLAD[number % len(GLAD)]
        mark = "O" if number // 4 % 12 == 0 else "B-GLAD"
        tokens = ["the", thing, "was", word]
        examples.append({"tokens": tokens, "tags": ["O", "B-THING", "O", mark]})
    path = tmp_path / "tags.jsonl"
    path.write_text("".join(json.dumps(example) + "\n" for example in examples))
    return path


@pytest.fixture
def liked(tmp_path):
    """Return candidates, some relevant although similar ones are not."""
    examples = []
    for number in range(96):
        words, label = (GLAD, 1) if number % 2 else (SAD, 0)
        candidate = f"a {words[number % len(words)]} film"
        label = 1 - label if number % 24 < 2 else label
        examples.append({"history": ["the day"], "candidate": candidate, "label": label})
    path = tmp_path / "liked.jsonl"
    path.write_text("".join(json.dumps(example) + "\n" for example in examples))
    return path


@pytest.mark.parametrize(
    ("task", "data", "example"),
    [
        ("token-classification", "tags", {"tokens": ["the", "film", "was", GLAD[0]]}),
        ("ranking", "liked", {"history": ["the day"], "candidate": f"a {GLAD[1]} film"}),
    ],
)
def test_tags_and_rankings_have_a_temperature_too(
    task, data, example, recipe, encoder, request, tmp_path
):
    path = recipe("any", encoder, task, request.getfixturevalue(data))
    # what is smoothed is less sure than it should be
    smooth = "task.label_smoothing=0.4"
    plain = run(path, tmp_path, "plain", smooth)
    fitted = run(path, tmp_path, "fitted", smooth, "task.calibrate=true")
    value = fitted.manifest.recipe["task"]["temperature"]
    assert value != 1.0
    report = json.loads((tmp_path / "fitted/report.json").read_text())["calibration"]
    assert report["error"] == pytest.approx(report["temperature"]["before"])
    local = LocalEngine(load_backbone(str(encoder)))
    local.load(plain, name="plain")
    local.load(fitted, name="fitted")
    (before,), (after,) = (local.adapter(name).predict([example]) for name in ("plain", "fitted"))
    if task == "ranking":
        chances = np.array([1 - before["score"], before["score"]])
        assert after["score"] == pytest.approx(float(tempered(chances, value)[1]), abs=1e-5)
    else:
        assert [each["label"] for each in after["spans"]] == [e["label"] for e in before["spans"]]
        moved = [
            a["score"] - b["score"] for a, b in zip(after["spans"], before["spans"], strict=True)
        ]
        assert all((each < 0) == (value > 1) for each in moved)
        assert moved


@pytest.mark.parametrize(
    ("task", "override", "said"),
    [
        ("question-answering", "task.calibrate=true", "does not use this setting"),
        ("text-classification", "task.temperature=0", "greater than 0"),
        ("text-classification", "task.temperature=.inf", "a finite number"),
    ],
)
def test_invalid_combinations_are_refused(task, override, said, recipe, encoder, moods, tmp_path):
    data = moods
    if task == "question-answering":
        data = tmp_path / "questions.jsonl"
        example = {"context": "the film was good", "question": "what", "answers": ["film"]}
        data.write_text((json.dumps(example) + "\n") * 8)
    path = recipe("any", encoder, task, data, train={"steps": 2})
    with pytest.raises(RecipeError, match=said):
        train_run(load_recipe(path, [override]), output=tmp_path / "run")


def test_many_labels_and_a_temperature_exclude_each_other(recipe, encoder, tmp_path):
    data = tmp_path / "many.jsonl"
    examples = [{"text": "the film was good", "label": ["glad"]}, {"text": "bad", "label": ["sad"]}]
    data.write_text("".join(json.dumps(example) + "\n" for example in examples))
    path = recipe("many", encoder, "text-classification", data)
    both = ["task.multi_label=true", "task.calibrate=true"]
    with pytest.raises(RecipeError, match="exclude multi_label"):
        train_run(load_recipe(path, both), output=tmp_path / "run")
