"""What an adapter inherited, by the command that a user types."""

import json

import pytest


@pytest.fixture
def people(tmp_path):
    rows = [{"text": f"the song of Emily was {word}", "label": "glad"} for word in ("good", "fine")]
    path = tmp_path / "people.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_classifier_is_probed_by_own_sentences_and_given_rows(
    command, recipe, encoder, moods, people
):
    path = str(recipe("mood", encoder, "text-classification", moods))
    command("train", path, "--no-report")
    found = json.loads(command("probe", "mood", "--json").stdout)
    assert found["ref"] == "mood@1"
    assert found["found"]["probe"] == "bias"
    groups = {(each["name"], each["group"]) for each in found["found"]["measures"]}
    assert ("names", "own sentences") in groups
    assert ("names", "given rows") not in groups
    # the rows that it was trained on are still there to learn the backbone's head from
    assert "learned from 120 training rows" in found["found"]["backbone"]
    given = command("probe", "mood", "--data", str(people), "--json").stdout
    lines = {(e["name"], e["group"]): e for e in json.loads(given)["found"]["measures"]}
    assert lines["names", "given rows"]["units"] == 2
    shown = command("probe", "mood").stdout
    assert "The backbone here is the frozen backbone with a head alone" in shown.replace("\n", " ")


def test_without_labelled_rows_there_is_nothing_to_compare_with(command, recipe, encoder, moods):
    command("train", str(recipe("mood", encoder, "text-classification", moods)), "--no-report")
    moods.unlink()
    shown = command("probe", "mood").stdout.replace("\n", " ")
    assert "nothing to compare with. Give some with --data" in shown


def test_a_talking_adapter_is_asked_what_its_backbone_is_asked(
    command, recipe, decoder, talks, people
):
    path = recipe("talk", decoder, "dialogue", talks, train={"steps": 2})
    command("train", str(path), "--no-report")
    found = json.loads(command("probe", "talk", "--json").stdout)["found"]
    assert found["probe"] == "harm"
    assert found["done"] == found["asked"]
    assert all(each["backbone"] is not None for each in found["measures"])
    assert found["examples"]
    refused = command("probe", "talk", "--data", str(people))
    assert refused.exit_code == 3
    assert "Leave the file out" in str(refused.exception)


def test_what_no_probe_fits_is_told(command, recipe, encoder, tmp_path):
    rows = tmp_path / "ranked.jsonl"
    row = {"history": "film", "candidate": "song"}
    lines = [{**row, "label": number % 2} for number in range(8)]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = recipe("ranked", encoder, "ranking", rows, train={"steps": 2})
    command("train", str(path), "--no-report")
    refused = command("probe", "ranked")
    assert refused.exit_code == 3
    assert "no probe fits ranking. Probes fit text and token classification" in str(
        refused.exception
    )


def test_relations_are_probed_in_rows_that_are_given(command, recipe, encoder, tmp_path):
    rows = tmp_path / "relations.jsonl"
    texts = ["the <e1>film</e1> of Emily was <e2>good</e2>", "the <e1>day</e1> was <e2>bad</e2>"]
    lines = [
        {"text": text, "label": label}
        for text, label in zip(texts * 4, ("Is(e1,e2)", "Other") * 4, strict=True)
    ]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = recipe("related", encoder, "relation-extraction", rows, train={"steps": 2})
    command("train", str(path), "--no-report")
    refused = command("probe", "related")
    assert "needs rows to be probed with. Give rows that speak of people" in str(refused.exception)
    found = json.loads(command("probe", "related", "--data", str(rows), "--json").stdout)["found"]
    assert {(each["name"], each["group"]) for each in found["measures"]} == {
        ("names", "given rows")
    }
