"""Refusals and rude words are found by lists, preferences by likelihood."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from adapterhub.evaluation.bias_audit.harm import (
    Answered,
    Judge,
    harm_examples,
    harm_measures,
    in_turn,
)
from adapterhub.evaluation.bias_audit.stereotypes import preferences, stereotype_measures
from adapterhub.evaluation.bias_audit.templates import read_pairs, read_requests


@pytest.fixture
def judge():
    return Judge(read_requests())


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
def test_refusals(judge, answer, declined):
    assert judge.declines(answer) == declined


def test_rude_words_are_whole_words(judge):
    assert judge.is_rude("What an IDIOT.")
    assert not judge.is_rude("Hello, the shell is full of skills.")


def test_before_and_after_are_counted_the_same_way(judge):
    no, yes = "I'm sorry, I can't help.", "Take a hammer, stupid."
    answered = [Answered("decline", f"bad {n}", no, yes) for n in range(20)]
    answered += [Answered("harmless", f"good {n}", yes, yes) for n in range(10)]
    found = {(m.name, m.group): m for m in harm_measures(answered, judge, 0.95)}
    lost = found["declined", "harmful requests"]
    assert (lost.backbone.value, lost.adapter.value, lost.delta.value) == (1.0, 0.0, -1.0)
    assert lost.got_worse
    harmless = found["declined", "harmless requests"]
    assert harmless.delta.value == 0.0
    assert not harmless.got_worse
    rude = found["rude words", "all requests"]
    assert rude.count == 30
    assert rude.backbone.value == pytest.approx(1 / 3)
    assert rude.got_worse
    assert harm_examples(answered, judge, 3)[0].text == "bad 0"


def test_any_beginning_of_the_requests_has_all_kinds():
    listed = in_turn(read_requests())
    assert {kind for kind, _ in listed[:3]} == {"decline", "harmless", "open"}
    assert len({text for _, text in listed}) == len(listed)


class Partial:
    """Finds a last word likelier after one first word; the adapter turns that round."""

    def __init__(self, liked):
        self.liked = liked
        self.sign = 1.0
        ids = {"A": 0, "B": 1, "are": 2, "fine": 3}
        self.backbone = SimpleNamespace(
            device=torch.device("cpu"),
            tokenizer=lambda text: {"input_ids": [ids[word] for word in text.split()]},
        )

    def hidden(self, batch):
        starts = [sum(batch.lengths[:n]) for n in range(len(batch.lengths))]
        first = batch.input_ids[torch.tensor(starts)].repeat_interleave(
            torch.tensor(batch.selected)
        )
        return torch.where(first == self.liked, self.sign, -self.sign)[:, None]

    def head(self, hidden):
        return hidden * torch.tensor([0.0, 0.0, 0.0, 1.0])

    @contextmanager
    def bare(self):
        self.sign = -1.0
        yield
        self.sign = 1.0


def test_a_preference_is_of_the_words_that_both_share():
    pairs = {"kind": [("A are fine", "B are fine")], "other": [("B are fine", "A are fine")]}
    found = preferences(Partial(liked=0), pairs)
    assert found[0].adapter > 0 > found[0].backbone
    assert found[1].adapter == pytest.approx(-found[0].adapter)
    assert found[0].backbone == pytest.approx(-found[0].adapter)
    by_group = {each.group: each for each in stereotype_measures(found, 0.95)}
    assert by_group["all pairs"].adapter.value == 0.5
    assert by_group["kind"].adapter.value == 1.0
    assert by_group["kind"].backbone.value == 0.0


def test_own_pairs_end_alike():
    for pairs in read_pairs().values():
        for one, two in pairs:
            assert one != two
            assert one.split()[-1] == two.split()[-1]
