"""``adapterhub explain`` as a user types it."""

import json
import re

import pytest


@pytest.fixture
def mood(command, recipe, encoder, moods):
    command("train", str(recipe("mood", encoder, "text-classification", moods)), "--no-report")


def test_words_with_bars_and_numbers(command, mood, tmp_path):
    page = tmp_path / "why.html"
    shown = command("explain", "mood", "the song was great", "--html", str(page)).stdout
    assert shown.startswith("glad (0.")
    (bar,) = re.findall(r"^great +\+\d+\.\d{3} +(█+)$", shown, flags=re.MULTILINE)
    assert len(bar) == 24
    assert "with [UNK] for every word" in shown
    assert "after 50 steps" in shown
    text = page.read_text()
    assert re.search(r'<span class="for" style="--a:1.00" title="\+\d+\.\d+">great</span>', text)
    assert "<script" not in text
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)


def test_numbers_for_programs(command, mood):
    arguments = ("explain", "mood", "a <b> great", "--label", "sad", "--steps", "64", "--json")
    found = json.loads(command(*arguments).stdout)
    assert found["ref"] == "mood@1"
    (answer,) = found["answers"]
    assert answer["answer"] == "sad"
    assert [word["word"] for word in answer["words"]] == ["a", "<", "b", ">", "great"]
    total = sum(word["attribution"] for word in answer["words"])
    assert total == pytest.approx(answer["value"] - answer["baseline_value"] + answer["gap"])


def test_an_answer_in_text(command, recipe, decoder, talks):
    path = recipe("talk", decoder, "dialogue", talks, train={"batch_size": 8, "epochs": 12})
    command("train", str(path), "--no-report")
    found = json.loads(command("explain", "talk", "the film was awful", "--json").stdout)
    (answer,) = found["answers"]
    assert answer["answer"] == "bad"
    assert answer["probability"] is None
    assert answer["texts"] == {"user": "the film was awful"}
    assert answer["method"] == "ablation"
    assert answer["gap"] is None
    shown = command("explain", "talk", "the film was awful").stdout.replace("\n", " ")
    assert "The attributions sum to" in shown
    path_taken = command("explain", "talk", "the film", "--method", "gradients").stdout
    assert "after 50 steps" in path_taken.replace("\n", " ")
    result = command("explain", "talk", "the film", "--label", "bad")
    assert result.exit_code == 3
    assert "no labels or spans" in str(result.exception)


def test_faults_are_one_line(command, mood):
    for arguments, said in (
        (("--label", "gald"), "Did you mean 'glad'?"),
        (("--span", "4"), "Write START:END"),
        (("--jsonl",), "input 1"),
    ):
        result = command("explain", "mood", "the song", *arguments)
        assert result.exit_code == 3, arguments
        assert said in str(result.exception), arguments
