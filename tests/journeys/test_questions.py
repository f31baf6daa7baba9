"""Question answering from training to evaluation as a user runs the commands."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from toy_fixtures import GLAD, SAD, THINGS
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from adapterhub.adapters.artifact import read_artifact


@pytest.fixture
def questions(tmp_path):
    examples = [
        {"context": context, "question": f"the {thing}", "answers": [word]}
        for thing in THINGS
        for word in (*GLAD, *SAD)
        # the second has windows without the answer
        for context in (f"the {thing} was {word} the {thing}", f"{'the ' * 40}{thing} was {word}")
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(example) + "\n" for example in examples))
    return path


def question_line(context, question="the meal"):
    return json.dumps({"context": context, "question": question})


def predict(command, *examples, name="words"):
    return json.loads(command("predict", name, "--jsonl", "--json", *examples).stdout)


def test_an_answer_is_found_with_its_offsets_whatever_the_length(
    command, recipe, encoder, questions
):
    path = recipe(
        "words",
        encoder,
        "question-answering",
        questions,
        train={"batch_size": 8, "epochs": 12},
    )
    short = ("task.max_length=32", "task.stride=6", "task.max_answer_tokens=3")
    report = json.loads(command("train", str(path), *short, "--json").stdout)
    assert report["metrics"]["before"]["f1"] < report["metrics"]["after"]["f1"]
    assert report["metrics"]["after"]["exact_match"] > 90

    context = "the meal was lovely the meal"
    (answer,) = predict(command, question_line(context))
    assert answer["answer"] == "lovely"
    assert context[answer["start"] : answer["end"]] == "lovely"
    assert command("predict", "words", "--jsonl", question_line(context)).stdout.startswith(
        "lovely\t"
    )

    # far beyond what is read at once
    long = "the " * 60 + context + " the" * 60
    (answer,) = predict(command, question_line(long))
    assert long[answer["start"] : answer["end"]] == answer["answer"] == "lovely"

    scored = json.loads(command("eval", "words", "--data", str(questions), "--json").stdout)
    assert scored["adapter"]["f1"] == report["metrics"]["after"]["f1"]
    card = command("show", "words").stdout
    assert "question-answering" in card


def test_peft_loads_the_artifact_and_gives_the_same_answer(command, recipe, encoder, questions):
    path = recipe(
        "words",
        encoder,
        "question-answering",
        questions,
        backbone={"name": str(encoder), "quantization": "none", "compute_dtype": "float32"},
    )
    artifact = json.loads(command("train", str(path), "--no-report", "--json").stdout)["artifact"]
    context, question = "the meal was awful the meal", "the meal"
    (answer,) = predict(command, question_line(context, question))

    base = AutoModelForQuestionAnswering.from_pretrained(encoder)
    model = PeftModel.from_pretrained(base, artifact).eval()
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    inputs = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
    offsets = inputs.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        output = model(**inputs)
    places = [0] + [at for at, part in enumerate(inputs.sequence_ids(0)) if part == 1]
    chances = [
        logits[0, places].softmax(dim=0) for logits in (output.start_logits, output.end_logits)
    ]
    first, last = (int(each[1:].argmax()) for each in chances)
    if first <= last:
        assert answer["start"] == offsets[places[first + 1]][0]
        assert answer["end"] == offsets[places[last + 1]][1]
        assert abs(answer["score"] - float(chances[0][first + 1] * chances[1][last + 1])) < 1e-4
    stored = read_artifact(Path(artifact))
    assert stored.manifest.labels == ("start", "end")
    assert any("qa_outputs" in key for key in stored.weights.tensors)


def test_a_decoder_answers_questions(command, recipe, decoder, questions):
    path = recipe(
        "words", decoder, "question-answering", questions, train={"batch_size": 8, "epochs": 10}
    )
    report = json.loads(command("train", str(path), "--no-report", "--json").stdout)
    assert report["metrics"]["after"]["f1"] > report["metrics"]["before"]["f1"]
    (answer,) = predict(command, question_line("the film was dull the film", "the film"))
    assert answer["answer"] in "the film was dull the film"


def test_questions_can_be_unanswerable(command, recipe, encoder, tmp_path):
    examples = [
        {
            "context": f"the {thing} was {word}",
            "question": f"the {thing}",
            "answers": [word] if word in GLAD else [],
        }
        for thing in THINGS
        for word in (*GLAD, *SAD)
    ]
    data = tmp_path / "some.jsonl"
    data.write_text("".join(json.dumps(example) + "\n" for example in examples))
    path = str(
        recipe("some", encoder, "question-answering", data, train={"batch_size": 8, "epochs": 16})
    )
    refused = command("train", path)
    assert refused.exit_code == 3
    assert "some.jsonl example 5, field 'answers': the question has no answer" in str(
        refused.exception
    )
    report = json.loads(
        command("train", path, "task.unanswerable=true", "--no-report", "--json").stdout
    )
    assert report["metrics"]["after"]["unanswerable_f1"] > 80
    good, bad = predict(
        command,
        question_line("the song was great", "the song"),
        question_line("the song was poor", "the song"),
        name="some",
    )
    assert (good["answer"], bad["answer"]) == ("great", "")
