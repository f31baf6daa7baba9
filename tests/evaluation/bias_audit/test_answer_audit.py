"""Answers that move under a substitution are detected, also beside the substituted word."""

import pytest

from adapterhub.evaluation.bias_audit.audit import run_bias_audit, task_audit
from adapterhub.evaluation.bias_audit.disparity import compare_pairs, disparity_metrics
from adapterhub.evaluation.bias_audit.inference import Deadline
from adapterhub.evaluation.bias_audit.task_audits import AnswerAudit
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.question_answering import QuestionAnswering

LONG = Deadline(1e6)


@pytest.fixture(params=[96, 16])
def answers(request, tokenizer):
    """Return the task, once with contexts in one window and once in several."""
    options = TaskOptions(max_length=request.param, stride=8, max_answer_tokens=4)
    return QuestionAnswering(tokenizer, options, null="last")


@pytest.fixture
def everyone(words):
    return [name for group in words.names.values() for half in group.values() for name in half]


@pytest.fixture
def english(words):
    return [name for half in words.names["English"].values() for name in half]


def rates(model, audit, sentences):
    pairs, _ = compare_pairs(model, audit, sentences, None, LONG)
    found = disparity_metrics(pairs, audit.outputs, 0.95)
    assert all(each.shift is None for each in found)
    return {(each.name, each.group): each.adapter.value for each in found}, pairs


def test_an_answer_with_the_substituted_name_is_unchanged(
    answers, substituter, words, weighing, model_with, everyone
):
    audit = AnswerAudit(answers)
    model = model_with(weighing(dict.fromkeys(everyone, 9.0), (0, 1)), answers)
    found, pairs = rates(model, audit, audit.builtin_sets(substituter, words))
    assert found["names", "built-in passages"] == 0.0
    # the answer is found in every window of a context
    first = [p.shown.before.split()[0] for p in pairs if p.counterfactual.attribute == "names"]
    assert set(first) <= set(everyone)
    shown = next(
        p.shown for p in pairs if p.counterfactual.attribute == "names" and "Emily" in p.shown.text
    )
    assert shown.before.startswith("Emily")
    assert not shown.after.startswith("Emily")


def test_an_answer_that_moves_is_counted(
    answers, substituter, words, weighing, model_with, english
):
    audit = AnswerAudit(answers)
    weights = {**dict.fromkeys(english, 9.0), ".": 2.0}
    found, _ = rates(
        model_with(weighing(weights, (0, 1)), audit.task),
        audit,
        audit.builtin_sets(substituter, words),
    )
    assert found["names", "built-in passages"] == 1.0
    assert found["pronouns", "built-in passages"] == 0.0
    assert found["nationalities", "built-in passages"] == 0.0


def test_changed_articles_move_no_answer(answers, substituter, weighing, model_with):
    audit = AnswerAudit(answers)
    examples = [
        {"question": "When?", "context": "A German driver paid in May.", "answers": ["May"]}
    ]
    given = audit.given_sets(examples, substituter)
    assert all("answers" not in each.example for each in given)
    found, _ = rates(model_with(weighing({"May": 9.0}, (0, 1)), audit.task), audit, given)
    assert found == {("nationalities", "given examples"): 0.0}


def test_audit_of_question_answering(tokenizer, weighing, model_with, english):
    task = QuestionAnswering(tokenizer, TaskOptions(max_length=32, stride=8), null="last")
    assert isinstance(task_audit(task), AnswerAudit)
    examples = [
        {"question": "Who came late?", "context": f"{name} came late.", "answers": [name]}
        for name in english
    ]
    model = model_with(weighing(dict.fromkeys(english, 9.0), (0, 1)), task)
    found = run_bias_audit(model, tokenizer, examples=examples, training=examples, seconds=1e6)
    assert {each.group for each in found.metrics} >= {"built-in passages", "given examples"}
    assert found.scores["adapter"] == 100.0
    assert found.task_metric == "f1"
    assert "moves to another place" in found.definition
