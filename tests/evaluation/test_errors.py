"""Worst examples of every task, without correct ones."""

import pytest
import torch
from transformers import AutoTokenizer

from adapterhub.evaluation.errors import worst_examples
from adapterhub.evaluation.example_statistics import scores_of
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.generating import AnswerScore
from adapterhub.tasks.multi_label import MultiLabelClassification
from adapterhub.tasks.predictions import ExampleStatistics
from adapterhub.tasks.question_answering import FoundSpan, QuestionAnswering
from adapterhub.tasks.ranking import Ranking
from adapterhub.tasks.relation_extraction import RelationExtraction
from adapterhub.tasks.table import build_task


@pytest.fixture
def tokenizer(encoder):
    return AutoTokenizer.from_pretrained(encoder)


def test_relations_are_shown_with_their_marks(tokenizer):
    tokenizer.add_tokens(["@", "#"])
    labels = ["Made(e1,e2)", "Made(e2,e1)", "Other"]
    task = RelationExtraction(tokenizer, labels, TaskOptions(max_length=32), pool="first")
    example = {"text": "<e1>fire</e1> makes <e2>smoke</e2>", "label": "Made(e1,e2)"}
    right, wrong, worse = ([0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.1, 0.8, 0.1])
    decoded = [torch.tensor(each) for each in (right, wrong, worse)]
    found = worst_examples(task, [example] * 3, decoded)
    assert [each.predicted for each in found] == ["Made(e2,e1) (0.80)", "Made(e2,e1) (0.60)"]
    assert found[0].text == example["text"]


def test_sets_of_labels_are_compared_whole(tokenizer):
    task = MultiLabelClassification(
        tokenizer,
        ("drama", "sea", "war"),
        TaskOptions(max_length=32, multi_label=True),
        pool="first",
    )
    examples = [{"text": "a", "label": ["sea"]}, {"text": "b", "label": []}]
    decoded = [torch.tensor([0.1, 0.9, 0.2]), torch.tensor([0.9, 0.1, 0.6])]
    (only,) = worst_examples(task, examples, decoded)
    assert (only.text, only.expected, only.predicted) == ("b", "(none)", "drama, war")
    assert only.error == pytest.approx(-sum(torch.tensor([0.1, 0.9, 0.4]).log()).item())


def test_candidates_that_please_and_were_thought_not_to(tokenizer):
    task = Ranking(tokenizer, ["0", "1"], TaskOptions(max_length=32), pool="first")
    examples = [{"history": ["a"], "candidate": "b", "label": label} for label in (1, 0, 1)]
    found = worst_examples(task, examples, [0.2, 0.9, 0.7])
    assert [(each.expected, each.predicted) for each in found] == [("0", "0.90"), ("1", "0.20")]


def test_of_answers_that_are_wholly_wrong_the_surest_comes_first(tokenizer):
    task = QuestionAnswering(tokenizer, TaskOptions(max_length=32), null="first")
    example = {"context": "the day was fine", "question": "what", "answers": ["the day"]}
    spans = [FoundSpan(0, 1, 0.9, 0.0), FoundSpan(3, 3, 0.4, 0.0), FoundSpan(3, 3, 0.8, 0.0)]
    found = worst_examples(task, [example] * 3, spans)
    assert [(each.predicted, each.error) for each in found] == [("fine", 0.8), ("fine", 0.4)]
    assert found[0].expected == "the day"


def test_a_task_by_instruction_is_judged_by_its_tokens(decoder):
    tokenizer = AutoTokenizer.from_pretrained(decoder)
    task = build_task(
        "translation", tokenizer, "decoder", (), TaskOptions(max_length=64, max_new_tokens=8)
    )
    examples = [
        {"source": "a dog", "target": "ein Hund"},
        {"source": "a cat", "target": "eine Katze"},
    ]
    decoded = [AnswerScore(2.0, 4, 3), AnswerScore(9.0, 3, 1)]
    first, second = worst_examples(task, examples, decoded)
    assert (first.expected, first.error) == ("eine Katze", 3.0)
    assert "a cat" in first.text
    assert "a dog" in second.text
    assert isinstance(scores_of(task, examples, decoded), ExampleStatistics)
