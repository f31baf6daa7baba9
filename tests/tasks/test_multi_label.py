"""Text classification with any number of labels."""

import pytest
import torch
from sklearn.metrics import f1_score
from torch.nn import functional as F

from adapterhub.data.packing import pack
from adapterhub.errors import DataError, RecipeError
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.multi_label import MultiLabelClassification
from adapterhub.tasks.table import build_task

LABELS = ("drama", "sea", "war")


def task_for(tokenizer, **options):
    options = TaskOptions(multi_label=True, **options)
    return MultiLabelClassification(tokenizer, LABELS, options, pool="first")


def test_the_option_makes_the_task(byte_bpe):
    task = build_task(
        "text-classification", byte_bpe, "decoder", LABELS, TaskOptions(multi_label=True)
    )
    assert isinstance(task, MultiLabelClassification)
    encoded = task.encode({"text": "the castle", "label": []}, 1, train=True)
    assert tuple(encoded.select) == (len(encoded) - 1,)


@pytest.mark.parametrize(
    ("label", "targets"),
    [(["war", "drama"], [1, 0, 1]), ([], [0, 0, 0]), ("sea", [0, 1, 0]), ([2], [0, 0, 1])],
)
def test_each_label_has_a_target(wordpiece, label, targets):
    encoded = task_for(wordpiece).encode({"text": "a film", "label": label}, 1, train=True)
    assert list(encoded.targets) == targets


def test_an_example_without_labels_can_be_predicted_but_not_learned(wordpiece):
    assert not task_for(wordpiece).encode({"text": "a film"}, 1, train=False).targets
    with pytest.raises(DataError, match="example 4, field 'label': the field is missing"):
        task_for(wordpiece).encode({"text": "a film"}, 4, train=True)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (["was"], "'was' is not among the 3 training labels. Did you mean 'war'?"),
        (["war", "war"], "example 4, field 'label': the label 'war' is listed twice"),
        ([None], "the label is empty"),
    ],
)
def test_labels_that_cannot_be_used_are_named(wordpiece, label, message):
    with pytest.raises(DataError) as caught:
        task_for(wordpiece).encode({"text": "a film", "label": label}, 4, train=True)
    assert message in str(caught.value)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_summed_loss_over_weight_is_the_mean_of_torch(wordpiece, smoothing):
    task = task_for(wordpiece, label_smoothing=smoothing)
    examples = [{"text": "x", "label": label} for label in (["war"], [], ["sea", "war"])]
    batch = pack([task.encode(example, 1, train=True) for example in examples])
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    wanted = torch.tensor([[0.0, 0, 1], [0, 0, 0], [0, 1, 1]])
    expected = F.binary_cross_entropy_with_logits(logits, wanted * (1 - smoothing) + smoothing / 2)
    total = float(task.loss(lambda h: h, logits, batch))
    assert total / task.weight(batch) == pytest.approx(float(expected), rel=1e-5)


def test_scores_and_table(wordpiece):
    examples = [{"text": "x", "label": label} for label in (["war"], [], ["sea", "war"])]
    chances = [[0.1, 0.2, 0.9], [0.1, 0.1, 0.5], [0.2, 0.8, 0.4]]
    result = task_for(wordpiece).evaluate(examples, [torch.tensor(each) for each in chances])
    expected, found = [[0, 0, 1], [0, 0, 0], [0, 1, 1]], [[0, 0, 1], [0, 0, 1], [0, 1, 0]]
    assert result.metrics["micro_f1"] == pytest.approx(f1_score(expected, found, average="micro"))
    assert result.metrics["exact_match"] == pytest.approx(1 / 3)
    assert [record["label"] for record in result.table] == list(LABELS)
    assert result.table[2]["support"] == 2.0
    careful = task_for(wordpiece, threshold=0.85).evaluate(
        examples, [torch.tensor(c) for c in chances]
    )
    assert careful.metrics["exact_match"] == pytest.approx(2 / 3)
    with pytest.raises(DataError, match="no examples"):
        task_for(wordpiece).evaluate([], [])


def test_prediction_lists_what_is_likely_enough(wordpiece):
    task = task_for(wordpiece)
    encoded = task.encode({"text": "x"}, 1, train=False)
    logits = torch.tensor([[1.0, -2.0, 3.0], [-1.0, -1.0, -1.0]])
    first, none = (
        task.prediction({}, d) for d in task.decode(lambda h: h, logits, pack([encoded] * 2))
    )
    assert first["labels"] == ["war", "drama"]
    assert first["scores"]["drama"] == pytest.approx(float(torch.sigmoid(torch.tensor(1.0))))
    assert none["labels"] == []


def test_class_weights_are_rejected(wordpiece):
    with pytest.raises(RecipeError, match="class_weights and multi_label exclude each other"):
        task_for(wordpiece, class_weights="balanced")


def test_a_label_for_what_no_label_fits_is_rejected(wordpiece):
    with pytest.raises(RecipeError, match="out_of_scope and multi_label exclude each other"):
        task_for(wordpiece, out_of_scope="sea")
