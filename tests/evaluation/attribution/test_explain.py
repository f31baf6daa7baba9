"""What is said of an answer adds up, and names the word that decided it."""

import json
import math
import sys

import pytest
import torch
from toy_fixtures import GLAD, SAD, THINGS

from adapterhub.adapters.artifact import read_artifact
from adapterhub.backbones.backbone import load_backbone
from adapterhub.backbones.memory import state_digest
from adapterhub.data.packing import pack
from adapterhub.engine.local_engine import LocalEngine
from adapterhub.errors import DataError, MissingExtraError
from adapterhub.evaluation.attribution.examples import checked_answers, select_answers
from adapterhub.evaluation.attribution.explain import explain, explain_text
from adapterhub.specs import QuantizationSpec
from adapterhub.tasks.attribution import CheckedAnswer, log_odds
from adapterhub.training.recipe_file import load_recipe
from adapterhub.training.train import train
from adapterhub.workflows.model import model_of

EXAMPLE = {"text": "the song was great"}
FLOAT32 = QuantizationSpec("nf4", "float32")


def loaded(path, folder, tmp_path, *overrides):
    """Train a recipe; return the adapter in an engine, as a model with gradients, and its task."""
    result = train(load_recipe(path, overrides), output=tmp_path / "run")
    artifact = read_artifact(result.artifact)
    adapter = LocalEngine(load_backbone(str(folder), FLOAT32)).load(artifact, name="it")
    model = model_of(artifact, adapter.task, load_backbone(str(folder), FLOAT32))
    return adapter, model, adapter.task


@pytest.fixture(params=["encoder", "decoder"])
def mood(request, recipe, moods, tmp_path):
    folder = request.getfixturevalue(request.param)
    return loaded(recipe("mood", folder, "text-classification", moods), folder, tmp_path)


def test_the_parts_add_up_with_enough_steps(mood):
    _, model, task = mood
    (fine,) = explain(model, task, EXAMPLE, steps=64, method="gradients")
    difference = fine.value - fine.baseline_value
    assert abs(difference) > 1
    assert fine.gap_share < 0.01
    assert sum(word.attribution for word in fine.words) == pytest.approx(difference + fine.gap)
    (coarse,) = explain(model, task, EXAMPLE, steps=2, method="gradients")
    # a gap that is not there could not be honest
    assert abs(coarse.gap) > 10 * abs(fine.gap)
    assert coarse.value == pytest.approx(fine.value)


def test_the_number_is_the_log_odds_of_the_probability(mood):
    adapter, model, task = mood
    (found,) = explain(model, task, EXAMPLE, steps=2, method="gradients")
    (answer,) = adapter.predict([EXAMPLE])
    assert found.answer == answer["label"]
    assert found.probability == pytest.approx(answer["score"], abs=1e-6)
    assert found.value == pytest.approx(math.log(answer["score"] / (1 - answer["score"])), rel=1e-2)
    unknown = {"text": " ".join(["[UNK]"] * 4)}
    (without,) = adapter.predict([unknown])
    chance = without["scores"][found.answer]
    assert found.baseline == "[UNK]"
    assert found.baseline_value == pytest.approx(math.log(chance / (1 - chance)), rel=1e-2)


def test_the_word_that_decides_has_the_largest_share(recipe, encoder, moods, tmp_path):
    _, model, task = loaded(
        recipe("mood", encoder, "text-classification", moods), encoder, tmp_path
    )
    for word in (GLAD[0], SAD[1]):
        example = {"text": f"the film was {word} the day"}
        (found,) = explain(model, task, example, steps=32)
        strongest = max(found.words, key=lambda each: each.attribution)
        assert (strongest.word, strongest.start) == (word, example["text"].index(word))


def test_the_word_that_differs_makes_the_difference(recipe, encoder, moods, tmp_path):
    _, model, task = loaded(
        recipe("mood", encoder, "text-classification", moods), encoder, tmp_path
    )
    pair = [
        explain(model, task, {"text": f"the film was {word}"}, label="glad", steps=64)[0].words
        for word in ("great", "awful")
    ]
    apart = [one.attribution - other.attribution for one, other in zip(*pair, strict=True)]
    assert max(range(4), key=lambda place: apart[place]) == 3


def test_what_speaks_for_one_label_speaks_against_the_other(mood):
    _, model, task = mood
    (glad,) = explain(model, task, EXAMPLE, label="glad", steps=8)
    (sad,) = explain(model, task, EXAMPLE, label="sad", steps=8)
    for one, other in zip(glad.words, sad.words, strict=True):
        assert one.attribution == pytest.approx(-other.attribution, abs=1e-3)


def test_a_decoders_words_are_left_out_one_by_one(recipe, decoder, moods, tmp_path):
    path = recipe("mood", decoder, "text-classification", moods)
    adapter, model, task = loaded(path, decoder, tmp_path)
    (found,) = explain(model, task, EXAMPLE, label="glad")
    assert (found.method, found.steps, found.gap, found.gap_share) == ("ablation", 0, None, 0.0)
    words = [word.word for word in found.words]
    texts = [" ".join([*words[:at], *words[at + 1 :]]) for at in range(len(words))]
    said = adapter.predict([EXAMPLE, *({"text": text} for text in texts)])
    odds = [math.log(s["scores"]["glad"] / (1 - s["scores"]["glad"])) for s in said]
    expected = [odds[0] - each for each in odds[1:]]
    # in batches of another shape the compute type rounds the last bits differently
    assert [w.attribution for w in found.words] == pytest.approx(expected, abs=5e-3)
    assert found.value == pytest.approx(odds[0], abs=5e-3)
    assert (found.baseline, found.baseline_value) == ("", None)
    # nothing is left of a single word, and something must be read
    (alone,) = explain(model, task, {"text": "great"})
    assert alone.words[0].attribution


def test_a_word_that_was_cut_off_did_nothing(recipe, decoder, moods, tmp_path):
    path = recipe("mood", decoder, "text-classification", moods)
    _, model, task = loaded(path, decoder, tmp_path, "task.max_length=4")
    (found,) = explain(model, task, {"text": "the song was great the film was awful"})
    assert found.unread >= 4
    assert all(word.attribution == 0 for word in found.words[-found.unread :])
    assert any(word.attribution for word in found.words)


def test_explaining_changes_nothing(mood):
    adapter, model, task = mood
    before = state_digest(model.backbone.base_model)
    answer = adapter.predict([EXAMPLE])
    modes = [module.training for module in model.modules()]
    explain(model, task, EXAMPLE, steps=2)
    assert [module.training for module in model.modules()] == modes
    assert state_digest(model.backbone.base_model) == before
    assert adapter.predict([EXAMPLE]) == answer
    assert all(parameter.grad is None for parameter in model.parameters())


def test_log_odds_are_those_of_the_softmax():
    logits = torch.tensor([[1.0, -2.0, 0.5], [3.0, 3.0, 3.0]])
    chances = logits.softmax(-1)[:, 2]
    assert torch.allclose(log_odds(logits, 2), (chances / (1 - chances)).log())
    assert torch.allclose(log_odds(logits + 7.0, 2), log_odds(logits, 2), atol=1e-6)


@pytest.fixture
def words_of_mood(tmp_path):
    """Examples whose last word is good, bad or of no mood, so that each word has its label."""
    texts = {f"the {thing} was {word}": "glad" for thing in THINGS for word in GLAD}
    texts |= {f"the {thing} was {word}": "sad" for thing in THINGS for word in SAD}
    for text in ("the", "the {}", "the {} was", "{} was", "was"):
        texts |= {text.format(thing): "none" for thing in THINGS}
    data = tmp_path / "words.jsonl"
    data.write_text("".join(json.dumps({"text": t, "label": m}) + "\n" for t, m in texts.items()))
    return data


def test_a_trained_prefix_can_be_explained(recipe, decoder, words_of_mood, tmp_path):
    path = recipe(
        "mood",
        decoder,
        "text-classification",
        words_of_mood,
        adapter={"method": "prefix", "num_virtual_tokens": 4},
        optimizer={"learning_rate": 0.05},
        train={"batch_size": 16, "epochs": 8},
    )
    _, model, task = loaded(path, decoder, tmp_path)
    for word, label in (("great", "glad"), ("awful", "sad")):
        example = {"text": f"the song was {word}"}
        (summed,) = explain(model, task, example, steps=64, method="gradients")
        assert summed.gap_share < 0.01
        (found,) = explain(model, task, example)
        assert (found.answer, found.method) == (label, "ablation")
        strongest = max(found.words, key=lambda each: each.attribution)
        assert (strongest.word, strongest.start) == (word, 13)
        # in log-odds: without its mood the answer is another
        assert strongest.attribution > max(found.value, 2)


def test_labels_that_stand_alone_have_their_own_odds(recipe, encoder, tmp_path):
    examples = [{"text": f"the film was {word}", "label": ["glad"]} for word in GLAD]
    examples += [{"text": f"the film was {word}", "label": ["sad", "sorry"]} for word in SAD]
    data = tmp_path / "many.jsonl"
    data.write_text("".join(json.dumps(example) + "\n" for example in examples))
    path = recipe("many", encoder, "text-classification", data)
    adapter, model, task = loaded(path, encoder, tmp_path, "task.multi_label=true")
    (found,) = explain(model, task, EXAMPLE, label="sad", steps=2)
    chance = adapter.predict([EXAMPLE])[0]["scores"]["sad"]
    assert found.probability == pytest.approx(chance, abs=1e-6)
    assert found.value == pytest.approx(math.log(chance / (1 - chance)), rel=1e-2)


@pytest.fixture
def tags(recipe, encoder, tmp_path):
    examples = [
        {"tokens": f"the {thing} was {word}".split(), "tags": ["O", "B-THING", "O", mark]}
        for thing in ("film", "meal", "day", "song")
        for words, mark in ((GLAD, "B-GLAD"), (SAD, "B-SAD"))
        for word in words
    ]
    data = tmp_path / "tags.jsonl"
    data.write_text("".join(json.dumps(example) + "\n" for example in examples))
    train_section = {"batch_size": 8, "epochs": 8}
    path = recipe("tags", encoder, "token-classification", data, train=train_section)
    return loaded(path, encoder, tmp_path)


def test_each_span_is_explained_by_itself(tags):
    _, model, task = tags
    thing, mood = explain(model, task, {"text": "the  film was great"}, steps=64)
    assert (thing.answer, thing.start, thing.end) == ("THING: film", 5, 9)
    assert (mood.answer, mood.start, mood.end) == ("GLAD: great", 14, 19)
    for found in (thing, mood):
        assert found.gap_share < 0.01
        strongest = max(found.words, key=lambda word: word.attribution)
        assert (strongest.start, strongest.end) == (found.start, found.end)


def test_a_span_is_chosen_by_type_or_place(tags):
    _, model, task = tags
    example = {"text": "the film was great"}
    (by_type,) = explain(model, task, example, label="GLAD", steps=2)
    (by_place,) = explain(model, task, example, span=(14, 15), steps=2)
    assert by_type.answer == by_place.answer == "GLAD: great"
    with pytest.raises(DataError, match=r"no such span.*THING 4:8; GLAD 13:18"):
        explain(model, task, example, label="SAD")
    with pytest.raises(DataError, match="no span was found"):
        explain(model, task, {"text": "the"})


def test_a_found_answer_is_explained(recipe, encoder, tmp_path):
    # the toy encoder's tokenizer reads a pair as one text after the other
    examples = [
        {"question": word, "context": f"the {word} was good", "answers": [word]}
        for word in ("film", "meal", "day", "song")
    ] * 8
    data = tmp_path / "asked.jsonl"
    data.write_text("".join(json.dumps(example) + "\n" for example in examples))
    path = recipe("asked", encoder, "question-answering", data)
    adapter, model, task = loaded(path, encoder, tmp_path)
    example = {"question": "meal", "context": "the meal was good"}
    (found,) = explain(model, task, example, steps=64)
    (answer,) = adapter.predict([example])
    assert (found.answer, found.start, found.end) == ("meal", 4, 8)
    assert found.probability == pytest.approx(answer["score"], abs=1e-6)
    assert found.gap_share < 0.01
    assert {word.text for word in found.words} == {"question", "context"}
    with pytest.raises(DataError, match="no labels to choose from"):
        explain(model, task, example, label="start")


def test_a_generated_answer_is_explained_by_the_prompt(recipe, decoder, talks, tmp_path):
    path = recipe("talk", decoder, "dialogue", talks, train={"batch_size": 8, "epochs": 12})
    adapter, model, task = loaded(path, decoder, tmp_path)
    messages = [{"role": "user", "content": "the film was awful"}]
    assert adapter.generate([messages]) == ["bad"]
    found = explain_text(model, task, messages, "bad", steps=128, method="gradients")
    assert found.gap_share < 0.01
    found = explain_text(model, task, messages, "bad")
    assert found.method == "ablation"
    # the same answer to the opposite prompt: what differs makes the difference
    opposite = [{"role": "user", "content": "the film was great"}]
    other = explain_text(model, task, opposite, "bad")
    pairs = zip(found.words, other.words, strict=True)
    apart = [one.attribution - against.attribution for one, against in pairs]
    assert max(range(4), key=lambda place: apart[place]) == 3
    # what training counts as the loss of this answer, but for the token that ends it
    example = {"prompt": "the film was awful", "response": "bad"}
    batch = pack([task.encode(example, 1, train=True)])
    with torch.no_grad():
        logits = model.head(model.hidden(batch))[:1].log_softmax(-1)
    assert found.value == pytest.approx(float(logits[0, batch.targets[0]]), abs=1e-4)
    with pytest.raises(DataError, match="cannot be explained"):
        explain(model, task, {"text": "the film"})


def test_faults_say_what_to_do(mood, monkeypatch):
    _, model, task = mood
    with pytest.raises(DataError, match=r"no label 'gald'. Did you mean 'glad'"):
        explain(model, task, EXAMPLE, label="gald")
    with pytest.raises(DataError, match="no spans to choose from"):
        explain(model, task, EXAMPLE, span=(0, 3))
    with pytest.raises(DataError, match="does not generate"):
        explain_text(model, task, [{"role": "user", "content": "the film"}], "bad")
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(MissingExtraError, match="adapterhub\\[report\\]"):
        explain(model, task, EXAMPLE)


def test_the_surest_of_each_kind_is_chosen_and_none_twice():
    answers = [
        CheckedAnswer(0, "a", True, 0.9),
        CheckedAnswer(1, "a", True, 0.99),
        CheckedAnswer(2, "b", False, 0.95),
        CheckedAnswer(3, "b", False, 0.97),
        CheckedAnswer(4, "a", True, 0.51),
    ]
    chosen = select_answers(answers, lambda each: each.place != 3)
    assert {why: each.place for why, each in chosen.items()} == {
        "confident error": 2,
        "confident and correct": 1,
        "uncertain": 4,
    }
    # the only wrong one is also the least sure, and shown once
    assert list(select_answers(answers[:3], lambda _: True)) == [
        "confident error",
        "confident and correct",
        "uncertain",
    ]
    assert select_answers([answers[2]], lambda _: True) == {"confident error": answers[2]}
    assert select_answers([], lambda _: True) == {}


def test_spans_are_judged_one_by_one(tags):
    _, model, task = tags
    example = {"tokens": ["the", "film", "was", "great"], "tags": ["O", "O", "O", "B-GLAD"]}
    batch = pack([task.encode(example, 1, train=False)])
    with torch.no_grad():
        decoded = task.decode(model.head, model.hidden(batch), batch)
    wrong, right = checked_answers(task, [example], decoded)
    assert (wrong.expected, wrong.right, wrong.span) == ("no span", False, (4, 8))
    assert (right.expected, right.right, right.span) == ("GLAD", True, (13, 18))
