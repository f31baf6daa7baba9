"""A run on images, from recipe to prediction."""

import json
import random
from pathlib import Path

import pytest
import torch
from vision_backbones import save_shapes, save_vision, shape_image

from adapterhub.adapters.artifact import read_artifact
from adapterhub.backbones.backbone import load_backbone
from adapterhub.data.images import ImageFile
from adapterhub.data.media import read_media
from adapterhub.engine.local_engine import LocalEngine
from adapterhub.errors import FingerprintMismatch, RecipeError
from adapterhub.training.recipe_file import load_recipe
from adapterhub.training.train import train
from adapterhub.workflows.score import score
from adapterhub.workflows.stored_examples import examples_for

SECTIONS = {
    "train": {"batch_size": 8, "steps": 36, "evaluate_every": 18},
    "optimizer": {"learning_rate": 0.01},
}


def data_of(file: Path) -> dict:
    return {
        "train": str(file),
        "validation": str(file),
        "fields": {"image": "file", "label": "label_name"},
    }


@pytest.fixture(scope="session")
def seer(tmp_path_factory) -> Path:
    return save_vision(tmp_path_factory.mktemp("seer"))


@pytest.fixture
def shapes(tmp_path) -> Path:
    return save_shapes(tmp_path / "shapes")


@pytest.mark.parametrize("scheme", ["nf4", "int8"])
def test_colours_are_learned_stored_and_predicted(seer, shapes, recipe, command, tmp_path, scheme):
    path = recipe("colours", seer, "image-classification", shapes, data=data_of(shapes), **SECTIONS)
    done = command("train", str(path), f"backbone.quantization={scheme}", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["metrics"]["after"]["accuracy"] > 0.9
    assert result["metrics"]["after"]["macro_f1"] > 0.9
    assert {row["label"] for row in result["table"]} == {"red", "green", "blue"}
    page = Path(result["report"]).read_text()
    assert "Not explained: this task has no attribution to words" in page
    assert "Not measured: the audit exchanges names" in page
    assert "Calibration" in page

    files = []
    for number, colour in enumerate(("green", "blue", "red"), start=100):
        file = tmp_path / f"{colour}.jpg"
        file.write_bytes(shape_image(colour, number, form="JPEG"))
        files.append(str(file))
    shown = command("predict", "colours", *files)
    assert [line.split()[0] for line in shown.stdout.splitlines()] == ["green", "blue", "red"]
    printed = command("predict", "colours", files[0], "--json")
    (found,) = json.loads(printed.stdout)
    assert (found["image"], found["label"]) == (files[0], "green")
    as_json = command("predict", "colours", "--jsonl", json.dumps({"image": files[1]}))
    assert as_json.stdout.split()[0] == "blue"
    missing = command("predict", "colours", "none.jpg")
    assert missing.exit_code != 0
    assert b"none.jpg: can't be read" in missing.stderr_bytes

    scored = command("eval", "colours", "--data", str(shapes), "--json")
    figures = json.loads(scored.stdout)
    assert figures["adapter"]["accuracy"] == result["metrics"]["after"]["accuracy"]
    manifest = read_artifact(Path(result["artifact"])).manifest
    assert manifest.quantization.scheme == scheme


def test_a_reloaded_adapter_predicts_bit_for_bit(seer, shapes, recipe, tmp_path):
    path = recipe("colours", seer, "image-classification", shapes, data=data_of(shapes), **SECTIONS)
    result = train(load_recipe(path), output=tmp_path / "run")
    artifact = read_artifact(result.artifact)
    assert sum(f.stat().st_size for f in result.artifact.iterdir()) < 200_000
    files = [tmp_path / f"{n}.png" for n in range(5)]
    for number, file in enumerate(files):
        file.write_bytes(shape_image(random.Random(number).choice(["red", "blue"]), number))
    images = [{"image": read_media(file, ImageFile)} for file in files]
    answers = []
    for _ in range(2):
        local = LocalEngine(load_backbone(str(seer), artifact.manifest.quantization))
        loaded = local.load(artifact, name="new")
        answers.append(loaded.predict(images))
        again = score(loaded, examples_for(loaded.manifest, shapes))
        # the engine's products of packed weights sum in another order than training
        torch.testing.assert_close(again["loss"], result.after["loss"], rtol=1e-2, atol=1e-3)
    assert answers[0] == answers[1]
    base = loaded.predict(images, with_adapter=False)
    assert base != answers[0]
    local.unload("new")
    assert local.load(artifact, name="new").predict(images) == answers[0]


def test_plain_peft_and_transformers_give_the_same_scores(seer, shapes, recipe, tmp_path):
    backbone = {"name": str(seer), "quantization": "none", "compute_dtype": "float32"}
    path = recipe(
        "plain",
        seer,
        "image-classification",
        shapes,
        data=data_of(shapes),
        **SECTIONS,
        backbone=backbone,
    )
    made = load_recipe(path, ["train.steps=8"])
    result = train(made, output=tmp_path / "run")
    artifact = read_artifact(result.artifact)
    local = LocalEngine(load_backbone(str(seer), artifact.manifest.quantization))
    loaded = local.load(artifact, name="new")
    content = shape_image("red", 3)
    (tmp_path / "your image.jpg").write_bytes(content)
    (found,) = loaded.predict([{"image": ImageFile("x", content)}])

    card = (result.artifact / "README.md").read_text()
    snippet = card[card.index("```python\n") + 10 :]
    snippet = snippet[: snippet.index("\n```")].replace(
        'adapter = "."', f'adapter = "{result.artifact}"'
    )
    snippet = snippet.replace("path/to/backbone", str(seer))
    names: dict = {}
    exec(compile(snippet, "card", "exec"), names)
    expected = torch.tensor(list(found["scores"].values()))
    torch.testing.assert_close(names["scores"], expected, rtol=1e-4, atol=1e-5)


def test_two_adapters_share_one_vision_backbone(seer, shapes, recipe, tmp_path):
    local = LocalEngine(load_backbone(str(seer)))
    (tmp_path / "a.png").write_bytes(shape_image("red", 3))
    images = [{"image": read_media(tmp_path / "a.png", ImageFile)}]
    alone = {}
    for seed in (1, 2):
        path = recipe(
            f"run{seed}", seer, "image-classification", shapes, data=data_of(shapes), **SECTIONS
        )
        made = load_recipe(path, ["train.steps=4", f"train.seed={seed}"])
        artifact = read_artifact(train(made, output=tmp_path / str(seed)).artifact)
        alone[str(seed)] = local.load(artifact, name=str(seed)).predict(images)
    assert alone["1"] != alone["2"]
    assert {name: local.adapter(name).predict(images) for name in alone} == alone


def test_the_same_recipe_gives_the_same_artifact(seer, shapes, recipe, tmp_path):
    path = recipe("colours", seer, "image-classification", shapes, data=data_of(shapes), **SECTIONS)
    made = load_recipe(path, ["train.steps=4", "adapter.dropout=0.1"])
    digests = {train(made, output=tmp_path / n).digest for n in ("a", "b")}
    assert len(digests) == 1


def test_adapters_and_backbones_of_another_kind_are_refused(
    seer, encoder, shapes, moods, recipe, tmp_path
):
    texts = recipe("texts", seer, "text-classification", moods)
    with pytest.raises(RecipeError, match="needs a backbone that reads texts"):
        train(load_recipe(texts), output=tmp_path / "a")
    images = recipe(
        "images", encoder, "image-classification", shapes, data=data_of(shapes), **SECTIONS
    )
    with pytest.raises(RecipeError, match="needs a backbone that reads images"):
        train(load_recipe(images), output=tmp_path / "b")

    own = recipe("own", encoder, "text-classification", moods, train={"steps": 2})
    text_adapter = read_artifact(train(load_recipe(own), output=tmp_path / "c").artifact)
    own = recipe("own", seer, "image-classification", shapes, data=data_of(shapes), **SECTIONS)
    image_adapter = read_artifact(
        train(load_recipe(own, ["train.steps=2"]), output=tmp_path / "d").artifact
    )
    for artifact, folder, kind in (
        (text_adapter, seer, "texts"),
        (image_adapter, encoder, "images"),
    ):
        local = LocalEngine(load_backbone(str(folder)))
        with pytest.raises(FingerprintMismatch):
            local.load(artifact, name="x")
        with pytest.raises(RecipeError, match=f"needs a backbone that reads {kind}"):
            local.load(artifact, name="x", force=True)


def test_a_hostile_example_stops_the_run_before_weights_are_loaded(seer, shapes, recipe, command):
    lines = shapes.read_text().splitlines()
    lines[3] = json.dumps({"file": "../../secret.png", "label_name": "red"})
    shapes.write_text("\n".join(lines))
    path = recipe("colours", seer, "image-classification", shapes, data=data_of(shapes), **SECTIONS)
    done = command("train", str(path))
    assert done.exit_code != 0
    assert (
        "rows.jsonl example 4, field 'image': '../../secret.png' is not a path below"
        in done.stderr_bytes.decode()
    )
