"""Where only signed adapters are loaded: train, be refused, sign, use, be tampered with."""

import json

import pytest
from peft import PeftModel
from transformers import AutoModelForSequenceClassification


@pytest.fixture
def trained(command, recipe, encoder, moods):
    path = recipe("mood", encoder, "text-classification", moods)
    assert command("train", str(path), "--no-report").exit_code == 0
    return command


def test_only_what_was_signed_answers(trained, moods, encoder):
    pair = ("--private", "ada.key", "--public", "ada.pem")
    assert trained("trust", "new", "ada", *pair).exit_code == 0
    trained("trust", "require", "on")
    for words in (
        ("predict", "mood", "the song was great"),
        ("eval", "mood", "--data", str(moods)),
    ):
        refused = trained(*words)
        assert refused.exit_code == 9
        assert b"adapterhub sign mood@1 --key FILE" in refused.stderr_bytes
    assert trained("promote", "mood", "--to", "prod").exit_code == 8

    assert trained("sign", "mood", "--key", "ada.key").exit_code == 0
    answer = trained("predict", "mood", "the song was great", "--json")
    assert json.loads(answer.stdout)[0]["label"] == "glad"
    assert trained("promote", "mood", "--to", "prod").exit_code == 0

    # looking is no loading, and peft's own folder has no file more
    folder = json.loads(trained("show", "mood", "--json").stdout)["folder"]
    base = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=2)
    PeftModel.from_pretrained(base, folder)

    trained("trust", "rm", "ada")
    assert trained("predict", "mood", "the song was great").exit_code == 9
