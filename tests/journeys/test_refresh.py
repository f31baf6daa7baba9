"""New examples: drift, its effect on the metric, and the gain of a child."""

import json
import random
from pathlib import Path

import pytest
import torch
from refresh_fixtures import write
from toy_fixtures import GLAD, SAD, THINGS

from adapterhub.adapters.artifact import read_artifact
from adapterhub.registry.registry import Registry


def test_drift_leads_to_a_child_that_gains_and_moves_no_alias(command, mood, signs, tmp_path):
    dry = json.loads(
        command("refresh", "mood@prod", "--new-data", signs, "--dry-run", "--json").stdout
    )
    assert dry["due"]
    assert dry["child"] is None
    assert len(Registry().versions("mood")) == 1

    found = json.loads(command("refresh", "mood@prod", "--new-data", signs, "--json").stdout)
    (text,) = (test for test in found["drift"]["tests"] if test["what"] == "text")
    assert text["drift"]
    assert text["effect"] > 0.9
    present = found["present"]
    assert present["worse"]
    assert present["new"] < present["old"] == pytest.approx(present["recorded"])
    assert present["change"]["high"] < 0
    assert found["gain"]["accuracy"]["difference"] > 0.2
    assert found["gain"]["accuracy"]["interval"]["low"] > 0
    kept = found["forgetting"]["accuracy"]
    assert kept["first"] == pytest.approx(present["old"])
    assert kept["interval"]["low"] <= kept["difference"] <= kept["interval"]["high"]

    registry = Registry()
    parent, child = registry.versions("mood")
    assert found["child"] == {"ref": "mood@2", "digest": child.digest}
    assert child.parent == parent.digest
    assert registry.resolve("mood@prod").digest == parent.digest
    folder = registry.materialize(child)
    document = json.loads((folder / "refresh.json").read_text())
    assert document["parent"] == parent.digest
    assert document["root"] == dict(parent.data)
    assert [file["path"] for file in document["added"]] == [Path(signs).name]
    assert document["findings"]["drift"]["found"]
    assert "## Refresh" in (folder / "README.md").read_text()
    # the promotion gate moves the alias
    assert command("promote", "mood@2", "--to", "prod").exit_code == 0
    scored = json.loads(command("eval", "mood@prod", "--data", str(mood), "--json").stdout)
    assert scored["adapter"]["accuracy"] == pytest.approx(kept["second"])

    # the child was trained on both files, so its own refresh finds no drift of labels
    look = ("refresh", "mood", "--new-data", signs, "--dry-run", "--json")
    again = json.loads(command(*look).stdout)
    assert again["parent"]["ref"] == "mood@2"
    labels = [test for test in again["drift"]["tests"] if test["what"] == "labels"]
    assert not labels[0]["drift"]
    assert text["old"] < again["drift"]["tests"][0]["old"]


def test_forgetting_covers_the_first_examples_after_several_refreshes(
    command, mood, signs, more_moods
):
    few = ("--force", "train.steps=1", "train.epochs=null", "--json")
    first = json.loads(command("refresh", "mood", "--new-data", signs, *few).stdout)
    second = json.loads(command("refresh", "mood", "--new-data", more_moods, *few).stdout)
    assert second["parent"]["ref"] == "mood@2"
    # no test split: the examples that the first refresh held out count beside validation
    old = second["present"]
    assert old["split"] == "validation"
    assert first["gain"]["accuracy"]["second"] < old["old"] < 1
    assert second["forgetting"]["accuracy"]["first"] == pytest.approx(old["old"])


def test_seen_examples_are_counted_and_measure_no_gain(command, mood, more_moods, tmp_path):
    known = [json.loads(line) for line in mood.read_text().splitlines()]
    fresh = [json.loads(line) for line in Path(more_moods).read_text().splitlines()]
    both = write(tmp_path / "both.jsonl", known + fresh)
    few = ("--force", "train.steps=1", "train.epochs=null")
    alone = command("refresh", "mood", "--new-data", more_moods, *few, "--json")
    beside = command("refresh", "mood@1", "--new-data", both, *few, "--json")
    learned = sum(each in known for each in known + fresh)
    said = " ".join(beside.stderr.split())
    assert f"{learned} of {len(known) + len(fresh)} new examples are old training examples" in said
    # held out by content: the same fresh examples, and none that was seen
    gains = [json.loads(each.stdout)["gain"]["accuracy"]["first"] for each in (alone, beside)]
    assert gains[0] == pytest.approx(gains[1])
    only = command("refresh", "mood@1", "--new-data", str(mood), *few)
    assert only.exit_code == 3
    assert "no gain could be measured" in str(only.exception)
    assert "Pass examples that it was not trained on" in str(only.exception)


def test_moved_files_are_found_at_their_new_path(command, mood, more_moods, tmp_path):
    moved = mood.rename(tmp_path / "elsewhere.jsonl")
    look = ("refresh", "mood", "--new-data", more_moods, "--dry-run")
    gone = command(*look)
    assert f"data.train={str(mood)!r}" not in str(gone.exception)
    assert "data.train=PATH" in str(gone.exception)
    places = (f"data.train={moved}", f"data.validation={moved}")
    assert command(*look, *places).exit_code == 0
    wrong = command(*look, f"data.train={more_moods}", f"data.validation={moved}")
    assert "is not what mood@1 was trained on" in str(wrong.exception)
    # a split that the adapter never had can't be added
    assert "can't be changed" in str(command(*look, f"data.test={moved}").exception)


def test_without_drift_nothing_is_trained_unless_forced(command, mood, more_moods):
    shown = command("refresh", "mood", "--new-data", more_moods).stdout
    assert "no drift and no drop found: nothing was trained" in shown
    assert "--force" in shown
    same = json.loads(command("refresh", "mood", "--new-data", str(mood), "--json").stdout)
    assert not same["due"]
    assert not same["drift"]["found"]
    assert same["child"] is None
    assert len(Registry().versions("mood")) == 1
    arguments = ("--force", "--replay", "0", "train.epochs=1", "optimizer.learning_rate=1e-9")
    shown = command("refresh", "mood", "--new-data", more_moods, *arguments).stdout
    assert "stored as mood@2" in shown
    assert "no alias moved" in shown
    parent, child = (read_artifact(Registry().materialize(v)) for v in Registry().versions("mood"))
    manifest = child.manifest
    # it continues from the parent's tensors, head included, and hardly moves
    assert manifest.parent == parent.digest
    assert child.weights.tensors.keys() == parent.weights.tensors.keys()
    for name, tensor in child.weights.tensors.items():
        torch.testing.assert_close(tensor, parent.weights.tensors[name], rtol=0, atol=1e-6)
    assert manifest.recipe["train"]["epochs"] == 1
    assert manifest.data["train"].num_examples < 80
    assert manifest.data["train"].origin == "more.jsonl"


def test_unusable_examples_are_refused_before_anything_is_loaded(command, mood, signs, tmp_path):
    odd = write(tmp_path / "odd.jsonl", [{"text": "the film was fine", "label": "bored"}] * 40)
    few = write(tmp_path / "few.jsonl", [{"text": "the film was fine", "label": "glad"}] * 3)
    for arguments, code, said in (
        ((odd,), 3, "labels that mood@1 does not know: 'bored' (40 examples)"),
        ((few,), 3, "too few"),
        ((signs, "task.max_length=9"), 2, "can't be changed by a refresh"),
    ):
        path, *rest = arguments
        result = command("refresh", "mood", "--new-data", path, *rest)
        assert said in str(result.exception), arguments
        assert result.exit_code == code
    assert "train a new adapter" in str(command("refresh", "mood", "--new-data", odd).exception)
    lines = mood.read_text().splitlines(keepends=True)
    mood.write_text("".join(lines[1:]))
    changed = command("refresh", "mood", "--new-data", signs)
    assert "is not what mood@1 was trained on" in str(changed.exception)
    mood.unlink()
    gone = command("refresh", "mood", "--new-data", signs)
    assert str(mood) in str(gone.exception)
    assert "Restore the file" in str(gone.exception)
    assert len(Registry().versions("mood")) == 1


def test_taggers_and_generators_are_refreshed_too(command, recipe, encoder, decoder, tmp_path):
    tagged = [
        {"tokens": ["the", thing, "was", word, verb], "tags": ["O", "B-THING", "O", "B-MOOD", "O"]}
        for thing in THINGS
        for word in (*GLAD, *SAD)
        for verb in ("was", "the", "@", "#")
    ]
    said = [
        {"prompt": f"the {thing} was {word} {sign}", "response": "good" if word in GLAD else "bad"}
        for thing in THINGS
        for word in (*GLAD, *SAD)
        for sign in ("@", "#", "@ #", "# @")
    ]
    tags, talks, more_tags, more_talks = (tmp_path / f"{n}.jsonl" for n in "abcd")
    for kind, first, second in ((tagged, tags, more_tags), (said, talks, more_talks)):
        random.Random(4).shuffle(kind)
        write(first, kind[:64])
        write(second, kind[64:])
    short = {"steps": 4, "batch_size": 8}
    paths = (
        recipe("tags", encoder, "token-classification", tags, train=short),
        recipe("talks", decoder, "dialogue", talks, train=short),
    )
    new = (more_tags, more_talks)
    for path, data, metric in zip(paths, new, ("entity_f1", "loss"), strict=True):
        command("train", str(path), "--no-report")
        arguments = ("refresh", path.stem, "--new-data", str(data), "--force", "--json")
        found = json.loads(command(*arguments).stdout)
        assert found["present"]["metric"] == metric
        assert not found["drift"]["found"]
        assert found["child"]["ref"] == f"{path.stem}@2"
        assert metric in found["forgetting"]
        assert metric in found["gain"]
        kinds = [test["what"] for test in found["drift"]["tests"]]
        assert kinds == (["text", "labels"] if path.stem == "tags" else ["text"])
