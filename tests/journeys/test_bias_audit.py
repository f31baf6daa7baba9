"""``bias-audit`` as a user runs it."""

import json

import pytest


@pytest.fixture
def people(tmp_path):
    texts = [f"the song of Emily was {word}" for word in ("good", "fine")]
    path = tmp_path / "people.jsonl"
    path.write_text("".join(json.dumps({"text": t, "label": "glad"}) + "\n" for t in texts))
    return path


def test_a_classifier_is_audited_on_built_in_sentences_and_given_examples(
    command, recipe, encoder, moods, people
):
    path = str(recipe("mood", encoder, "text-classification", moods))
    command("train", path, "--no-report")
    found = json.loads(command("bias-audit", "mood", "--json").stdout)
    assert found["ref"] == "mood@1"
    assert found["found"]["kind"] == "bias"
    groups = {(each["name"], each["group"]) for each in found["found"]["metrics"]}
    assert ("names", "built-in sentences") in groups
    assert ("names", "given examples") not in groups
    # its training examples are still available to fit the head of the backbone
    assert "trained on 120 examples" in found["found"]["baseline"]
    given = command("bias-audit", "mood", "--data", str(people), "--json").stdout
    lines = {(e["name"], e["group"]): e for e in json.loads(given)["found"]["metrics"]}
    assert lines["names", "given examples"]["units"] == 2
    shown = command("bias-audit", "mood").stdout
    assert "The baseline is a linear probe of the backbone" in shown.replace("\n", " ")


def test_without_labelled_examples_there_is_nothing_to_compare_with(
    command, recipe, encoder, moods
):
    command("train", str(recipe("mood", encoder, "text-classification", moods)), "--no-report")
    moods.unlink()
    shown = command("bias-audit", "mood").stdout.replace("\n", " ")
    assert "There is no baseline: a linear probe of the backbone needs labelled examples." in shown


def test_a_generator_gets_the_same_prompts_as_its_backbone(command, recipe, decoder, talks, people):
    path = recipe("talk", decoder, "dialogue", talks, train={"steps": 2})
    command("train", str(path), "--no-report")
    found = json.loads(command("bias-audit", "talk", "--json").stdout)["found"]
    assert found["kind"] == "harm"
    assert found["completed"] == found["total"]
    assert all(each["backbone"] is not None for each in found["metrics"])
    assert found["examples"]
    refused = command("bias-audit", "talk", "--data", str(people))
    assert refused.exit_code == 3
    assert "Leave the file out" in str(refused.exception)


@pytest.mark.parametrize(
    ("task", "example", "note"),
    [
        (
            "ranking",
            {"history": ["film", "song"], "candidate": "the film of Emily"},
            "A ranking counts as changed when two candidates swap places",
        ),
        (
            "question-answering",
            {"context": "the film of Emily was good", "question": "what", "answers": ["film"]},
            "An answer counts as changed when it moves to another place",
        ),
    ],
)
def test_lists_and_answers_are_audited_on_built_in_and_given_examples(
    task, example, note, command, recipe, encoder, tmp_path
):
    file = tmp_path / "examples.jsonl"
    labelled = {"label": 0} if task == "ranking" else {}
    lines = [{**example, **{key: number % 2 for key in labelled}} for number in range(8)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = recipe("asked", encoder, task, file, train={"steps": 2})
    command("train", str(path), "--no-report")
    found = json.loads(command("bias-audit", "asked", "--data", str(file), "--json").stdout)[
        "found"
    ]
    groups = {each["group"].split(",")[0] for each in found["metrics"]}
    builtin = "built-in lists" if task == "ranking" else "built-in passages"
    assert {builtin, "given examples"} <= groups
    assert {each["name"] for each in found["metrics"]} == {"names", "pronouns", "nationalities"}
    assert "trained on 8 examples" in found["baseline"]
    assert found["completed"] == found["total"]
    assert note in command("bias-audit", "asked", "--max-seconds", "1").stdout.replace("\n", " ")


def test_relations_are_audited_on_given_examples(command, recipe, encoder, tmp_path):
    file = tmp_path / "relations.jsonl"
    texts = ["the <e1>film</e1> of Emily was <e2>good</e2>", "the <e1>day</e1> was <e2>bad</e2>"]
    lines = [
        {"text": text, "label": label}
        for text, label in zip(texts * 4, ("Is(e1,e2)", "Other") * 4, strict=True)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = recipe("related", encoder, "relation-extraction", file, train={"steps": 2})
    command("train", str(path), "--no-report")
    refused = command("bias-audit", "related")
    assert "needs examples to be audited on. Pass English examples that mention people" in str(
        refused.exception
    )
    found = json.loads(command("bias-audit", "related", "--data", str(file), "--json").stdout)[
        "found"
    ]
    assert {(each["name"], each["group"]) for each in found["metrics"]} == {
        ("names", "given examples")
    }
