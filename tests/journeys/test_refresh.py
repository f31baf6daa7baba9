"""New rows come in: are they other ones, does it matter, and does a child do better?"""

import json
import random

import pytest
import torch
from toy_fixtures import GLAD, SAD, THINGS

from adapterhub.artifact import read_artifact
from adapterhub.registry.registry import Registry


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def signs(tmp_path):
    """Rows that tell moods by signs which the first training never saw."""
    draw = random.Random(5)
    rows = []
    for number in range(120):
        mood = draw.choice(("glad", "sad"))
        sign = "@" if mood == "glad" else "#"
        rows.append({"text": f"{draw.choice(THINGS)} {sign} " * (1 + number % 3), "label": mood})
    return write(tmp_path / "signs.jsonl", rows)


@pytest.fixture
def more_moods(tmp_path):
    """Other draws of the rows that the first training saw."""
    draw = random.Random(8)
    rows = []
    for _ in range(80):
        mood = draw.choice(("glad", "sad"))
        word = draw.choice(GLAD if mood == "glad" else SAD)
        rows.append({"text": f"the {draw.choice(THINGS)} was {word}", "label": mood})
    return write(tmp_path / "more.jsonl", rows)


@pytest.fixture
def mood(command, recipe, encoder, moods):
    path = recipe("mood", encoder, "text-classification", moods)
    assert command("train", str(path), "--no-report").exit_code == 0
    command("promote", "mood", "--to", "prod")
    return moods


def test_drifted_rows_bring_a_child_that_gains_and_moves_no_alias(command, mood, signs, tmp_path):
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
    assert [file["path"] for file in document["added"]] == [signs]
    assert document["findings"]["drift"]["found"]
    assert "## Refresh" in (folder / "README.md").read_text()
    # the gate moves the alias where it is asked to
    assert command("promote", "mood@2", "--to", "prod").exit_code == 0
    scored = json.loads(command("eval", "mood@prod", "--data", str(mood), "--json").stdout)
    assert scored["adapter"]["accuracy"] == pytest.approx(kept["second"])

    # the child knows both files, so its own refresh finds the signs familiar
    again = json.loads(command("refresh", "mood", "--new-data", signs, "--json").stdout)
    assert again["parent"]["ref"] == "mood@2"
    labels = [test for test in again["drift"]["tests"] if test["what"] == "labels"]
    assert not labels[0]["drift"]
    assert text["old"] < again["drift"]["tests"][0]["old"]


def test_the_same_kind_of_rows_trains_nothing_unless_asked(command, mood, more_moods):
    shown = command("refresh", "mood", "--new-data", more_moods).stdout
    assert "no drift and no loss are shown: nothing was trained" in shown
    assert "--anyway" in shown
    same = json.loads(command("refresh", "mood", "--new-data", str(mood), "--json").stdout)
    assert not same["due"]
    assert not same["drift"]["found"]
    assert same["child"] is None
    assert len(Registry().versions("mood")) == 1
    arguments = ("--anyway", "--replay", "0", "train.epochs=1", "optimizer.learning_rate=1e-9")
    shown = command("refresh", "mood", "--new-data", more_moods, *arguments).stdout
    assert "stored as mood@2" in shown
    assert "no alias moved" in shown
    parent, child = (read_artifact(Registry().materialize(v)) for v in Registry().versions("mood"))
    manifest = child.manifest
    # it went on from the parent's tensors, head included, and hardly moved
    assert manifest.parent == parent.digest
    assert child.weights.tensors.keys() == parent.weights.tensors.keys()
    for name, tensor in child.weights.tensors.items():
        torch.testing.assert_close(tensor, parent.weights.tensors[name], rtol=0, atol=1e-6)
    assert manifest.recipe["train"]["epochs"] == 1
    assert manifest.data["train"].rows < 80
    assert manifest.data["train"].origin == "more.jsonl"


def test_rows_that_cannot_be_learned_are_refused_before_anything_is_loaded(
    command, mood, signs, tmp_path
):
    odd = write(tmp_path / "odd.jsonl", [{"text": "the film was fine", "label": "bored"}] * 40)
    few = write(tmp_path / "few.jsonl", [{"text": "the film was fine", "label": "glad"}] * 3)
    for arguments, code, said in (
        ((odd,), 3, "labels that mood@1 does not know: 'bored' (40 rows)"),
        ((few,), 3, "too few"),
        ((signs, "task.max_length=9"), 2, "can't be changed by a refresh"),
    ):
        path, *rest = arguments
        result = command("refresh", "mood", "--new-data", path, *rest)
        assert said in str(result.exception), arguments
        assert result.exit_code == code
    assert "train a new adapter" in str(command("refresh", "mood", "--new-data", odd).exception)
    rows = mood.read_text().splitlines(keepends=True)
    mood.write_text("".join(rows[1:]))
    changed = command("refresh", "mood", "--new-data", signs)
    assert "is not what mood@1 was trained on" in str(changed.exception)
    mood.unlink()
    gone = command("refresh", "mood", "--new-data", signs)
    assert str(mood) in str(gone.exception)
    assert "Put the file back" in str(gone.exception)
    assert len(Registry().versions("mood")) == 1


def test_adapters_that_tag_and_that_talk_are_refreshed_too(
    command, recipe, encoder, decoder, talks, tmp_path
):
    rows = [
        {"tokens": ["the", thing, "was", word], "tags": ["O", "B-THING", "O", "B-MOOD"]}
        for thing in THINGS
        for word in (*GLAD, *SAD)
    ]
    tags = tmp_path / "tags.jsonl"
    write(tags, rows)
    short = {"steps": 4, "batch_size": 8}
    paths = (
        recipe("tags", encoder, "token-classification", tags, train=short),
        recipe("talks", decoder, "dialogue", talks, train=short),
    )
    for path, data, metric in zip(paths, (tags, talks), ("entity_f1", "loss"), strict=True):
        command("train", str(path), "--no-report")
        arguments = ("refresh", path.stem, "--new-data", str(data), "--anyway", "--json")
        found = json.loads(command(*arguments).stdout)
        assert found["present"]["metric"] == metric
        assert not found["drift"]["found"]
        assert found["child"]["ref"] == f"{path.stem}@2"
        assert metric in found["forgetting"]
        assert metric in found["gain"]
        kinds = [test["what"] for test in found["drift"]["tests"]]
        assert kinds == (["text", "labels"] if path.stem == "tags" else ["text"])
