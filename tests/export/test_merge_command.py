"""``adapterhub merge``: a checkpoint of transformers alone, and the measured change."""

import json

import pytest
import torch
from toy_fixtures import copy_home, train_once, write_moods, write_recipe, write_talks
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from adapterhub.registry import Registry
from adapterhub.workflows.open_adapter import open_adapter

TEXTS = ["the song was great", "the meal was awful"]


@pytest.fixture(scope="module")
def trained(encoder, decoder, tmp_path_factory):
    """Train a classifier and a dialogue adapter, on 4-bit backbones."""
    place = tmp_path_factory.mktemp("trained")
    moods, talks = write_moods(place / "moods.jsonl"), write_talks(place / "talks.jsonl")
    desk = write_recipe(place, "desk", encoder, "text-classification", moods)
    chat = write_recipe(
        place, "chat", decoder, "dialogue", talks, train={"batch_size": 8, "epochs": 2}
    )
    train_once(place, (str(desk),), (str(chat),))
    return place


@pytest.fixture
def command(command, trained, own_home):
    copy_home(trained, own_home)
    return command


def test_a_merged_classifier_labels_as_the_adapter_does(command, moods, own_home):
    done = command("merge", "desk", "--output", "plain", "--data", str(moods), "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    folder = own_home / "plain"
    assert found["architecture"] == "BertForSequenceClassification"
    assert "trained on nf4 weights" in found["change"]
    check = found["check"]
    assert check["num_examples"] == check["num_positions"] == 120
    assert 0 < check["kl"] < 0.1
    assert check["before"]["accuracy"] > 0.9
    assert abs(check["after"]["accuracy"] - check["before"]["accuracy"]) < 0.05

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    with torch.no_grad():
        logits = model(**tokenizer(TEXTS, return_tensors="pt", padding=True)).logits
    labels = [model.config.id2label[int(each)] for each in logits.argmax(-1)]
    loaded, _ = open_adapter(Registry(), "desk")
    assert labels == [each["label"] for each in loaded.predict([{"text": t} for t in TEXTS])]


def test_the_scores_before_are_those_of_eval(command, moods):
    done = command("merge", "desk", "--output", "plain", "--data", str(moods), "--json")
    scores = json.loads(command("eval", "desk", "--data", str(moods), "--json").stdout)
    before = json.loads(done.stdout)["check"]["before"]
    assert before == pytest.approx(scores["adapter"], abs=0.02)


def test_a_merged_decoder_answers_as_the_adapter_does(command, talks, own_home):
    done = command("merge", "chat", "--output", "plain", "--dtype", "float32", "--data", str(talks))
    assert done.exit_code == 0, done.stderr
    assert "LlamaForCausalLM, float32" in done.stdout
    assert "KL divergence" in done.stdout
    folder = own_home / "plain"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    messages = [{"role": "user", "content": TEXTS[0]}]
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    ids = model.generate(**prompt, max_new_tokens=1, do_sample=False)
    answer = tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :])
    loaded, _ = open_adapter(Registry(), "chat")
    assert loaded.generate([messages])[0].split()[0] == answer.strip()


def test_a_folder_with_files_a_type_and_a_name_that_do_not_fit_are_refused(command, own_home):
    (own_home / "full").mkdir()
    (own_home / "full" / "file").touch()
    done = command("merge", "desk", "--output", "full")
    assert done.exit_code == 5
    assert "full" in done.stderr
    assert command("merge", "desk", "--output", "plain", "--dtype", "int4").exit_code == 2
    assert command("merge", "nobody", "--output", "plain").exit_code == 4
    assert not (own_home / "plain").exists()


def test_a_bad_example_leaves_no_folder(command, own_home):
    (own_home / "bad.jsonl").write_text('{"text": "the song was great", "label": "unheard"}\n')
    done = command("merge", "desk", "--output", "plain", "--data", "bad.jsonl")
    assert done.exit_code == 3
    assert not list(own_home.glob("*plain*"))
