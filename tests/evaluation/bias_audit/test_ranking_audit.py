"""A ranking that depends on names is detected, in the history and in the candidates."""

import pytest

from adapterhub.evaluation.bias_audit.audit import run_bias_audit, task_audit
from adapterhub.evaluation.bias_audit.disparity import compare_pairs, disparity_metrics
from adapterhub.evaluation.bias_audit.inference import Deadline
from adapterhub.evaluation.bias_audit.substitution import ATTRIBUTES
from adapterhub.evaluation.bias_audit.task_audits import OTHER_CANDIDATES, RankingAudit
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.ranking import Ranking

LONG = Deadline(1e6)


@pytest.fixture
def ranking(tokenizer):
    return Ranking(tokenizer, ["0", "1"], TaskOptions(max_length=64), pool="first")


@pytest.fixture
def audit(ranking):
    return RankingAudit(ranking)


@pytest.fixture
def english(words):
    return [name for half in words.names["English"].values() for name in half]


def measured(model, audit, sentences, reference=None):
    pairs, _ = compare_pairs(model, audit, sentences, reference, LONG)
    return {(m.name, m.group): m for m in disparity_metrics(pairs, audit.outputs, 0.95)}


def test_builtin_lists_substitute_in_one_field_alone(audit, substituter, words):
    own = audit.builtin_sets(substituter, words)
    assert {each.counterfactuals[0].attribute for each in own} == set(ATTRIBUTES)
    for each in own:
        for other in each.counterfactuals:
            changed = {
                field for field in each.example if each.example[field] != other.example[field]
            }
            assert changed == {"history" if "history" in each.source else "candidate"}
        assert len(audit.inputs(each.example)) > 2
    emily = next(each for each in own if "Emily" in each.example["history"][-1])
    # the item with the name in it is substituted as a text, and the others are as they were
    assert "Emily" not in emily.counterfactuals[0].example["history"][-1]
    assert emily.counterfactuals[0].example["history"][:-1] == emily.example["history"][:-1]


def test_a_candidate_that_drops_because_of_its_name_is_detected(
    audit, substituter, weighing, model_with, english
):
    examples = [
        {"history": ["the train"], "candidate": f"{name} came late", "group": "a"}
        for name in english[:4]
    ] + [{"history": ["the train"], "candidate": "the card", "group": "a"}]
    given = audit.given_sets(examples, substituter)
    assert {each.source for each in given} == {"given examples, candidate"}
    by_name = weighing({**dict.fromkeys(english, 4.0), "card": 2.0})
    by_word = weighing({"card": 2.0})
    found = measured(model_with(by_name, audit.task), audit, given, by_word)
    names = found["names", "given examples, candidate"]
    assert names.adapter.value == 1.0
    assert names.backbone.value == 0.0
    assert names.largest_gain[0] == "score"
    assert names.largest_gain[1] < -0.3
    assert names.shift == pytest.approx(-names.largest_gain[1])


def test_a_history_that_adds_the_same_to_all_changes_no_order(
    audit, substituter, words, weighing, model_with, english
):
    own = [each for each in audit.builtin_sets(substituter, words) if "history" in each.source]
    found = measured(model_with(weighing(dict.fromkeys(english, 0.5)), audit.task), audit, own)
    assert found["names", "built-in lists, history"].adapter.value == 0.0
    assert found["names", "built-in lists, history"].shift > 0.05


def test_ranks_change_only_beyond_ties(audit):
    example = {"history": "x", "candidate": "a", "others": ["b", "c"]}
    other = {**example, "candidate": "A"}

    def changed(before, after):
        return audit.compare(example, before, other, after).changed

    assert changed([0.5, 0.4, 0.1], [0.3, 0.4, 0.1])
    assert not changed([0.5, 0.4, 0.1], [0.41, 0.4, 0.1])
    assert not changed([0.4004, 0.4, 0.1], [0.3996, 0.4, 0.1])
    alone = {**example, "others": []}
    assert audit.compare(alone, [0.6], {**alone, "candidate": "A"}, [0.4]).changed
    assert not audit.compare(alone, [0.6], {**alone, "candidate": "A"}, [0.9]).changed


def test_candidates_of_one_group_are_listed_together(audit, substituter):
    examples = [
        {"history": "Emily", "candidate": f"{group} {number}", "group": group, "label": 1}
        for group in ("a", "b")
        for number in range(9)
    ]
    given = audit.given_sets(examples, substituter)
    assert given
    for each in given:
        listed = [each.example["candidate"], *each.example["others"]]
        assert len(set(listed)) == OTHER_CANDIDATES + 1
        assert len({candidate[0] for candidate in listed}) == 1


def test_audit_of_a_ranking(ranking, tokenizer, weighing, model_with, english):
    examples = [
        {"history": "the train", "candidate": f"{name} came late", "label": place % 2}
        for place, name in enumerate(english)
    ]
    assert isinstance(task_audit(ranking), RankingAudit)
    model = model_with(weighing(dict.fromkeys(english[::2], 3.0)), ranking)
    predicted = [(example, 0.25 + 0.5 * example["label"]) for example in examples]
    found = run_bias_audit(
        model, tokenizer, examples=examples, training=examples, predicted=predicted, seconds=1e6
    )
    groups = {each.group for each in found.metrics}
    assert {"built-in lists, history", "given examples, candidate"} <= groups
    # what the adapter said of the examples is known, and is not audit again
    assert found.scores["adapter"] == 1.0
    assert "swap places" in found.definition
    again = run_bias_audit(model, tokenizer, examples=examples, training=examples, seconds=1e6)
    assert again.scores["adapter"] == 0.0
    assert again.scores["backbone"] == found.scores["backbone"]
