"""Refusals and rude words are detected by lists, stereotypes by likelihood."""

from types import SimpleNamespace

import pytest

from adapterhub.evaluation.bias_audit.generation import (
    AnswerClassifier,
    AnsweredRequest,
    answer_requests,
    harm_examples,
    harm_metrics,
    interleaved_requests,
    stereotype_metrics,
    stereotype_preferences,
)
from adapterhub.evaluation.bias_audit.inference import Deadline
from adapterhub.evaluation.bias_audit.templates import read_requests, read_stereotypes
from adapterhub.tasks.generating import AnswerScore


@pytest.fixture
def classifier():
    return AnswerClassifier(read_requests())


@pytest.mark.parametrize(
    ("answer", "declined"),
    [
        ("I’m sorry, but I can’t help with that.", True),
        ("I CANNOT assist you with this request.", True),
        ("That is illegal and dangerous.", True),
        ("First, take the key.", False),
        ("Scant light. " + "A long story. " * 30 + "I'm sorry.", False),
        ("", False),
    ],
)
def test_refusals(classifier, answer, declined):
    assert classifier.is_refusal(answer) == declined


def test_rude_words_are_whole_words(classifier):
    assert classifier.is_rude("What an IDIOT.")
    assert not classifier.is_rude("Hello, the shell is full of skills.")


def test_backbone_and_adapter_are_measured_alike(classifier):
    no, yes = "I'm sorry, I can't help.", "Take a hammer, stupid."
    answered = [AnsweredRequest("decline", f"bad {n}", no, yes) for n in range(20)]
    answered += [AnsweredRequest("harmless", f"good {n}", yes, yes) for n in range(10)]
    found = {(m.name, m.group): m for m in harm_metrics(answered, classifier, 0.95)}
    lost = found["refused", "harmful requests"]
    assert (lost.backbone.value, lost.adapter.value, lost.delta.value) == (1.0, 0.0, -1.0)
    assert lost.got_worse
    harmless = found["refused", "harmless requests"]
    assert harmless.delta.value == 0.0
    assert not harmless.got_worse
    rude = found["rude words", "all requests"]
    assert rude.count == 30
    assert rude.backbone.value == pytest.approx(1 / 3)
    assert rude.got_worse
    assert harm_examples(answered, classifier, 3)[0].text == "bad 0"


def test_requests_are_interleaved_by_kind():
    listed = interleaved_requests(read_requests())
    assert {kind for kind, _ in listed[:3]} == {"decline", "harmless", "open"}
    assert len({text for _, text in listed}) == len(listed)


class Partial:
    """Prefers a last word after one first word; the adapter inverts the preference."""

    def __init__(self, liked):
        self.liked = liked

    def decode(self, examples, *, with_adapter=True):
        return [
            AnswerScore(self._loss(each, with_adapter), len(each.targets), 0) for each in examples
        ]

    def _loss(self, example, with_adapter):
        return 1.0 if (example.input_ids[0] == self.liked) != with_adapter else 0.5

    def generate_from(self, prompts, max_new_tokens=None, *, with_adapter=True):
        return [f"{'yes' if with_adapter else 'no'} {len(prompt)}" for prompt in prompts]


def tokenized(text):
    return {"input_ids": [["A", "B", "are", "fine"].index(word) for word in text.split()]}


def test_requests_are_answered_with_the_adapter_and_without():
    options = SimpleNamespace(max_new_tokens=3)
    task = SimpleNamespace(
        options=options, prompt_ids=lambda messages: [0] * len(messages[0]["content"])
    )
    requests = [("open", "12345"), ("decline", ""), ("harmless", "123")]
    found = answer_requests(Partial(0), task, requests, Deadline(1e6))
    assert [(each.kind, each.backbone, each.adapter) for each in found] == [
        ("open", "no 5", "yes 5"),
        ("harmless", "no 3", "yes 3"),
    ]


def test_a_preference_scores_the_shared_words():
    pairs = {"kind": [("A are fine", "B are fine")], "other": [("B are fine", "A are fine")]}
    found = stereotype_preferences(Partial(liked=0), tokenized, pairs)
    assert found[0].adapter > 0 > found[0].backbone
    assert found[1].adapter == pytest.approx(-found[0].adapter)
    assert found[0].backbone == pytest.approx(-found[0].adapter)
    by_group = {each.group: each for each in stereotype_metrics(found, 0.95)}
    assert by_group["all pairs"].adapter.value == 0.5
    assert by_group["kind"].adapter.value == 1.0
    assert by_group["kind"].backbone.value == 0.0


def test_builtin_pairs_have_the_same_ending():
    for pairs in read_stereotypes().values():
        for one, two in pairs:
            assert one != two
            assert one.split()[-1] == two.split()[-1]
