"""``adapterhub data check`` on files and recipes."""

import json

import pytest

from adapterhub.cli.main import main
from adapterhub.errors import DataError
from adapterhub.training.recipe_file import load_recipe
from adapterhub.workflows.data_check import check_data, recipe_of_file

MOODS = [
    {"text": "a fine day", "label": "good"},
    {"text": "a fine day", "label": "bad"},
    {"text": "bad bad bad day day day day day", "label": "bad"},
    {"text": "sun", "label": "good"},
]
TALKS = [
    {"conversations": [{"from": "human", "value": "film"}, {"from": "gpt", "value": "good"}]},
    {
        "conversations": [
            {"from": "human", "value": "meal"},
            {"from": "gpt", "value": "awful", "weight": 0},
            {"from": "human", "value": "song"},
            {"from": "gpt", "value": "great"},
        ]
    },
]


def write(path, examples):
    path.write_text("".join(json.dumps(each) + "\n" for each in examples))
    return str(path)


def checked(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main(["data", "check", *arguments])
    assert caught.value.code in (0, None)
    return capsys.readouterr().out


def test_a_file_of_labels_is_counted_measured_and_compared(tmp_path, encoder, capsys):
    train, dev = write(tmp_path / "a.jsonl", MOODS), write(tmp_path / "d.jsonl", MOODS[2:])
    out = checked(
        capsys,
        train,
        f"data.validation={dev}",
        f"backbone.name={encoder}",
        "task.max_length=8",
        "--json",
    )
    found = json.loads(out)
    assert (found["task"], found["labels"]) == ("text-classification", {"bad": 2, "good": 2})
    facts = found["splits"][0]
    assert (facts["examples"], facts["repeated"], facts["contradicting"]) == (4, 1, 1)
    assert [(each["split"], each["same"]) for each in found["leaks"]] == [("validation", 2)]
    sizes = found["lengths"]["train"]
    assert (sizes["measured"], sizes["cut"]) == (4, 1)
    assert sizes["longest"] > 8
    assert len(found["examples"]) == 4
    assert found["examples"][0]["pieces"][1] == {"text": "good", "learned": True}


def test_what_is_learned_of_a_dialogue_is_marked(tmp_path, decoder, capsys):
    path = write(tmp_path / "talks.jsonl", TALKS)
    options = [f"backbone.name={decoder}", f"data.validation={path}", "task.max_length=32"]
    found = check_data(recipe_of_file(path, options))
    assert found.task == "dialogue"
    assert "talks.jsonl: read as ShareGPT conversations (data.format: sharegpt)" in found.notes
    learned = ["".join(p.text for p in each.pieces if p.learned) for each in found.examples]
    assert "good" in learned[0]
    assert "great" in learned[1]
    assert "awful" not in learned[1]
    assert "awful" in "".join(piece.text for piece in found.examples[1].pieces)
    shown = checked(capsys, path, *options)
    assert "⟦good" in shown
    assert "⟦awful" not in shown


def test_a_recipe_is_checked_as_it_is(tmp_path, encoder, recipe, capsys):
    path = tmp_path / "a.jsonl"
    write(path, MOODS)
    file = recipe("moods", encoder, "text-classification", path)
    shown = checked(capsys, str(file))
    assert "task: text-classification" in shown
    assert "over " in shown
    assert check_data(load_recipe(file), shown=0).examples == ()


def test_without_the_backbone_lengths_are_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ADAPTERHUB_CACHE", str(tmp_path / "none"))
    path = write(tmp_path / "a.jsonl", MOODS)
    assert "lengths in tokens are not shown" in checked(capsys, path, f"data.validation={path}")


def test_columns_of_no_task_are_named(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"body": "x", "kind": "y"}])
    with pytest.raises(DataError, match="columns that no task trains on yet; columns: body, kind"):
        recipe_of_file(path, [])
    path = write(tmp_path / "b.jsonl", [{"prompt": "x", "chosen": "y", "rejected": "z"}])
    with pytest.raises(DataError, match="holds preference pairs, which no task trains on yet"):
        recipe_of_file(path, [])


def test_mapped_columns_find_the_task(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"body": "x", "kind": "y"}])
    found = recipe_of_file(path, ["data.fields.text=body", "data.fields.label=kind"])
    assert found.task.name == "text-classification"
