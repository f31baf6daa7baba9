"""Confidence and correctness of the choices of every task."""

import numpy as np
import pytest
import torch

from adapterhub.evaluation.errors import worst_examples
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.multi_label import MultiLabelClassification
from adapterhub.tasks.question_answering import FoundSpan, QuestionAnswering
from adapterhub.tasks.ranking import Ranking
from adapterhub.tasks.relation_extraction import RelationExtraction
from adapterhub.tasks.token_classification import TokenClassification, WordTags

OPTIONS = TaskOptions(max_length=32)


@pytest.fixture
def tokenizer(encoder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(encoder)


def test_a_ranking_is_a_choice_of_two(tokenizer):
    task = Ranking(tokenizer, ["0", "1"], OPTIONS, pool="first")
    examples = [
        {"history": ["the day", "a song"], "candidate": "film", "label": label}
        for label in (1, 0, 1)
    ]
    decoded = [0.9, 0.8, 0.3]
    found = task.confidence(examples, decoded)
    assert found.unit == "candidates"
    np.testing.assert_allclose(found.predicted, [0.9, 0.8, 0.7])
    assert found.correct.tolist() == [True, False, False]
    np.testing.assert_allclose(found.probabilities[:, 1], decoded)
    assert found.gold.tolist() == [1, 0, 1]
    worst = worst_examples(task, examples, decoded)
    assert [each.expected for each in worst] == ["0", "1"]
    assert worst[0].text == "the day; a song | film"
    assert worst[0].error == pytest.approx(-np.log(0.2))
    assert task.confidence([], []) is None


def test_each_label_of_many_is_a_choice(tokenizer):
    options = TaskOptions(max_length=32, threshold=0.4)
    task = MultiLabelClassification(tokenizer, ["glad", "sad"], options, pool="first")
    examples = [{"text": "the day", "label": ["glad"]}, {"text": "a film", "label": []}]
    decoded = [torch.tensor([0.5, 0.1]), torch.tensor([0.3, 0.9])]
    found = task.confidence(examples, decoded)
    np.testing.assert_allclose(found.predicted, [0.5, 0.9, 0.7, 0.9], rtol=1e-6)
    assert found.correct.tolist() == [True, True, True, False]
    assert found.probabilities is None
    (worst,) = worst_examples(task, examples, decoded)
    assert (worst.text, worst.expected, worst.predicted) == ("a film", "(none)", "sad")
    assert worst.error == pytest.approx(-np.log(0.7) - np.log(0.1), rel=1e-5)


def test_each_word_that_was_read_is_a_choice(tokenizer):
    task = TokenClassification(tokenizer, ["O", "B-A", "I-A"], OPTIONS, pool="first")
    examples = [{"tokens": ["the", "day", "was"], "tags": ["O", "I-A", "O"]}]
    chances = torch.tensor([[0.9, 0.05, 0.05], [0.2, 0.2, 0.6]])
    decoded = [WordTags((0, 2), (0.9, 0.6), chances)]
    found = task.confidence(examples, decoded)
    # the data's tag begins a span and is repaired, and the third word was cut off
    assert found.gold.tolist() == [0, 1]
    assert found.correct.tolist() == [True, False]
    np.testing.assert_allclose(found.probabilities, chances)


def test_relations_and_answers_have_worst_examples(tokenizer):
    labels = ["Is(e1,e2)", "Other"]
    relations = RelationExtraction(tokenizer, labels, OPTIONS, pool="first")
    examples = [{"text": "the <e1>day</e1> was <e2>fine</e2>", "label": "Other"}] * 2
    decoded = [torch.tensor([0.9, 0.1]), torch.tensor([0.2, 0.8])]
    assert relations.confidence(examples, decoded).correct.tolist() == [False, True]
    (worst,) = worst_examples(relations, examples, decoded)
    assert (worst.expected, worst.predicted) == ("Other", "Is(e1,e2) (0.90)")

    task = QuestionAnswering(tokenizer, TaskOptions(max_length=24, stride=4), null="first")
    asked = [
        {"context": "the day was fine", "question": "when", "answers": [answer]}
        for answer in ("The day", "fine")
    ]
    windows = [window for example in asked for window in task.windows(example)]
    found = worst_examples(task, windows, [FoundSpan(0, 1, 0.75, 0.1)] * 2)
    assert [(each.expected, each.predicted, each.error) for each in found] == [
        ("fine", "the day", 0.75)
    ]
    sure = task.confidence(windows, [FoundSpan(0, 1, 0.75, 0.1)] * 2)
    assert (sure.unit, sure.predicted.tolist()) == ("questions", [0.75, 0.75])
    assert sure.correct.tolist() == [True, False]
    assert sure.probabilities is None
