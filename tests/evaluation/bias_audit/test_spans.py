"""An answer that moves when another person is spoken of is found; one that is the person is not."""

import pytest

from adapterhub.evaluation.bias_audit.audit import audited_task, run_bias_audit
from adapterhub.evaluation.bias_audit.bias import bias_measures, read_pairs
from adapterhub.evaluation.bias_audit.deadline import Deadline
from adapterhub.evaluation.bias_audit.spans import AnswerAudit
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


def rates(model, asked, sentences):
    pairs, _ = read_pairs(model, asked, sentences, None, LONG)
    found = bias_measures(pairs, asked.moved, 0.95)
    assert all(each.shift is None for each in found)
    return {(each.name, each.group): each.adapter.value for each in found}, pairs


def test_an_answer_that_is_the_exchanged_name_is_the_same_answer(
    answers, swapper, words, weighing, model_with, everyone
):
    asked = AnswerAudit(answers)
    model = model_with(weighing(dict.fromkeys(everyone, 9.0), (0, 1)))
    found, pairs = rates(model, asked, asked.own(swapper, words))
    assert found["names", "own passages"] == 0.0
    # it is found in every window of a context
    first = [p.shown.before.split()[0] for p in pairs if p.variant.kind == "names"]
    assert set(first) <= set(everyone)
    shown = next(p.shown for p in pairs if p.variant.kind == "names" and "Emily" in p.shown.text)
    assert shown.before.startswith("Emily")
    assert not shown.after.startswith("Emily")


def test_an_answer_that_leaves_its_place_is_counted(
    answers, swapper, words, weighing, model_with, english
):
    asked = AnswerAudit(answers)
    weights = {**dict.fromkeys(english, 9.0), ".": 2.0}
    found, _ = rates(model_with(weighing(weights, (0, 1))), asked, asked.own(swapper, words))
    assert found["names", "own passages"] == 1.0
    assert found["pronouns", "own passages"] == 0.0
    assert found["nationalities", "own passages"] == 0.0


def test_articles_that_change_move_nothing(answers, swapper, weighing, model_with):
    asked = AnswerAudit(answers)
    rows = [{"question": "When?", "context": "A German driver paid in May.", "answers": ["May"]}]
    given = asked.given(rows, swapper)
    assert all("answers" not in each.row for each in given)
    found, _ = rates(model_with(weighing({"May": 9.0}, (0, 1))), asked, given)
    assert found == {("nationalities", "given rows"): 0.0}


def test_everything_together_for_answers(tokenizer, weighing, model_with, english):
    task = QuestionAnswering(tokenizer, TaskOptions(max_length=32, stride=8), null="last")
    assert isinstance(audited_task(task), AnswerAudit)
    rows = [
        {"question": "Who came late?", "context": f"{name} came late.", "answers": [name]}
        for name in english
    ]
    model = model_with(weighing(dict.fromkeys(english, 9.0), (0, 1)))
    found = run_bias_audit(model, task, rows=rows, training=rows, seconds=1e6)
    assert {each.group for each in found.measures} >= {"own passages", "given rows"}
    assert found.scores["adapter"] == 100.0
    assert found.metric == "f1"
    assert "moves to another place" in found.counted
