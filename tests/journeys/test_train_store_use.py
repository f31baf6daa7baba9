"""Train, store, show, predict, evaluate and remove as a user runs the commands."""

import json
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def test_a_classifier_from_recipe_to_predictions(command, recipe, encoder, moods):
    path = recipe("mood", encoder, "text-classification", moods)
    trained = command("train", str(path), "--json")
    assert trained.exit_code == 0, trained.output
    report = json.loads(trained.stdout)
    assert report["ref"] == "mood@1"
    assert report["metrics"]["after"]["accuracy"] > 0.95 > report["metrics"]["before"]["accuracy"]

    listed = json.loads(command("list", "--json").stdout)
    assert [entry["ref"] for entry in listed] == ["mood@1"]
    assert listed[0]["digest"] == report["digest"]

    printed = command(
        "predict", "mood@latest", "the song was great", "the meal was awful", "--json"
    )
    assert [answer["label"] for answer in json.loads(printed.stdout)] == ["glad", "sad"]

    scored = json.loads(command("eval", "mood", "--data", str(moods), "--json").stdout)
    assert scored["adapter"]["accuracy"] == report["metrics"]["after"]["accuracy"]
    assert scored["base"]["accuracy"] < scored["adapter"]["accuracy"]

    assert command("verify").stdout == "1 versions, no damage found\n"
    assert command("rm", "mood@1", "--yes").exit_code == 0
    assert json.loads(command("list", "--json").stdout) == []


def test_peft_loads_the_artifact_and_gives_the_same_scores(command, recipe, encoder, moods):
    path = recipe(
        "mood",
        encoder,
        "text-classification",
        moods,
        backbone={"name": str(encoder), "quantization": "none", "compute_dtype": "float32"},
    )
    artifact = json.loads(command("train", str(path), "--no-report", "--json").stdout)["artifact"]
    text = "the film was lovely"
    answer = json.loads(command("predict", "mood", text, "--json").stdout)[0]

    base = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=2)
    model = PeftModel.from_pretrained(base, artifact).eval()
    with torch.no_grad():
        output = model(**AutoTokenizer.from_pretrained(encoder)(text, return_tensors="pt"))
    expected = output.logits.softmax(dim=-1)[0].tolist()
    assert max(abs(a - b) for a, b in zip(answer["scores"].values(), expected, strict=True)) < 1e-5


def test_a_dialogue_adapter_responds(command, recipe, decoder, talks):
    path = recipe("talk", decoder, "dialogue", talks, train={"batch_size": 8, "epochs": 12})
    report = json.loads(command("train", str(path), "--json").stdout)
    assert report["metrics"]["after"]["perplexity"] < report["metrics"]["before"]["perplexity"] / 2

    said = command("chat", "talk", "-m", "the film was awful", "--base")
    base, adapter = said.stdout.splitlines()
    assert adapter == "adapter  bad"
    assert base.removeprefix("base     ") != "bad"


def test_words_are_tagged_with_offsets(command, recipe, encoder, tmp_path):
    examples = [
        {"tokens": ["the", thing, "was", "good"], "tags": ["O", "B-THING", "O", "O"]}
        for thing in ("film", "meal", "day", "song") * 8
    ]
    data = tmp_path / "tags.jsonl"
    data.write_text("".join(json.dumps(example) + "\n" for example in examples))
    path = recipe("things", encoder, "token-classification", data)
    report = json.loads(command("train", str(path), "--json").stdout)
    assert report["metrics"]["after"]["entity_f1"] == 1.0
    answer = json.loads(command("predict", "things", "the  song was good", "--json").stdout)[0]
    (span,) = answer["spans"]
    assert (span["label"], span["start"], span["end"], span["text"]) == ("THING", 5, 9, "song")


def test_training_again_creates_a_version_only_if_it_differs(command, recipe, encoder, moods):
    path = str(recipe("mood", encoder, "text-classification", moods))
    first, again, other = (
        json.loads(
            command("train", path, *more, "--output", folder, "--no-report", "--json").stdout
        )
        for folder, more in (("run-a", ()), ("run-b", ()), ("run-c", ("train.seed=8",)))
    )
    assert (first["ref"], again["ref"], other["ref"]) == ("mood@1", "mood@1", "mood@2")
    assert first["digest"] == again["digest"] != other["digest"]


def test_lines_of_standard_input_are_labelled(command, recipe, encoder, moods):
    command("train", str(recipe("mood", encoder, "text-classification", moods)), "--no-report")
    result = command("predict", "mood", stdin="the day was fine\n\nthe day was dull\n")
    labels = [line.split()[0] for line in result.stdout.splitlines()]
    assert labels == ["glad", "sad"]


def test_each_error_is_one_line_with_a_hint(command, recipe, encoder, moods):
    path = str(recipe("mood", encoder, "text-classification", moods))
    command("train", path, "--no-report")
    for arguments, code, said in (
        (("train", "mod.yaml"), 2, "mod.yaml: no such recipe file. Did you mean 'mood.yaml'?"),
        (("train", path, "adapter.rnk=2"), 2, "adapter.rnk: unknown key. Did you mean 'rank'?"),
        (("train", path), 1, "already holds a finished run"),
        (("predict", "mod", "x"), 4, "Did you mean 'mood'?"),
        (("predict", "mood@7", "x"), 4, "mood@7"),
        (("predict", "Mood", "x"), 2, "Mood"),
        (("chat", "mood", "-m", "x"), 3, "does not generate text"),
        (("rm", "mood@1"), 1, "Confirm with --yes"),
        (("eval", "mood", "--data", "nothing.jsonl"), 3, "no such file"),
    ):
        result = command(*arguments)
        assert result.exit_code == code, (arguments, result.output)
        error = str(result.exception)
        assert said in error
        assert "\n" not in error


def test_a_flipped_byte_is_detected(command, recipe, encoder, moods, tmp_path):
    command("train", str(recipe("mood", encoder, "text-classification", moods)), "--no-report")
    blobs = [p for p in (tmp_path / "home").rglob("*") if p.is_file() and "blobs" in p.parts]
    weights = max(blobs, key=lambda p: p.stat().st_size)
    weights.chmod(0o644)
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    result = command("predict", "mood", "the day was fine")
    assert result.exit_code == 5
    assert "adapter_model.safetensors" in str(result.exception) or "loss" in str(result.exception)
    assert command("verify").exit_code == 5


def test_recipes_of_the_project_are_valid():
    from adapterhub.training.recipe_file import load_recipe

    paths = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
    assert paths
    for path in paths:
        assert load_recipe(path).name == path.stem
