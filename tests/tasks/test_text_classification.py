"""Text classification."""

import pytest
import torch
from sklearn.metrics import f1_score
from torch.nn import functional as F

from adapterhub.data.packing import pack
from adapterhub.errors import DataError, RecipeError
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.text_classification import TextClassification

LABELS = ("bad", "good", "mixed")


def task_for(tokenizer, pool="first", counts=None, **options):
    return TextClassification(
        tokenizer, LABELS, TaskOptions(**options), pool=pool, label_counts=counts
    )


def test_encoder_reads_the_class_token_and_a_cut_keeps_the_closing_token(wordpiece):
    task = task_for(wordpiece, max_length=6)
    encoded = task.encode({"text": "the old harbour of Lindos", "label": "good"}, 3, train=True)
    assert (encoded.number, tuple(encoded.select), tuple(encoded.targets)) == (3, (0,), (1,))
    assert len(encoded) == 6
    assert encoded.input_ids[0] == wordpiece.cls_token_id
    assert encoded.input_ids[-1] == wordpiece.sep_token_id


def test_decoder_reads_the_last_token(byte_bpe):
    encoded = task_for(byte_bpe, pool="last").encode(
        {"text": "a moving film", "label": 2}, 1, train=True
    )
    assert tuple(encoded.select) == (len(encoded) - 1,)
    assert tuple(encoded.targets) == (2,)


def test_pairs_have_segments_in_an_encoder_and_lines_in_a_decoder(wordpiece, byte_bpe):
    example = {"text": "the harbour", "text_pair": "the castle"}
    segments = task_for(wordpiece).encode(example, 1, train=False).segment_ids
    assert set(segments) == {0, 1}
    assert list(segments) == sorted(segments)
    ids = task_for(byte_bpe, pool="last").encode(example, 1, train=False).input_ids
    assert byte_bpe.decode(ids) == "the harbour\nthe castle"


def test_an_example_without_label_can_be_predicted_but_not_learned(wordpiece):
    task = task_for(wordpiece)
    assert tuple(task.encode({"text": "a film"}, 1, train=False).targets) == ()
    with pytest.raises(DataError, match="example 4, field 'label': the field is missing"):
        task.encode({"text": "a film"}, 4, train=True)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"label": "good", "txt": "x"}, "example 9, field 'text': the field is missing. Did you"),
        ({"label": "good", "text": None}, "example 9, field 'text': the field is missing"),
        ({"label": "good", "text": "  "}, "example 9, field 'text': the text is empty"),
        ({"label": "good", "text": 5}, "example 9, field 'text': the value must be text, not int"),
        ({"label": "god", "text": "x"}, "'god' is not among the 3 training labels. Did you mean"),
        ({"label": 7, "text": "x"}, "example 9, field 'label': the label '7' is not among"),
        ({"label": 0.5, "text": "x"}, "a name or a whole number, not 0.5"),
    ],
)
def test_examples_that_cannot_be_used_are_named(wordpiece, example, message):
    with pytest.raises(DataError) as caught:
        task_for(wordpiece).encode(example, 9, train=True)
    assert message in str(caught.value)


def test_numbers_are_names_where_labels_are_written_as_numbers(wordpiece):
    task = TextClassification(wordpiece, ["2", "1"], TaskOptions(), pool="first")
    encode = lambda label: task.encode({"text": "x", "label": label}, 1, train=True).targets  # noqa: E731
    assert [tuple(encode(label)) for label in (1, "1", 2.0)] == [(1,), (1,), (0,)]
    with pytest.raises(DataError, match="'0' is not among"):
        encode(0)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, {"good": 3.0, "mixed": 0.5}, "balanced"])
def test_summed_loss_over_weight_is_the_mean_of_torch(wordpiece, smoothing, weights):
    counts = {"bad": 2, "good": 5, "mixed": 1}
    task = task_for(wordpiece, counts=counts, label_smoothing=smoothing, class_weights=weights)
    labels = ["good", "bad", "good", "mixed", "good"]
    texts = ["the film", "old", "a harbour of Lindos", "try again", "works"]
    examples = zip(texts, labels, strict=True)
    examples = [task.encode({"text": t, "label": n}, 1, train=True) for t, n in examples]
    torch.manual_seed(0)
    hidden, matrix = torch.randn(5, 4), torch.randn(4, 3)
    total = divisor = 0.0
    for part in (slice(0, 2), slice(2, 5)):
        batch = pack(examples[part])
        total += float(task.loss(lambda h: h @ matrix, hidden[part], batch))
        divisor += task.weight(batch)
    vector = None if weights is None else torch.tensor([1.0, 3.0, 0.5])
    if weights == "balanced":
        vector = torch.tensor([8 / 6, 8 / 15, 8 / 3])
    expected = F.cross_entropy(
        hidden @ matrix,
        torch.tensor([LABELS.index(name) for name in labels]),
        weight=vector,
        label_smoothing=smoothing,
    )
    assert total / divisor == pytest.approx(float(expected), rel=1e-5)
    by_hand = {None: 5.0, "balanced": 3 * 8 / 15 + 8 / 6 + 8 / 3}
    assert divisor == pytest.approx(by_hand.get(str(weights) if weights else None, 10.5))


@pytest.mark.parametrize(
    ("weights", "counts", "message"),
    [
        (
            {"goood": 2.0},
            None,
            "task.class_weights: there is no label 'goood'. Did you mean 'good'",
        ),
        ("balanced", None, "need the label counts of the training examples"),
        ("balanced", {"bad": 1, "good": 1}, "'mixed' has no training example"),
    ],
)
def test_class_weights_that_do_not_fit(wordpiece, weights, counts, message):
    with pytest.raises(RecipeError) as caught:
        task_for(wordpiece, counts=counts, class_weights=weights)
    assert message in str(caught.value)


def test_scores_and_table(wordpiece):
    task = task_for(wordpiece)
    expected, found = [0, 0, 1, 1, 1], [0, 1, 1, 1, 0]
    decoded = list(torch.eye(3)[found])
    examples = [{"text": "x", "label": LABELS[index]} for index in expected]
    result = task.evaluate(examples, decoded)
    assert result.metrics["accuracy"] == pytest.approx(0.6)
    assert result.metrics["macro_f1"] == pytest.approx(f1_score(expected, found, average="macro"))
    assert [record["label"] for record in result.table] == list(LABELS)
    assert result.table[1] == {
        "label": "good",
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(2 / 3),
        "support": 3.0,
    }
    with pytest.raises(DataError, match="no examples"):
        task.evaluate([], [])


def test_texts_out_of_scope_are_distinguished_from_the_others(wordpiece):
    examples = [{"text": "x", "label": label} for label in ("bad", "bad", "good", "mixed", "mixed")]
    found = [torch.eye(3)[index] for index in (0, 2, 1, 2, 0)]
    metrics = task_for(wordpiece, out_of_scope="mixed").evaluate(examples, found).metrics
    assert metrics["in_scope_accuracy"] == pytest.approx(2 / 3)
    assert metrics["out_of_scope_recall"] == pytest.approx(1 / 2)
    assert metrics["accuracy"] == pytest.approx(3 / 5)
    # examples of one kind alone
    for few, expected in ((slice(0, 3), (2 / 3, 0.0)), (slice(3, 5), (0.0, 1 / 2))):
        task = task_for(wordpiece, out_of_scope="mixed")
        metrics = task.evaluate(examples[few], found[few]).metrics
        assert metrics["in_scope_accuracy"] == pytest.approx(expected[0])
        assert metrics["out_of_scope_recall"] == pytest.approx(expected[1])
    assert "in_scope_accuracy" not in task_for(wordpiece).evaluate(examples, found).metrics
    with pytest.raises(RecipeError, match=r"no training example has the label 'mixd'.*'mixed'"):
        task_for(wordpiece, out_of_scope="mixd")


def test_prediction_gives_labels_with_scores(wordpiece):
    task = task_for(wordpiece)
    examples = [task.encode({"text": t}, 1, train=False) for t in ("old film", "works")]
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    decoded = task.decode(lambda h: h, logits, pack(examples))
    first, second = (task.prediction({}, each) for each in decoded)
    assert (first["label"], second["label"]) == ("good", "bad")
    assert first["score"] == first["scores"]["good"] == pytest.approx(0.6652, abs=1e-4)
    assert sum(first["scores"].values()) == pytest.approx(1.0)
    assert list(first["scores"]) == list(LABELS)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (["a"], {}, "needs two labels, the training examples have 1"),
        (["a", "b", "a"], {}, "the label 'a' is listed twice"),
        (["a", "b"], {"max_length": 3}, "task.max_length: 3 tokens leave no room"),
        (["a", "b"], {"max_length": 600}, "Use 512 or less"),
    ],
)
def test_settings_that_do_not_fit(wordpiece, labels, options, message):
    with pytest.raises(RecipeError) as caught:
        TextClassification(wordpiece, labels, TaskOptions(**options), pool="first")
    assert message in str(caught.value)
