"""Every recipe of the project trains on a tiny backbone and synthetic examples."""

import json
import math
import random
import zipfile
from pathlib import Path

import pytest
import torch
from audio_backbones import save_whisper, tone
from tiny_models import tiny_model_folder
from toy_fixtures import GLAD, SAD, THINGS
from vision_backbones import save_vision, shape_image

from adapterhub.adapters.artifact import read_artifact
from adapterhub.backbones.backbone import load_backbone
from adapterhub.engine.local_engine import LocalEngine
from adapterhub.training.recipe_file import load_recipe
from adapterhub.training.train import train
from adapterhub.workflows.score import score, score_with_base
from adapterhub.workflows.stored_examples import examples_for

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))
FAST = [
    "task.max_length=48",
    "data.limit_train=null",
    "data.limit_validation=null",
    "train.epochs=null",
    "train.steps=24",
    "train.evaluate_every=6",
    "train.metric=loss",
    "train.batch_size=8",
    "optimizer.learning_rate=0.01",
]
ENCODER, DECODER, VISION = "minilm-l6", "smollm2-135m-instruct", "dinov2-small-saliency"
CHINESE = "qwen2.5-coder-0.5b-instruct"
#: Whisper with windows of two and of three seconds.
SPEECH = ("runs/whisper-base-2s", "runs/whisper-base-3s")
#: Encoder-decoders, and the architecture of each.
PAIRS = {"google-t5/t5-small": "t5", "facebook/bart-base": "bart"}


def invented(number: int) -> dict:
    """Return an example with the columns of every recipe."""
    draw = random.Random(number)
    thing, good = draw.choice(THINGS), draw.random() < 0.5
    word = draw.choice(GLAD if good else SAD)
    text = f"the {thing} was {word}"
    mood = "glad" if good else "sad"
    way = "e1,e2" if good else "e2,e1"
    return {
        "text": text,
        "label_name": mood,
        "instruction": text,
        "response": "good" if good else "bad",
        "tagged": f"the <e1>{thing}</e1> was <e2>{word}</e2>",
        "relation": f"Is({way})" if draw.random() < 0.8 else "Other",
        "context": f"the day was fine the {text}",
        "question": f"the {thing} was",
        "answers": {
            "text": [word],
            "answer_start": [len(f"the day was fine the {text}") - len(word)],
        },
        "en": text,
        "de": f"{word} was the {thing}",
        "dialogue": f"{text} {text}",
        "summary": word,
        "history": [f"{thing} good", "fine"],
        "candidate": text,
        "label": int(good),
        "group": number % 5,
        "gain": 5 if good else 2,
        "title": text,
        "intents": [mood] if number % 7 else [],
        "file": f"{number}.bin",
    }


@pytest.fixture
def data(tmp_path):
    examples = [invented(number) for number in range(64)]
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(json.dumps(example) + "\n" for example in examples))
    with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive:
        for number, example in enumerate(examples):
            colour = "green" if example["label"] else "red"
            archive.writestr(example["file"], shape_image(colour, number))
    (tmp_path / "heard").mkdir()
    heard = tmp_path / "heard" / "rows.jsonl"
    heard.write_text(lines.read_text())
    with zipfile.ZipFile(heard.with_suffix(".zip"), "w") as archive:
        for number, example in enumerate(examples):
            archive.writestr(example["file"], tone("low" if example["label"] else "high", number))
    words = tmp_path / "rows.txt"
    words.write_text(
        "\n".join(
            "".join(
                f"{word} X X {'B-LOC' if word in THINGS else 'O'}\n"
                for word in example["text"].split()
            )
            for example in examples
        )
    )
    return {"jsonl": lines, "conll": words, "audio": heard}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains_is_stored_and_predicts(path, data, encoder, decoder, tmp_path):
    vision = save_vision(tmp_path / "vision")
    speech = save_whisper(tmp_path / "speech")
    backbones = {ENCODER: encoder, DECODER: decoder, CHINESE: decoder, VISION: vision}
    backbones |= dict.fromkeys(SPEECH, speech)
    written = load_recipe(path)
    if written.backbone.name in PAIRS:
        kind = PAIRS[written.backbone.name]
        backbones[written.backbone.name] = tiny_model_folder(tmp_path / "pairs", kind)
    reads_audio = written.backbone.name in SPEECH
    shape = "audio" if reads_audio else "conll" if written.data.format == "conll" else "jsonl"
    file = data[shape]
    overrides = [
        *FAST,
        f"backbone.name={backbones[written.backbone.name]}",
        f"data.train={file}",
        f"data.validation={file}",
    ]
    if written.task.name != "speech-recognition":
        overrides.append(f"task.max_new_tokens={min(written.task.max_new_tokens, 6)}")
    else:
        # rounding to bfloat16 grows in a decoder of random weights
        overrides.append("backbone.compute_dtype=float32")
    if reads_audio:
        overrides.append("task.max_seconds=1")
    if written.task.multi_label:
        # such a head begins at the labels' shares, and has to learn more than those
        overrides += ["train.steps=96", "optimizer.learning_rate=0.003"]
    if written.data.format == "conll":
        overrides.append("data.columns=[tokens,pos,chunk,tags]")
    if written.task.out_of_scope:
        overrides.append("task.out_of_scope=sad")
    recipe = load_recipe(path, overrides)
    result = train(recipe, output=tmp_path / "run")
    assert result.after["loss"] < result.before["loss"]
    assert all(math.isfinite(value) for value in result.after.values())

    artifact = read_artifact(result.artifact)
    backbone = load_backbone(recipe.backbone.name, artifact.manifest.quantization)
    loaded = LocalEngine(backbone).load(artifact, name="new")
    examples = examples_for(loaded.manifest, file)
    # what is stored scores as what was trained
    again = score(loaded, examples)
    # the engine sums in another order than training, in bfloat16; recordings have the most values
    atol = 3e-3 if reads_audio else 1e-3
    torch.testing.assert_close(again["loss"], result.after["loss"], rtol=1e-2, atol=atol)
    if loaded.task.generation is not None:
        beside = score_with_base(loaded, examples, generate=4)
        assert set(beside.signatures) <= set(beside.adapter)
        assert beside.signatures
    if recipe.task.name != "dialogue":
        inputs = [dict(example) for example in examples.examples[:3]]
        for example in inputs:
            for answer in ("label", "tags", "answers", "target", "summary"):
                example.pop(answer, None)
        answers = loaded.predict(inputs)
        assert len(answers) == 3
        json.dumps(answers)
