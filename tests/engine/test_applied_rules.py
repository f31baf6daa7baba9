"""Rules that exclude tokens apply to their sequences alone, and once to those with equal ones."""

from dataclasses import dataclass, field

import pytest
import torch

from adapterhub.engine.answer_rules import apply_rules
from adapterhub.tasks.token_rules import TokenRules


@dataclass
class FakeSequence:
    """What rules read of a sequence."""

    rules: TokenRules | None
    decoder_prompt: tuple[int, ...]
    output_tokens: list[int] = field(default_factory=list)


@pytest.fixture
def calls(monkeypatch):
    """Record the number of sequences of each call of the rules."""
    found = []
    whole = TokenRules.__call__

    def recorded(self, ids, logits):
        found.append(len(ids))
        return whole(self, ids, logits)

    monkeypatch.setattr(TokenRules, "__call__", recorded)
    return found


def excluded(sequences):
    """Return the tokens of six that each sequence may not have."""
    logits = torch.zeros(len(sequences), 6, dtype=torch.bfloat16)
    found = apply_rules(sequences, logits)
    assert found.dtype == torch.float32
    assert not logits.isinf().any()
    return [row.isinf().nonzero().flatten().tolist() for row in found]


def test_each_sequence_has_its_own_rules():
    first = TokenRules(2, suppressed=(1,), begin_suppressed=(3, 4))
    sequences = [
        FakeSequence(first, (0, 5)),
        FakeSequence(None, (0, 5)),
        FakeSequence(first, (0, 5), [2]),
        FakeSequence(TokenRules(2, only=(2, 5)), (0, 5)),
        FakeSequence(TokenRules(3, begin_suppressed=(3,)), (0, 5, 5)),
    ]
    assert excluded(sequences) == [[1, 3, 4], [], [1], [0, 1, 3, 4], [3]]


def test_equal_rules_of_one_length_are_computed_once(calls):
    sequences = [FakeSequence(TokenRules(1, suppressed=(2,)), (0,), [at]) for at in range(4)]
    assert excluded(sequences) == [[2]] * 4
    assert calls == [4]
