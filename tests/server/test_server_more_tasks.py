"""Questions, relations, several labels, ranking and instructions over HTTP."""

import pytest
from http_server_helpers import UNQUANTIZED, random_lora, running_server, store, store_adapters

from adapterhub.adapters.artifact import read_artifact
from adapterhub.backbones.backbone import load_backbone
from adapterhub.engine.local_engine import LocalEngine
from adapterhub.registry import Registry

SHORT = {"question": "the film was", "context": "the film was good the meal was bad"}
LONG = {"question": "the day", "context": "the song was dull and the day was good " * 8}
#: Name, task, and settings of the task.
ADAPTERS = (
    ("answers", "question-answering", {"stride": 6}),
    ("maybe", "question-answering", {"unanswerable": True}),
    ("many", "text-classification", {"multi_label": True, "threshold": 0.4}),
    ("never", "text-classification", {"multi_label": True, "threshold": 0.999999999999}),
    ("makers", "relation-extraction", {}),
    ("picks", "ranking", {}),
    ("german", "translation", {"max_length": 64}),
    ("french", "translation", {"max_length": 64, "instruction": "the day was"}),
)


@pytest.fixture(scope="module")
def stored(decoder, tmp_path_factory):
    """A registry with an adapter of each task."""
    home = tmp_path_factory.mktemp("tasks")
    registry = Registry(home / "registry")
    store_adapters(registry, home, decoder)
    fingerprint = load_backbone(str(decoder), UNQUANTIZED).fingerprint
    for seed, (name, task, reads) in enumerate(ADAPTERS, start=20):
        weights = random_lora(seed, task=task)
        store(registry, home / name, name, weights, fingerprint, task=task, reads=reads)
    return registry


@pytest.fixture(scope="module")
def tasks(stored, decoder):
    with running_server(decoder, stored) as running:
        yield running


@pytest.fixture(scope="module")
def local(stored, decoder):
    """What ``adapterhub predict`` answers by."""
    found = LocalEngine(load_backbone(str(decoder), UNQUANTIZED))
    for name, _, _ in ADAPTERS:
        found.load(read_artifact(stored.materialize(stored.resolve(name))), name=name)
    return found


def request(served, path, **body):
    answer = served.post(path, body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(served, path, **body):
    answer = served.post(path, body)
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]["message"]


def test_questions_are_answered_as_by_predict(tasks, local):
    examples = [SHORT, LONG]
    found = request(tasks, "/v1/answer", model="answers", input=examples)["data"]
    for one, wanted in zip(found, local.adapter("answers").predict(examples), strict=True):
        assert one["digest"] == tasks.digest("answers")
        assert {name: one[name] for name in wanted} == pytest.approx(wanted, abs=1e-4)
    first = found[0]
    assert SHORT["context"][first["start"] : first["end"]] == first["answer"]


def test_a_question_may_have_no_answer(tasks, local):
    contexts = ["the film was good", "bad", "the meal", "dull day", "song", "the", "was", "good"]
    examples = [{"question": "the day", "context": context} for context in contexts]
    found = request(tasks, "/v1/answer", model="maybe", input=examples)["data"]
    for one, wanted in zip(found, local.adapter("maybe").predict(examples), strict=True):
        assert (one["answer"] is None) == (wanted["answer"] == "")
        assert (one["start"] is None) == (one["end"] is None) == (one["answer"] is None)
    assert {one["answer"] is None for one in found} == {True, False}


def test_one_request_uses_different_adapters(tasks):
    items = [{"model": name, "input": SHORT} for name in ("answers", "maybe", "answers@1")]
    mixed = request(tasks, "/v1/answer", items=items)["data"]
    (alone,) = request(tasks, "/v1/answer", model="answers", input=SHORT)["data"]
    assert mixed[0]["score"] == pytest.approx(alone["score"], abs=1e-4)
    assert mixed[2]["digest"] == mixed[0]["digest"] != mixed[1]["digest"]


def test_invalid_questions_are_rejected(tasks):
    assert "Use answer" in refused(tasks, "/v1/classify", model="answers", input="good")
    assert "Use classify" in refused(tasks, "/v1/answer", model="many", input=SHORT)
    assert "no head" in refused(tasks, "/v1/answer", model=tasks.base, input=SHORT)
    assert "is empty" in refused(
        tasks, "/v1/answer", model="answers", input={"question": "good", "context": "   "}
    )
    long = {"question": "good", "context": "x" * 300_000}
    assert "262144" in refused(tasks, "/v1/answer", model="answers", input=long)


def test_all_labels_of_a_multi_label_adapter_are_returned(tasks, local):
    texts = ["the film was good", "the day was dull"]
    found = request(tasks, "/v1/classify", model="many", input=texts)["data"]
    wanted = local.adapter("many").predict([{"text": text} for text in texts])
    for one, other in zip(found, wanted, strict=True):
        assert one["labels"] == other["labels"]
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-4)
        assert one["label"] == next(iter(one["labels"]), None)
    assert max(len(one["labels"]) for one in found) > 0
    (none,) = request(tasks, "/v1/classify", model="never", input="the film")["data"]
    assert (none["label"], none["score"], none["labels"]) == (None, None, [])


def test_relations_have_their_arguments(tasks, local):
    text = "the <e1>film</e1> was the <e2>song</e2>"
    (found,) = request(tasks, "/v1/classify", model="makers", input=text)["data"]
    (wanted,) = local.adapter("makers").predict([{"text": text}])
    assert (found["label"], found["relation"]) == (wanted["label"], wanted["relation"])
    assert found["arguments"] == wanted["arguments"]
    assert "e1" in refused(tasks, "/v1/classify", model="makers", input="no entity")


@pytest.mark.parametrize("history", ["the film", ["the song was dull", "the film was good"]])
def test_candidates_are_ranked_by_the_history(tasks, local, history):
    candidates = ["the meal", "the film was good", "the song"]
    ranked = request(tasks, "/v1/rerank", model="picks", query=history, documents=candidates)
    examples = [{"history": history, "candidate": each} for each in candidates]
    wanted = [each["score"] for each in local.adapter("picks").predict(examples)]
    scores = {each["index"]: each["relevance_score"] for each in ranked["results"]}
    assert [scores[index] for index in range(3)] == pytest.approx(wanted, abs=1e-4)
    assert list(scores) == sorted(scores, key=lambda index: -scores[index])
    assert "/v1/rerank" in refused(tasks, "/v1/classify", model="picks", input="the film")
    one_history = {"query": ["a", "b"], "documents": ["c"]}
    assert "ranking" in refused(tasks, "/v1/rerank", model="alpha", **one_history)


def test_texts_are_generated_as_by_predict(tasks, local):
    examples = [{"source": "the film was good"}, {"source": "the song"}]
    names = ["german", "french"]
    items = [
        {"model": name, "input": example if name == "german" else example["source"]}
        for example in examples
        for name in names
    ]
    found = request(tasks, "/v1/generate", items=items)["data"]
    wanted = [
        local.adapter(name).predict([example])[0]["answer"]
        for example in examples
        for name in names
    ]
    assert [one["text"] for one in found] == wanted
    assert len(set(wanted)) > 1
    assert all(0 < one["usage"]["completion_tokens"] <= 8 for one in found)
    (short,) = request(tasks, "/v1/generate", model="german", input="the film", max_tokens=1)[
        "data"
    ]
    assert short["usage"]["completion_tokens"] == 1


def test_adapters_without_an_instruction_are_rejected(tasks):
    for model in ("alpha", "answers", tasks.base):
        assert "chat" in refused(tasks, "/v1/generate", model=model, input="the film")
    blend = "german*0.5+french*0.5"
    assert "different" in refused(tasks, "/v1/generate", model=blend, input="the film")
    wrong = refused(tasks, "/v1/generate", model="german", input={"document": "the film"})
    assert "source" in wrong
